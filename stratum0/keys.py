"""Looking after keys: signing whitelists anew, here or with a master key kept elsewhere, and replacing certificates.

A certificate that was replaced stays on the whitelist for some days, with the day it leaves as its comment, since
replicas and caches may still hold a manifest it signed. Each newly signed whitelist drops those whose day has passed.

Replacing goes through four steps, each of which may be the last one before a crash: the new pair is prepared beside the
one in use; a whitelist lists both; a manifest is signed with the new one; the files change places. `KeyFolder.signer`
finishes the last step where it was interrupted, and until then the old pair still signs what everybody accepts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cdn.certificate import Fingerprint
from cdn.errors import (
    DocumentError,
    ExpiredError,
    NameMismatchError,
    RepositoryError,
    RollbackError,
    UntrustedCertificateError,
)
from cdn.hashing import Digest
from cdn.keyfiles import read_private_key, write_file
from cdn.objects import WHITELIST_PATH
from cdn.signing import DOCUMENT_BYTES_MAX, SIGNATURE_BYTES_MAX, Scheme, SignedText, body_of
from cdn.telemetry import event, fault_point, step
from cdn.whitelist import Whitelist, WhitelistEntry
from stratum0.documents import republish
from stratum0.signer import Signer, new_signer, sign_whitelist

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cdn.certificate import Certificate
    from stratum0.repository import Repository

GRACE_DAYS: Final = 7
"""For so long a replaced certificate stays on the whitelist: replicas that are late still serve what it signed."""
_DAY_SECONDS: Final = 86_400
_IN_USE: Final = "in use since {day}"
_RETIRED: Final = re.compile(r"retired, listed until ([0-9]{4})-([0-9]{2})-([0-9]{2})", re.ASCII)
_PUBLIC_MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class Rotation:
    """What replacing a certificate came to.

    Args:
        certificate: the new one.
        is_complete: whether it is in use; otherwise a whitelist that lists it has to be signed elsewhere first.
    """

    certificate: Certificate
    is_complete: bool


# ----------------------------------------------------------------------------------------------------- whitelists, here


def resign(repository: Repository, *, days: int | None = None) -> Whitelist:
    """Signs a new whitelist with the master key kept here.

    Args:
        repository: whose.
        days: how long it is valid; as the settings say if omitted.

    Raises:
        RepositoryError: the master key is not here.
        CdnError: it could not be signed or stored.
    """
    master = repository.keys.master_key()
    with repository.publishing():
        whitelist = next_whitelist(repository, days=days)
        _publish(repository, whitelist, sign_whitelist(whitelist, master, repository.settings.algorithm))
    return whitelist


def next_whitelist(
    repository: Repository, *, days: int | None = None, joining: Certificate | None = None, revoke: bool = False
) -> Whitelist:
    """The whitelist that follows the one in force.

    Args:
        repository: whose.
        days: how long it is valid.
        joining: a certificate that is to replace the one in use.
        revoke: whether all others leave at once instead of after their days.
    """
    algorithm = repository.settings.algorithm
    now = repository.clock.now()
    current = repository.whitelist()
    former = () if current is None else current.entries
    used = joining or repository.keys.certificate()
    kept = [_in_use(used.fingerprint(algorithm), former, now)]
    if not revoke:
        kept += _still_listed(former, kept[0].fingerprint, now)
    new = Whitelist.valid_for(repository.name, [], now=now, days=days or repository.settings.whitelist_days)
    # Never older than the one before, or whoever has seen that would refuse this one.
    created_at = max(new.created_at, 0 if current is None else current.created_at)
    return replace(new, entries=tuple(kept), created_at=created_at)


def _in_use(fingerprint: Fingerprint, former: Iterable[WhitelistEntry], now: float) -> WhitelistEntry:
    known = next((entry for entry in former if entry.fingerprint == fingerprint), None)
    if known is not None and not _RETIRED.fullmatch(known.comment):
        return known
    return WhitelistEntry(fingerprint, _IN_USE.format(day=_day(now)))


def _still_listed(former: Iterable[WhitelistEntry], used: Fingerprint, now: float) -> Iterator[WhitelistEntry]:
    for entry in former:
        if entry.fingerprint == used:
            continue
        retired = _RETIRED.fullmatch(entry.comment)
        if retired is None:
            last = _day(now + GRACE_DAYS * _DAY_SECONDS)
            yield WhitelistEntry(entry.fingerprint, f"retired, listed until {last}")
        elif f"{retired[1]}-{retired[2]}-{retired[3]}" >= _day(now):
            yield entry


def _publish(repository: Repository, whitelist: Whitelist, signed: bytes) -> None:
    repository.store.replace(WHITELIST_PATH, signed)
    repository.give_to_owner(Path(repository.store.root, WHITELIST_PATH))
    event("stratum0.whitelist.signed", repository=repository.name, expires=whitelist.expires_at)


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


# ------------------------------------------------------------------------------------------------ whitelists, elsewhere


def export_request(repository: Repository, file: Path, *, days: int | None = None, revoke: bool = False) -> Whitelist:
    """Writes a whitelist for an offline master key to sign.

    The file is the whitelist as it will be, up to and including its digest line; beside it, ``FILE.hash`` has the
    digest alone, which is what `openssl pkeyutl -sign` takes.

    Raises:
        CdnError: there is nothing to sign.
        OSError: it could not be written.
    """
    joining = repository.keys.next_signer()
    whitelist = next_whitelist(
        repository, days=days, joining=None if joining is None else joining.certificate, revoke=revoke
    )
    unsigned = SignedText.of("whitelist", whitelist.to_body(), repository.settings.algorithm)
    write_file(file, unsigned.to_bytes(), _PUBLIC_MODE, replace=True)
    write_file(_hash_file(file), unsigned.signed_bytes, _PUBLIC_MODE, replace=True)
    return whitelist


def sign_request(file: Path, master_key_file: Path) -> Whitelist:
    """Signs an exported whitelist in place; needs nothing of the repository.

    Raises:
        CdnError: the file is no exported whitelist, or the key cannot sign it.
        OSError: a file cannot be read or written.
    """
    try:
        unsigned = _unsigned(_read(file))
        whitelist = Whitelist.parse(unsigned.body)
    except DocumentError as error:
        raise DocumentError(str(file), f"it is not what `cdn repo keys export` wrote ({error.reason})") from error
    signed = unsigned.signed(read_private_key(master_key_file), Scheme.WHITELIST)
    write_file(file, signed.to_bytes(), _PUBLIC_MODE, replace=True)
    return whitelist


def import_signed(repository: Repository, file: Path, *, signature: Path | None = None) -> Whitelist:
    """Verifies a whitelist signed elsewhere and puts it in force; completes a rotation that waited for it.

    Args:
        repository: whose.
        file: what `sign_request` wrote, or what `export_request` wrote if `signature` is given.
        signature: the raw signature that `openssl pkeyutl` made.

    Raises:
        TrustError: it was not signed by the master key, is for another repository, older than the one in force, or
            lists no certificate that can be used.
        CdnError: it is no whitelist.
    """
    data = _read(file)
    public = repository.keys.public_key()
    if signature is not None:
        raw = _read(signature)[: SIGNATURE_BYTES_MAX + 1]
        data = _unsigned(data).with_signature(raw, public, Scheme.WHITELIST).to_bytes()
    elif _is_unsigned(data):
        raise RepositoryError(
            f"{file} is not signed yet: run `cdn repo keys sign --masterkey KEY {file}` where the master key is"
        )
    signed = SignedText.parse("whitelist", data)
    signed.verify(public, Scheme.WHITELIST)
    whitelist = Whitelist.parse(signed.body)
    with repository.publishing():
        _check_import(repository, whitelist)
        _publish(repository, whitelist, data)
        _complete_rotation(repository, whitelist)
    return whitelist


def _check_import(repository: Repository, whitelist: Whitelist) -> None:
    name, algorithm, now = repository.name, repository.settings.algorithm, repository.clock.now()
    if whitelist.fqrn != name:
        raise NameMismatchError(f"the whitelist is for {whitelist.fqrn}, not for {name}")
    if whitelist.is_expired(now):
        raise ExpiredError(f"the whitelist for {name} has expired already: export and sign a new one")
    current = repository.whitelist()
    if current is not None and whitelist.created_at < current.created_at:
        raise RollbackError(f"the whitelist for {name} is older than the one in force: export and sign a new one")
    following = repository.keys.next_signer()
    usable = [repository.keys.certificate(), *([following.certificate] if following else [])]
    listed = {entry.fingerprint for entry in whitelist.entries}
    if not any(certificate.fingerprint(algorithm) in listed for certificate in usable):
        raise UntrustedCertificateError(
            f"the whitelist for {name} lists none of its certificates: export and sign a new one"
        )


def _unsigned(data: bytes) -> SignedText:
    body = body_of(data)
    text = data[len(body) + len(b"--\n") :].partition(b"\n")[0]
    digest = Digest.parse(text.decode("latin-1"))
    unsigned = SignedText.of("whitelist", body, digest.algorithm)
    if unsigned.digest != digest:
        raise DocumentError("whitelist to be signed", "its text does not have the digest it names")
    return unsigned


def _is_unsigned(data: bytes) -> bool:
    return not data[len(body_of(data)) + len(b"--\n") :].partition(b"\n")[2]


def _read(file: Path) -> bytes:
    with file.open("rb") as stream:
        data = stream.read(DOCUMENT_BYTES_MAX + 1)
    if len(data) > DOCUMENT_BYTES_MAX:
        raise DocumentError(str(file), f"it is larger than {DOCUMENT_BYTES_MAX} bytes")
    return data


def _hash_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.hash")


# --------------------------------------------------------------------------------------------------------- certificates


def rotate(repository: Repository, *, revoke_old: bool = False) -> Rotation:
    """Replaces the certificate and the key that sign manifests.

    With the master key here it is done at once. Without it the new pair is prepared, and `import_signed` completes the
    rotation when the whitelist that `export_request` wrote comes back signed.

    Args:
        repository: whose.
        revoke_old: whether the old certificate leaves the whitelist at once, as it must if its key was stolen.

    Raises:
        CdnError: something could not be signed or stored; what is in force then still fits together.
    """
    keys, algorithm = repository.keys, repository.settings.algorithm
    with step("stratum0.certificate.rotate", repository=repository.name), repository.publishing():
        master = keys.master_key() if keys.has_master_key else None
        signer = _prepared(repository, fresh=master is not None)
        fault_point("rotate.pair.prepared")
        if master is None:
            return Rotation(signer.certificate, is_complete=False)
        both = next_whitelist(repository, joining=signer.certificate)
        _publish(repository, both, sign_whitelist(both, master, algorithm))
        fault_point("rotate.whitelist.published")
        _complete_rotation(repository, both)
        if revoke_old:
            alone = next_whitelist(repository, revoke=True)
            _publish(repository, alone, sign_whitelist(alone, master, algorithm))
    return Rotation(signer.certificate, is_complete=True)


def _prepared(repository: Repository, *, fresh: bool) -> Signer:
    """The next pair; one that already waits for its whitelist is not replaced by another."""
    waiting = None if fresh else repository.keys.next_signer()
    if waiting is not None:
        return waiting
    signer = new_signer(repository.name, now=repository.clock.now())
    repository.keys.write_next(signer)
    repository.give_to_owner(repository.keys.next_key_file, repository.keys.next_certificate_file)
    return signer


def _complete_rotation(repository: Repository, whitelist: Whitelist) -> None:
    """Signs with the next pair if there is one and the whitelist lists it, and puts its files in place."""
    keys = repository.keys
    signer = keys.next_signer()
    if signer is None:
        return
    fingerprint = signer.certificate.fingerprint(repository.settings.algorithm)
    if all(entry.fingerprint != fingerprint for entry in whitelist.entries):
        return
    republish(repository, signer=signer)
    fault_point("rotate.manifest.published")
    keys.install_next()
    repository.forget_signer()
