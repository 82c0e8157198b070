"""The whole chain of trust over documents that CernVM-FS wrote and signed, and every byte of them changed once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from cdn import keyfiles
from cdn.errors import DocumentError, TrustError
from cdn.hashing import digest_of
from cdn.history import TRUNK, History
from cdn.manifest import Manifest
from cdn.metainfo import Metainfo
from cdn.objects import MANIFEST_PATH, REFLOG_PATH, WHITELIST_PATH, Kind
from cdn.reflog import Reflog, checksum
from cdn.signing import SignedText
from cdn.trust import TrustedRepository, certificate_named_by
from cdn.whitelist import Whitelist

pytestmark = pytest.mark.vectors
NOW = 1_800_000_000


@dataclass(frozen=True)
class Vector:
    folder: Path
    fqrn: str

    @property
    def manifest(self) -> bytes:
        return (self.folder / "repo" / MANIFEST_PATH).read_bytes()

    @property
    def whitelist(self) -> bytes:
        return (self.folder / "repo" / WHITELIST_PATH).read_bytes()

    @property
    def certificate(self) -> bytes:
        return self.stored(certificate_named_by(self.manifest).path)

    def stored(self, path: str) -> bytes:
        return (self.folder / "repo" / path).read_bytes()

    def trusted(self) -> TrustedRepository:
        key = keyfiles.read_public_key(self.folder / f"{self.fqrn}.pub")
        return TrustedRepository(self.fqrn, [key], now=NOW)


@pytest.fixture(params=[("sha1", "test.local.org"), ("shake128", "shake.local.org")], ids=["sha1", "shake128"])
def vector(request: pytest.FixtureRequest, vectors: Path) -> Vector:
    folder, fqrn = request.param
    return Vector(vectors / folder, fqrn)


def test_the_chain_from_the_master_key_to_the_manifest_holds(vector: Vector) -> None:
    trusted = vector.trusted()
    trusted.load_whitelist(vector.whitelist)
    trusted.load_certificate(vector.certificate)
    manifest = trusted.load_manifest(vector.manifest)
    assert (manifest.fqrn, manifest.revision) == (vector.fqrn, 6)
    for name in manifest.objects:
        assert digest_of(name.digest.algorithm, vector.stored(name.path)) == name.digest


def test_the_documents_are_written_as_they_were_read(vector: Vector) -> None:
    manifest = SignedText.parse("manifest", vector.manifest)
    assert manifest.to_bytes() == vector.manifest
    assert Manifest.parse(manifest.body).to_body() == manifest.body
    whitelist = SignedText.parse("whitelist", vector.whitelist)
    assert whitelist.to_bytes() == vector.whitelist
    assert Whitelist.parse(whitelist.body).to_body() == whitelist.body


def test_the_other_repositorys_documents_are_refused(vector: Vector, vectors: Path) -> None:
    other = Vector(vectors / "shake128", "shake.local.org")
    if other == vector:
        other = Vector(vectors / "sha1", "test.local.org")
    with pytest.raises(TrustError):
        vector.trusted().load_whitelist(other.whitelist)
    trusted = vector.trusted()
    trusted.load_whitelist(vector.whitelist)
    with pytest.raises(TrustError):
        trusted.load_certificate(other.certificate)


def test_no_bit_of_the_whitelist_can_be_flipped(vector: Vector) -> None:
    trusted = vector.trusted()
    for data in flipped(vector.whitelist):
        with pytest.raises((DocumentError, TrustError)):
            trusted.load_whitelist(data)


def test_no_bit_of_the_manifest_can_be_flipped(vector: Vector) -> None:
    trusted = vector.trusted()
    trusted.load_whitelist(vector.whitelist)
    trusted.load_certificate(vector.certificate)
    for data in flipped(vector.manifest):
        with pytest.raises((DocumentError, TrustError)):
            trusted.load_manifest(data)


def test_no_bit_of_the_stored_certificate_can_be_flipped(vector: Vector) -> None:
    trusted = vector.trusted()
    trusted.load_whitelist(vector.whitelist)
    for data in flipped(vector.certificate):
        with pytest.raises((DocumentError, TrustError)):
            trusted.load_certificate(data)
            trusted.load_manifest(vector.manifest)


def test_no_document_may_be_cut_short(vector: Vector) -> None:
    trusted = vector.trusted()
    for length in range(len(vector.whitelist)):
        with pytest.raises((DocumentError, TrustError)):
            trusted.load_whitelist(vector.whitelist[:length])
    with pytest.raises((DocumentError, TrustError)):
        trusted.load_whitelist(vector.whitelist + b"\0")


def flipped(data: bytes) -> list[bytes]:
    """One bit changed in each byte, another one from byte to byte."""
    changed = []
    for i in range(len(data)):
        copy = bytearray(data)
        copy[i] ^= 1 << (i % 8)
        changed.append(bytes(copy))
    return changed


def test_the_history_is_read_back_through_all_its_predecessors_and_rewritten(vector: Vector, tmp_path: Path) -> None:
    digest = Manifest.parse(SignedText.parse("manifest", vector.manifest).body).history
    seen = 0
    while digest is not None:
        stored = vector.stored(f"data/{digest.text[:2]}/{digest.text[2:]}H")
        history = History.from_object(stored)
        assert history.fqrn == vector.fqrn
        history.write(tmp_path / f"{seen}")
        assert History.read(tmp_path / f"{seen}") == history
        if seen == 0:
            assert history.tag(TRUNK).revision == 6
            assert {"v1", "v2", "v3", "v4", "v5"} <= {tag.name for tag in history.tags}
        digest = history.previous
        seen += 1
    assert seen >= 6


def test_the_reflog_lists_what_the_manifest_names_and_has_the_digest_it_says(vector: Vector, tmp_path: Path) -> None:
    path = vector.folder / "repo" / REFLOG_PATH
    manifest = Manifest.parse(SignedText.parse("manifest", vector.manifest).body)
    reflog = Reflog.read(path)
    assert reflog.fqrn == vector.fqrn
    assert all(name in reflog for name in manifest.objects)
    assert len(reflog.of_kind(Kind.CATALOG)) >= manifest.revision
    assert manifest.reflog is not None
    assert checksum(path, manifest.reflog.algorithm) == manifest.reflog
    reflog.write(tmp_path / "again")
    assert Reflog.read(tmp_path / "again") == reflog


def test_the_metainfo_is_read(vector: Vector) -> None:
    name = Manifest.parse(SignedText.parse("manifest", vector.manifest).body).objects[-1]
    assert Metainfo.from_object(vector.stored(name.path)).administrator == "Your Name"
