"""Time only goes forward."""

import pytest

from cdn.errors import DocumentError
from cdn.manifest import Manifest
from edge.documents.revisions import Order, RevisionWatch, read_manifest
from tests.fakes.edge import REPOSITORY, manifest_bytes

NOW = 1_700_000_000.0


def manifest(revision: int, timestamp: int = 1_600_000_000) -> Manifest:
    return read_manifest(manifest_bytes(revision, timestamp), REPOSITORY, NOW)


def test_revisions_grow_and_the_same_revision_signed_later_is_newer():
    watch = RevisionWatch()
    assert watch.note("k", manifest(5))
    assert not watch.note("k", manifest(5))
    assert watch.compare("k", manifest(4)) is Order.OLDER
    assert watch.compare("k", manifest(5)) is Order.SAME
    assert watch.compare("k", manifest(5, 1_600_000_001)) is Order.NEWER
    assert watch.compare("k", manifest(5, 1_599_999_999)) is Order.OLDER
    assert watch.compare("k", manifest(6, 1)) is Order.NEWER
    assert watch.compare("other", manifest(1)) is Order.NEWER
    assert watch.newest("k") == 5


def test_taking_an_older_manifest_forgets_nothing():
    watch = RevisionWatch()
    watch.note("k", manifest(5))
    assert not watch.note("k", manifest(4))
    assert watch.newest("k") == 5


@pytest.mark.parametrize(
    "data", [b"", b"C" * 70000, manifest_bytes(1, fqrn="x.example.org"), manifest_bytes(1, int(NOW) + 90_000)]
)
def test_what_is_no_manifest_of_this_repository_is_refused(data):
    with pytest.raises(DocumentError):
        read_manifest(data, REPOSITORY, NOW)
