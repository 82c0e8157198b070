"""Root-level documents: stored, listed, signed."""

from __future__ import annotations

import os
import zlib
from dataclasses import replace

import pytest

from cdn.errors import DocumentError
from cdn.hashing import digest_of
from cdn.metainfo import Metainfo
from cdn.objects import REFLOG_PATH, Kind, ObjectName
from cdn.reflog import Reflog
from stratum0 import documents
from tests.fakes.publishers import new_publisher, published


def test_publishing_again_keeps_the_revision_and_moves_the_time_only_forward(tmp_path):
    repository = new_publisher(tmp_path)
    before = repository.head().manifest
    with repository.publishing():
        after = documents.republish(repository, metainfo=Metainfo(administrator="somebody"))
    assert (after.root_catalog, after.revision) == (before.root_catalog, before.revision)
    assert after.timestamp >= before.timestamp
    assert published(repository).manifest == after
    stored = repository.read_object(ObjectName(after.metainfo, Kind.METAINFO), size_max=1 << 20)
    assert Metainfo.from_object(stored).administrator == "somebody"


def test_certificate_and_metainfo_keep_their_names_when_a_stratum_1_deflates_them_again(tmp_path):
    """CernVM-FS replicas store these two anew, by zlib at its default level, under the name that the manifest says."""
    repository = new_publisher(tmp_path)
    description = "; ".join(f"software number {number}" for number in range(200))
    with repository.publishing():
        manifest = documents.republish(repository, metainfo=Metainfo(description=description))
    for name in (
        ObjectName(manifest.certificate, Kind.CERTIFICATE),
        ObjectName(manifest.metainfo, Kind.METAINFO),
    ):
        deflated_again = zlib.compress(zlib.decompress(repository.store.read(name.path, size_max=1 << 20)))
        assert digest_of(name.digest.algorithm, deflated_again) == name.digest


def test_a_lost_reflog_is_begun_anew(tmp_path):
    repository = new_publisher(tmp_path)
    (repository.settings.storage / REFLOG_PATH).unlink()
    assert documents.read_reflog(repository) is None
    with repository.publishing():
        documents.republish(repository)
    assert all(name in documents.read_reflog(repository) for name in published(repository).manifest.objects)


def test_a_reflog_of_another_repository_is_refused(tmp_path):
    repository = new_publisher(tmp_path)
    documents.write_reflog(repository, Reflog("other.example.org"))
    with pytest.raises(DocumentError, match="belongs to"):
        documents.read_reflog(repository)


def test_a_kept_checksum_that_is_none_is_a_damaged_document(tmp_path):
    repository = new_publisher(tmp_path)
    (repository.folder / documents.REFLOG_CHECKSUM_FILE).write_text("junk")
    with pytest.raises(DocumentError):
        documents.kept_reflog_checksum(repository)
    (repository.folder / documents.REFLOG_CHECKSUM_FILE).unlink()
    assert documents.kept_reflog_checksum(repository) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.root
def test_files_that_root_makes_go_to_the_owner(tmp_path):
    repository = new_publisher(tmp_path, owner="1000:1001")
    documents.chown_tree(repository.folder, (1000, 1001))
    with repository.publishing():
        documents.republish(repository)
    for path in (repository.settings.storage / ".cvmfspublished", repository.settings.storage / REFLOG_PATH):
        assert (path.stat().st_uid, path.stat().st_gid) == (1000, 1001)


def test_a_manifest_is_signed_with_what_it_names(tmp_path):
    repository = new_publisher(tmp_path)
    manifest = replace(repository.head().manifest, timestamp=repository.head().manifest.timestamp + 5)
    with repository.publishing():
        documents.publish_manifest(repository, manifest)
    assert repository.head().manifest == manifest
