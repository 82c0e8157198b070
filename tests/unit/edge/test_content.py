"""What names say."""

import pytest

from cdn.hashing import Algorithm
from edge.content import ContentKind, content_of, digest_of_key, object_key

HEX = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("path", "kind", "repository"),
    [
        (f"/cvmfs/sw.example.org/data/{HEX[:2]}/{HEX[2:]}", ContentKind.OBJECT, "sw.example.org"),
        (f"/cvmfs/sw.example.org/data/{HEX[:2]}/{HEX[2:]}-shake128C", ContentKind.OBJECT, "sw.example.org"),
        (f"/any/where/sw/data/{HEX[:2]}/{HEX[2:]}P", ContentKind.OBJECT, "sw"),
        (f"/cvmfs/sw/data/{HEX[:2]}/{HEX[2:]}Z", ContentKind.OTHER, HEX[:2]),
        (f"/cvmfs/sw/data/{HEX[:2]}/{HEX[2:].upper()}", ContentKind.OTHER, HEX[:2]),
        (f"/data/{HEX[:2]}/{HEX[2:]}", ContentKind.OTHER, HEX[:2]),
        ("/cvmfs/sw/data/txn/x", ContentKind.OTHER, "txn"),
        ("/cvmfs/sw/.cvmfspublished", ContentKind.MANIFEST, "sw"),
        ("/cvmfs/sw/.cvmfswhitelist", ContentKind.WHITELIST, "sw"),
        ("/cvmfs/sw/.cvmfswhitelist.pkcs7", ContentKind.WHITELIST, "sw"),
        ("/cvmfs/sw/.cvmfsreflog", ContentKind.DOCUMENT, "sw"),
        ("/cvmfs/info/v1/repositories.json", ContentKind.DOCUMENT, "v1"),
        ("/cvmfs/sw/api/v1.0/geo/x/a,b", ContentKind.GEO, "sw"),
        ("/cvmfs/sw/stats/stats.db", ContentKind.OTHER, "stats"),
    ],
)
def test_the_name_says_the_kind(path, kind, repository):
    content = content_of(path)
    assert (content.kind, content.repository) == (kind, repository)
    assert (content.digest is not None) == (kind is ContentKind.OBJECT)


def test_an_alternative_name_is_verified_but_short_lived():
    content = content_of(f"/cvmfs/sw/.cvmfsalt-{HEX}-rmd160X")
    assert content.kind is ContentKind.DOCUMENT
    assert content.digest is not None
    assert content.digest.algorithm is Algorithm.RMD160


def test_the_digest_is_found_again_from_the_key():
    path = f"/cvmfs/sw/data/{HEX[:2]}/{HEX[2:]}C"
    content = content_of(path)
    assert digest_of_key(object_key(content)) == content.digest
    assert digest_of_key(f"http://example.org{path}?x=1") == content.digest
    assert digest_of_key("/cvmfs/sw/.cvmfspublished") is None
