"""Opening a repository and believing what it serves."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest

from cdn.errors import (
    CdnError,
    ConfigError,
    HashMismatchError,
    NameMismatchError,
    RepositoryError,
    RepositoryMissingError,
    SignatureError,
    UntrustedCertificateError,
)
from cdn.objects import MANIFEST_PATH, Kind, ObjectName
from cdn.signing import Scheme, SignedText
from stratum0.config import Home
from stratum0.repository import Repository
from stratum0.signer import new_signer
from tests.fakes.publishers import NAME, new_publisher
from tests.fakes.signer import key


def manifest_file(repository):
    return repository.settings.storage / MANIFEST_PATH


def test_an_unknown_name_gets_the_nearest_one_suggested(tmp_path):
    new_publisher(tmp_path)
    with pytest.raises(RepositoryMissingError, match=f"did you mean {NAME}"):
        Repository.open("sw.exmaple.org", Home(tmp_path))
    with pytest.raises(RepositoryMissingError, match="cdn repo list"):
        Repository.open("zzz", Home(tmp_path))
    with pytest.raises(RepositoryMissingError, match="cdn repo create"):
        Repository.open("first.example.org", Home(tmp_path / "empty"))


def test_a_name_that_climbs_out_of_the_folder_is_no_repository(tmp_path):
    new_publisher(tmp_path)
    with pytest.raises(RepositoryMissingError):
        Repository.open(f"../repositories/{NAME}", Home(tmp_path))


def test_the_head_is_read_once_for_each_manifest(tmp_path):
    repository = new_publisher(tmp_path)
    head = repository.head()
    assert repository.head() is head
    with repository.transaction() as transaction:
        transaction.put_file("/a", b"a")
    assert repository.head() is not head
    assert repository.head().revision == 2


@pytest.mark.parametrize("offset", [3, 120, -5])
def test_a_changed_manifest_is_not_believed(tmp_path, offset):
    repository = new_publisher(tmp_path)
    data = bytearray(manifest_file(repository).read_bytes())
    data[offset] ^= 1
    manifest_file(repository).write_bytes(data)
    with pytest.raises(CdnError):
        repository.head()


def test_a_manifest_signed_with_another_key_is_not_believed(tmp_path):
    repository = new_publisher(tmp_path)
    body = repository.head().manifest.to_body()
    forged = SignedText.of("manifest", body, repository.settings.algorithm).signed(key("thief"), Scheme.MANIFEST)
    manifest_file(repository).write_bytes(forged.to_bytes())
    with pytest.raises(SignatureError):
        Repository.peek(NAME, Home(tmp_path)).head()


def test_a_manifest_of_another_repository_is_not_believed(tmp_path):
    repository = new_publisher(tmp_path)
    manifest = replace(repository.head().manifest, fqrn="other.example.org")
    manifest_file(repository).write_bytes(repository.signer.sign(manifest.to_body(), repository.settings.algorithm))
    with pytest.raises(NameMismatchError, match=r"other\.example\.org"):
        repository.head()


def test_a_certificate_that_nobody_vouches_for_is_not_believed(tmp_path):
    from stratum0.documents import republish

    repository = new_publisher(tmp_path)
    stranger = new_signer(NAME, now=repository.clock.now())
    with repository.publishing():
        republish(repository, signer=stranger)
    with pytest.raises(UntrustedCertificateError, match="neither among its keys nor on its whitelist"):
        repository.head()


def test_a_damaged_history_is_noticed(tmp_path):
    repository = new_publisher(tmp_path)
    history = repository.head().manifest.history
    assert history is not None
    (repository.settings.storage / ObjectName(history, Kind.HISTORY).path).write_bytes(b"junk")
    with pytest.raises(HashMismatchError):
        Repository.peek(NAME, Home(tmp_path)).head()


def test_a_storage_that_is_gone_is_named(tmp_path):
    repository = new_publisher(tmp_path)
    shutil.rmtree(repository.settings.storage)
    with pytest.raises(RepositoryError, match="was the storage folder moved"):
        repository.head()


def test_settings_of_another_repository_are_refused(tmp_path):
    repository = new_publisher(tmp_path)
    repository.folder.rename(repository.folder.with_name("other.example.org"))
    with pytest.raises(NameMismatchError):
        Repository.peek("other.example.org", Home(tmp_path))


def test_a_missing_key_is_named_with_what_to_do(tmp_path):
    repository = new_publisher(tmp_path)
    repository.keys.key_file.unlink()
    with pytest.raises(RepositoryError, match=r"sw\.example\.org\.key is missing"):
        _ = repository.signer
    repository.keys.master_key_file.unlink()
    with pytest.raises(RepositoryError, match="sign elsewhere"):
        repository.keys.master_key()


def test_a_key_that_others_may_read_is_refused(tmp_path):
    repository = new_publisher(tmp_path)
    repository.keys.key_file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        _ = repository.signer


def test_a_key_of_another_certificate_is_refused(tmp_path):
    from cdn.keyfiles import write_private_key

    repository = new_publisher(tmp_path)
    write_private_key(repository.keys.key_file, key("other"), replace=True)
    with pytest.raises(ConfigError, match="does not belong"):
        _ = repository.signer


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_repository_of_somebody_else_is_refused(tmp_path):
    repository = new_publisher(tmp_path)
    repository.folder.chmod(0)
    try:
        with pytest.raises(RepositoryError, match="somebody else"):
            Repository.peek(NAME, Home(tmp_path))
        repository.folder.chmod(0o500)
        with pytest.raises(RepositoryError, match="somebody else"):
            Repository.open(NAME, Home(tmp_path))
    finally:
        repository.folder.chmod(0o700)


def test_a_repository_is_a_context_manager_and_can_be_used_after(tmp_path):
    with new_publisher(tmp_path) as repository, repository.transaction() as transaction:
        transaction.put_file("/a", b"a")
    assert repository.head().revision == 2
