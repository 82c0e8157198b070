"""Objects and where they lie."""

from __future__ import annotations

import pytest

from cdn.errors import DocumentError
from cdn.hashing import Algorithm, digest_of
from cdn.objects import Kind, ObjectName

HELLO_STORED = bytes.fromhex("789ccb48cdc9c9e70200084b021f")


@pytest.mark.parametrize(
    ("algorithm", "kind", "path"),
    [
        (Algorithm.SHA1, Kind.FILE, "data/57/98f7f4ca7585d850eea64610a1f73d8f8de7a3"),
        (Algorithm.RMD160, Kind.FILE, "data/92/e6eb3559a98184aefdab5f76286027aa83bfb0-rmd160"),
        (Algorithm.SHAKE128, Kind.FILE, "data/97/71532cda37f736dff5b6609ddae2f44c6407f2-shake128"),
        (Algorithm.SHAKE128, Kind.CHUNK, "data/97/71532cda37f736dff5b6609ddae2f44c6407f2-shake128P"),
        (Algorithm.SHA1, Kind.CATALOG, "data/57/98f7f4ca7585d850eea64610a1f73d8f8de7a3C"),
    ],
)
def test_objects_lie_where_the_specification_says(algorithm, kind, path) -> None:
    name = ObjectName(digest_of(algorithm, HELLO_STORED), kind)
    assert name.path == str(name) == path
    assert ObjectName.parse(path) == name


def test_the_alternative_name_has_no_folders() -> None:
    name = ObjectName(digest_of(Algorithm.SHA1, HELLO_STORED), Kind.CERTIFICATE)
    assert name.alternative_path == ".cvmfsalt-5798f7f4ca7585d850eea64610a1f73d8f8de7a3X"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "data/",
        "data/ab/",
        "data/ab",
        "data/57/98f7f4ca7585d850eea64610a1f73d8f8de7a",
        "data/57/98f7f4ca7585d850eea64610a1f73d8f8de7a3L",
        "data/57/98f7f4ca7585d850eea64610a1f73d8f8de7a3p",
        "data/57/98f7f4ca7585d850eea64610a1f73d8f8de7a3CC",
        "data/57/98f7f4ca7585d850eea64610a1f73d8f8de7a3\n",
        "data/57/98f7f4ca7585d850eea64610a1f73d8f8de7a3C-rmd160",
        "/data/57/98f7f4ca7585d850eea64610a1f73d8f8de7a3",
        "data/5798f7f4ca7585d850eea64610a1f73d8f8de7a3",
        "data/57/../98f7f4ca7585d850eea64610a1f73d8f8de7a3",
        "DATA/57/98f7f4ca7585d850eea64610a1f73d8f8de7a3",
        ".cvmfspublished",
    ],
)
def test_other_paths_are_no_objects(path) -> None:
    with pytest.raises(DocumentError):
        ObjectName.parse(path)
