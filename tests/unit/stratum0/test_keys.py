"""Whitelists signed here and elsewhere, certificates replaced."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from cdn.clock import ManualClock
from cdn.errors import (
    DocumentError,
    ExpiredError,
    NameMismatchError,
    RepositoryError,
    RollbackError,
    SignatureError,
    UntrustedCertificateError,
)
from cdn.keyfiles import write_private_key, write_public_key
from cdn.objects import MANIFEST_PATH, WHITELIST_PATH
from cdn.telemetry import FaultInjected, faults_armed
from cdn.trust import Breadcrumb, TrustedRepository, certificate_named_by
from stratum0 import keys
from stratum0.config import Home
from stratum0.repository import Repository
from tests.fakes.publishers import NAME, TODAY, new_publisher
from tests.fakes.signer import key

DAY = 86_400


@pytest.fixture
def clock():
    return ManualClock(TODAY)


@pytest.fixture
def repository(tmp_path, clock):
    return new_publisher(tmp_path / "publisher", clock)


@pytest.fixture
def master_elsewhere(repository, tmp_path):
    """A repository whose master key lies in another place."""
    elsewhere = tmp_path / "usb" / "masterkey"
    elsewhere.parent.mkdir()
    shutil.move(repository.keys.master_key_file, elsewhere)
    return elsewhere


def fingerprints(repository):
    whitelist = repository.whitelist()
    return [entry.fingerprint for entry in whitelist.entries]


def fingerprint(repository):
    return repository.keys.certificate().fingerprint(repository.settings.algorithm)


def as_a_client_sees_it(repository, breadcrumb=None):
    """Follows the chain of trust as a client does, from the public key alone."""
    store = repository.store
    trusted = TrustedRepository(NAME, [repository.keys.public_key()], now=repository.clock.now(), breadcrumb=breadcrumb)
    trusted.load_whitelist(store.read(WHITELIST_PATH, size_max=1 << 20))
    data = store.read(MANIFEST_PATH, size_max=1 << 20)
    trusted.load_certificate(store.read(certificate_named_by(data).path, size_max=1 << 20))
    return trusted.load_manifest(data)


# ------------------------------------------------------------------------------------------------------- the whitelist


def test_resigning_moves_the_expiry_and_keeps_the_certificates(repository, clock):
    before = repository.whitelist()
    clock.advance(5 * DAY)
    after = keys.resign(repository)
    assert after.expires - before.expires == pytest.approx(5 * DAY, abs=2)
    assert [entry.fingerprint for entry in after.entries] == [entry.fingerprint for entry in before.entries]
    assert as_a_client_sees_it(repository).revision == 1
    assert keys.resign(repository, days=3).expires - int(clock.now()) == 3 * DAY


def test_an_expired_whitelist_can_be_signed_anew(repository, clock):
    clock.advance(40 * DAY)
    with pytest.raises(ExpiredError):
        as_a_client_sees_it(repository)
    keys.resign(repository)
    assert as_a_client_sees_it(repository).revision == 1


def test_a_whitelist_never_looks_older_than_the_one_before(repository, clock, tmp_path):
    clock.advance(10 * DAY)
    newest = keys.resign(repository)
    slow = Repository.peek(NAME, Home(tmp_path / "publisher"), clock=ManualClock(clock.now() - 5 * DAY))
    assert keys.resign(slow).created_at >= newest.created_at


def test_without_the_master_key_nothing_is_signed(repository, master_elsewhere):
    before = repository.store.read(WHITELIST_PATH, size_max=1 << 20)
    with pytest.raises(RepositoryError, match="sign elsewhere"):
        keys.resign(repository)
    assert repository.store.read(WHITELIST_PATH, size_max=1 << 20) == before


def test_a_master_key_of_another_repository_signs_nothing(repository):
    write_private_key(repository.keys.master_key_file, key("another master"), replace=True)
    with pytest.raises(Exception, match="does not belong"):
        keys.resign(repository)


# ------------------------------------------------------------------------------------------------------------ elsewhere


def test_a_whitelist_signed_elsewhere_comes_into_force(repository, master_elsewhere, tmp_path, clock):
    clock.advance(5 * DAY)
    request = tmp_path / "usb" / "request"
    exported = keys.export_request(repository, request, days=60)
    signed = keys.sign_request(request, master_elsewhere)
    imported = keys.import_signed(repository, request)
    assert exported == signed == imported == repository.whitelist()
    assert imported.expires - int(clock.now()) == 60 * DAY
    assert as_a_client_sees_it(repository).revision == 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
def test_openssl_can_sign_it_too(repository, master_elsewhere, tmp_path):
    request = tmp_path / "request"
    keys.export_request(repository, request)
    command = [
        "openssl",
        "pkeyutl",
        "-sign",
        "-inkey",
        master_elsewhere,
        "-in",
        f"{request}.hash",
        "-out",
        f"{request}.sig",
    ]
    subprocess.run(command, check=True)
    keys.import_signed(repository, request, signature=tmp_path / "request.sig")
    assert as_a_client_sees_it(repository).revision == 1


def test_an_unsigned_whitelist_is_not_taken(repository, tmp_path):
    keys.export_request(repository, tmp_path / "request")
    with pytest.raises(RepositoryError, match="not signed yet"):
        keys.import_signed(repository, tmp_path / "request")


def test_a_signature_by_another_key_is_not_taken(repository, tmp_path):
    before = repository.whitelist()
    write_private_key(tmp_path / "thief", key("thief"))
    keys.export_request(repository, tmp_path / "request")
    keys.sign_request(tmp_path / "request", tmp_path / "thief")
    with pytest.raises(SignatureError):
        keys.import_signed(repository, tmp_path / "request")
    assert repository.whitelist() == before


@pytest.mark.parametrize("offset", [0, 20, 60])
def test_a_request_changed_on_its_way_is_not_signed(repository, tmp_path, offset):
    request = tmp_path / "request"
    keys.export_request(repository, request)
    data = bytearray(request.read_bytes())
    data[offset] ^= 1
    request.write_bytes(data)
    with pytest.raises(DocumentError):
        keys.sign_request(request, repository.keys.master_key_file)


@pytest.mark.parametrize("data", [b"", b"--\n", b"nothing", b"20260101000000\n--\nzz\n", b"x" * (2 << 20)])
def test_a_file_that_is_no_whitelist_is_refused(repository, tmp_path, data):
    (tmp_path / "request").write_bytes(data)
    with pytest.raises((DocumentError, RepositoryError)):
        keys.import_signed(repository, tmp_path / "request")
    with pytest.raises(DocumentError, match=f"^{tmp_path}/request is damaged: "):
        keys.sign_request(tmp_path / "request", repository.keys.master_key_file)


def test_a_whitelist_of_another_repository_is_not_taken(repository, tmp_path):
    from cdn.whitelist import Whitelist
    from stratum0.signer import sign_whitelist

    master, algorithm, now = repository.keys.master_key(), repository.settings.algorithm, repository.clock.now()
    other = Whitelist.valid_for("other.example.org", [fingerprint(repository)], now=now)
    (tmp_path / "other").write_bytes(sign_whitelist(other, master, algorithm))
    with pytest.raises(NameMismatchError):
        keys.import_signed(repository, tmp_path / "other")
    stranger = Whitelist.valid_for(NAME, [], now=now)
    (tmp_path / "stranger").write_bytes(sign_whitelist(stranger, master, algorithm))
    with pytest.raises(UntrustedCertificateError, match="none of its certificates"):
        keys.import_signed(repository, tmp_path / "stranger")


def test_an_old_whitelist_cannot_be_brought_back(repository, tmp_path, clock):
    keys.export_request(repository, tmp_path / "old", days=3)
    keys.sign_request(tmp_path / "old", repository.keys.master_key_file)
    clock.advance(DAY)
    keys.resign(repository)
    with pytest.raises(RollbackError, match="older than the one in force"):
        keys.import_signed(repository, tmp_path / "old")
    clock.advance(5 * DAY)
    with pytest.raises(ExpiredError, match="expired already"):
        keys.import_signed(repository, tmp_path / "old")


# ----------------------------------------------------------------------------------------------------------- rotation


def test_a_rotated_certificate_signs_and_the_old_one_stays_listed_for_a_week(repository, clock):
    old, head = fingerprint(repository), repository.head()
    rotation = keys.rotate(repository)
    new = fingerprint(repository)
    assert rotation.is_complete
    assert fingerprints(repository) == [new, old]
    after = as_a_client_sees_it(repository, Breadcrumb.of(head.manifest))
    assert (after.root_catalog, after.revision) == (head.root, head.revision)
    assert after.certificate != head.manifest.certificate
    with repository.transaction() as transaction:
        transaction.put_file("/a", b"a")
    assert as_a_client_sees_it(repository).certificate == after.certificate
    clock.advance(7 * DAY)
    keys.resign(repository)
    assert fingerprints(repository) == [new, old]
    clock.advance(DAY)
    keys.resign(repository)
    assert fingerprints(repository) == [new]


def test_a_leaked_certificate_is_revoked_at_once(repository):
    keys.rotate(repository)
    keys.rotate(repository, revoke_old=True)
    assert fingerprints(repository) == [fingerprint(repository)]
    assert as_a_client_sees_it(repository).revision == 1


def test_without_the_master_key_a_rotation_waits_for_its_whitelist(repository, master_elsewhere, tmp_path):
    before, old = repository.head().manifest.certificate, fingerprint(repository)
    rotation = keys.rotate(repository)
    assert not rotation.is_complete
    assert keys.rotate(repository).certificate == rotation.certificate
    assert repository.head().manifest.certificate == before
    with repository.transaction() as transaction:
        transaction.put_file("/a", b"a")
    request = tmp_path / "request"
    keys.export_request(repository, request)
    keys.sign_request(request, master_elsewhere)
    keys.import_signed(repository, request)
    assert fingerprint(repository) == rotation.certificate.fingerprint(repository.settings.algorithm)
    assert fingerprints(repository) == [fingerprint(repository), old]
    assert as_a_client_sees_it(repository).certificate != before
    assert repository.keys.next_signer() is None


@pytest.mark.parametrize("point", ["rotate.pair.prepared", "rotate.whitelist.published", "rotate.manifest.published"])
def test_a_rotation_interrupted_anywhere_leaves_what_clients_accept_and_can_be_repeated(repository, tmp_path, point):
    with faults_armed(f"{point}:raise"), pytest.raises(FaultInjected):
        keys.rotate(repository)
    assert as_a_client_sees_it(repository).revision == 1
    again = Repository.open(NAME, Home(tmp_path / "publisher"), clock=repository.clock)
    assert again.head().revision == 1
    with again.transaction() as transaction:
        transaction.put_file("/a", b"a")
    assert as_a_client_sees_it(again).revision == 2
    keys.rotate(again)
    assert as_a_client_sees_it(again).revision == 2


def test_files_changed_by_half_are_changed_whole_when_next_needed(repository, tmp_path):
    from stratum0.signer import new_signer

    following = new_signer(NAME, now=repository.clock.now())
    repository.keys.write_next(following)
    repository.keys.next_key_file.replace(repository.keys.key_file)
    assert repository.keys.signer().certificate == following.certificate
    assert not repository.keys.next_certificate_file.exists()


def test_a_repository_made_with_an_offline_key_is_opened_by_its_first_whitelist(tmp_path):
    from stratum0.creation import MasterKeys, create

    write_public_key(tmp_path / "pub", key("master").public_key())
    write_private_key(tmp_path / "masterkey", key("master"))
    repository = create(NAME, Home(tmp_path / "root"), master=MasterKeys.from_files(public=tmp_path / "pub"))
    with pytest.raises(RepositoryError, match="has no whitelist yet"):
        repository.transaction()
    keys.export_request(repository, tmp_path / "request")
    keys.sign_request(tmp_path / "request", tmp_path / "masterkey")
    keys.import_signed(repository, tmp_path / "request")
    with repository.transaction() as transaction:
        transaction.put_file("/a", b"a")
    assert as_a_client_sees_it(repository).revision == 2
