"""What a repository says about itself is shown where it can be read, and decides nothing."""

from __future__ import annotations

import pytest

from cdn.compression import compress
from cdn.errors import DocumentError
from cdn.metainfo import METAINFO_BYTES_MAX, Metainfo

FULL = Metainfo(
    administrator="A. Person",
    email="a@example.org",
    organisation="Example",
    description="Software, ü",
    url="https://example.org",
    recommended_stratum0="http://s0.example.org/cvmfs/sw.example.org",
    recommended_stratum1s=("http://s1.example.org/cvmfs/sw.example.org",),
    custom={"tier": 1},
)


def test_it_is_read_as_it_was_written() -> None:
    assert Metainfo.parse(FULL.to_bytes()) == FULL
    assert Metainfo.from_object(compress(FULL.to_bytes())) == FULL
    assert b'"recommended-stratum1s"' in FULL.to_bytes()


def test_values_of_unexpected_types_are_passed_over() -> None:
    text = b'{"administrator": 7, "email": null, "recommended-stratum1s": ["a", 1, ""], "custom": [], "other": {}}'
    assert Metainfo.parse(text) == Metainfo(recommended_stratum1s=("a",))
    assert Metainfo.parse(b'{"recommended-stratum1s": "a"}') == Metainfo()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"7",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b" " * (METAINFO_BYTES_MAX + 1),
    ],
)
def test_what_is_no_json_object_is_damaged(data: bytes) -> None:
    with pytest.raises(DocumentError, match="metainfo is damaged"):
        Metainfo.parse(data)
