"""Certificates that sign manifests, and the fingerprints by which whitelists name them (spec §2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization

from cdn.compression import decompress
from cdn.errors import DocumentError
from cdn.hashing import Algorithm, Digest, digest_of
from cdn.signing import PrivateKey, PublicKey, check_key

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]  # typeshed has it from 3.12 on

CERTIFICATE_BYTES_MAX: Final = 64 << 10
VALID_DAYS: Final = 365
"""What the tools of the format write; nobody checks it (spec §2.2)."""
_DOCUMENT: Final = "certificate"
_COMMON_NAME_MAX: Final = 64
_FINGERPRINT_LINE_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The digest of a certificate's DER encoding, with a text form of its own."""

    digest: Digest

    def __str__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        """Upper-case pairs joined by colons, then the algorithm's identifier in upper case."""
        return self.digest.value.hex(":").upper() + self.digest.algorithm.identifier.upper()

    @classmethod
    def parse(cls, line: str) -> Fingerprint:
        """Reads a line of a whitelist or blacklist; a comment after a space, a tab or ``#`` is dropped.

        Raises:
            DocumentError: there is no fingerprint in it.
        """
        if len(line) > _FINGERPRINT_LINE_MAX:
            raise DocumentError("fingerprint", f"a line of {len(line)} characters holds none")
        for mark in " \t#":
            line = line.partition(mark)[0]
        return cls(Digest.parse(line.replace(":", "").lower()))


@dataclass(frozen=True, slots=True)
class Certificate:
    """An X.509 certificate.

    Whether it may sign is for the whitelist to say: its dates, issuer and extensions mean nothing here.

    Args:
        der: its DER encoding.
        public_key: RSA or P-256.
    """

    der: bytes
    public_key: PublicKey

    @classmethod
    def parse(cls, pem: bytes) -> Certificate:
        """Reads the first certificate of a PEM text.

        Raises:
            DocumentError: there is none, or it has a key that cannot be used.
        """
        if len(pem) > CERTIFICATE_BYTES_MAX:
            raise DocumentError(_DOCUMENT, f"it is larger than {CERTIFICATE_BYTES_MAX} bytes")
        try:
            certificate = x509.load_pem_x509_certificate(bytes(pem))
            key = certificate.public_key()
            der = certificate.public_bytes(serialization.Encoding.DER)
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
            raise DocumentError(_DOCUMENT, "it is no PEM text of an X.509 certificate with a usable key") from error
        return cls(der, check_key(key, _DOCUMENT))

    @classmethod
    def from_object(cls, stored: Buffer) -> Certificate:
        """Reads a certificate as it lies in a store: compressed.

        Raises:
            DocumentError: as `parse`, or it does not inflate.
        """
        return cls.parse(bytes(decompress(stored, size_max=CERTIFICATE_BYTES_MAX, document=_DOCUMENT)))

    @classmethod
    def self_signed(cls, fqrn: str, key: PrivateKey, *, now: float, days: int = VALID_DAYS) -> Certificate:
        """A new certificate for this repository.

        Args:
            fqrn: the repository's name, which becomes the common name.
            key: the key that will sign manifests.
            now: seconds since the epoch; the certificate begins to be valid a day earlier, for clocks that are slow.
            days: how long it says it is valid.
        """
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{fqrn} release manager"[:_COMMON_NAME_MAX])])
        start = datetime.fromtimestamp(int(now), UTC)
        builder = x509.CertificateBuilder(
            issuer_name=name,
            subject_name=name,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=start - timedelta(days=1),
            not_valid_after=start + timedelta(days=days),
        )
        return cls.parse(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    @property
    def pem(self) -> bytes:
        """The text that is compressed and stored as an object of kind `Kind.CERTIFICATE`."""
        return x509.load_der_x509_certificate(self.der).public_bytes(serialization.Encoding.PEM)

    @property
    def not_valid_after(self) -> float:
        """When the certificate says it ends, in seconds since the epoch; tools may warn about it, no client looks."""
        return x509.load_der_x509_certificate(self.der).not_valid_after_utc.timestamp()

    def fingerprint(self, algorithm: Algorithm = Algorithm.SHA1) -> Fingerprint:
        """The fingerprint by this algorithm."""
        return Fingerprint(digest_of(algorithm, self.der))
