"""The whitelist: which certificates may sign manifests, and until when (`.cvmfswhitelist`, spec §2.4).

Here is only its form. Whether it may be believed is for `cdn.trust` to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cdn.certificate import Fingerprint
from cdn.errors import DocumentError
from cdn.manifest import is_repository_name

if TYPE_CHECKING:
    from collections.abc import Iterable

VALID_DAYS_DEFAULT: Final = 30
"""What the tools of the format write when the master key lies on a disk."""

_DOCUMENT: Final = "whitelist"
_DAY_SECONDS: Final = 86_400
_HOUR_SECONDS: Final = 3_600
_TIMESTAMP: Final = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})", re.ASCII)
_TIMESTAMP_MAX: Final = 253_402_300_799
"""The last second of the year 9999."""
_PKCS7: Final = "Vpkcs7"
_CA_CHAIN: Final = "Wcachain"


@dataclass(frozen=True, slots=True)
class WhitelistEntry:
    """One permitted certificate.

    Args:
        fingerprint: by any algorithm.
        comment: what follows ``#`` on its line.
    """

    fingerprint: Fingerprint
    comment: str = ""

    def __post_init__(self) -> None:
        if "\n" in self.comment:
            raise ValueError("a comment in a whitelist is one line")

    def __str__(self) -> str:
        return f"{self.fingerprint} # {self.comment}" if self.comment else str(self.fingerprint)


@dataclass(frozen=True, slots=True)
class Whitelist:
    """The certificates that may sign for one repository.

    Args:
        fqrn: the repository's name.
        created_at: seconds since the epoch; only printed.
        expires: seconds since the epoch, as its second line says. It already counts as expired from the beginning of
            that hour, see `expires_at`.
        entries: the permitted certificates.
        verify_ca_chain: whether certificates must also descend from one in a store of authorities (``Wcachain``).
        uses_pkcs7: whether the signature is elsewhere, in PKCS#7 form (``Vpkcs7``, spec §2.6).
    """

    fqrn: str
    created_at: int
    expires: int
    entries: tuple[WhitelistEntry, ...]
    verify_ca_chain: bool = False
    uses_pkcs7: bool = False

    @classmethod
    def valid_for(
        cls, fqrn: str, fingerprints: Iterable[Fingerprint], *, now: float, days: int = VALID_DAYS_DEFAULT
    ) -> Whitelist:
        """A new whitelist.

        Args:
            fqrn: the repository's name.
            fingerprints: the permitted certificates.
            now: seconds since the epoch.
            days: how long it is valid; some minutes less, since the last hour that has only begun does not count.
        """
        created_at = int(now)
        entries = tuple(WhitelistEntry(fingerprint) for fingerprint in fingerprints)
        return cls(fqrn, created_at, created_at + days * _DAY_SECONDS, entries)

    @property
    def expires_at(self) -> int:
        """The first second in which it is expired: real clients compare hours, so the hour it names is already lost."""
        return self.expires - self.expires % _HOUR_SECONDS

    def is_expired(self, now: float) -> bool:
        """Whether it may no longer be used at this time, in seconds since the epoch."""
        return now >= self.expires_at

    @classmethod
    def parse(cls, body: bytes) -> Whitelist:
        """Reads the lines before ``--``. Lines that hold no fingerprint are passed over, as real clients do.

        Raises:
            DocumentError: one of the first three lines is missing or is not of its form.
        """
        lines = body.decode("utf-8", "surrogateescape").split("\n")
        if len(lines) < 4 or not lines[1].startswith("E") or not lines[2].startswith("N"):
            raise DocumentError(_DOCUMENT, "it does not begin with a time, an expiry time (E) and a name (N)")
        name = lines[2][1:]
        if not is_repository_name(name):
            raise DocumentError(_DOCUMENT, f"{name[:100]!r} is no name of a repository")
        rest = lines[3:]
        uses_pkcs7 = rest[:1] == [_PKCS7]
        rest = rest[1:] if uses_pkcs7 else rest
        verify_ca_chain = rest[:1] == [_CA_CHAIN]
        entries = [_entry(line) for line in (rest[1:] if verify_ca_chain else rest)]
        return cls(
            fqrn=name,
            created_at=_seconds(lines[0]),
            expires=_seconds(lines[1][1:]),
            entries=tuple(entry for entry in entries if entry is not None),
            verify_ca_chain=verify_ca_chain,
            uses_pkcs7=uses_pkcs7,
        )

    def to_body(self) -> bytes:
        """The lines before ``--``."""
        lines = [_text(self.created_at), f"E{_text(self.expires)}", f"N{self.fqrn}"]
        lines += [_PKCS7] * self.uses_pkcs7 + [_CA_CHAIN] * self.verify_ca_chain
        lines += [str(entry) for entry in self.entries]
        return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def _entry(line: str) -> WhitelistEntry | None:
    try:
        fingerprint = Fingerprint.parse(line)
    except DocumentError:
        return None
    return WhitelistEntry(fingerprint, line.partition("#")[2].strip())


def _seconds(text: str) -> int:
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise DocumentError(_DOCUMENT, f"{text[:40]!r} is no time of 14 digits")
    year, month, day, hour, minute, second = (int(part) for part in match.groups())
    try:
        seconds = int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp())
    except ValueError as error:
        raise DocumentError(_DOCUMENT, f"{text!r} is no time that exists") from error
    if seconds < 0:
        raise DocumentError(_DOCUMENT, f"{text!r} is before 1970")
    return seconds


def _text(seconds: int) -> str:
    if not 0 <= seconds <= _TIMESTAMP_MAX:
        raise ValueError(f"a whitelist cannot name the time {seconds}")
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%d%H%M%S")
