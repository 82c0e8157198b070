"""A publisher without a repository: keys, certificate, and signed documents made from memory."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from cdn.certificate import Certificate
from cdn.compression import compress
from cdn.hashing import Algorithm, Digest, digest_of
from cdn.manifest import Manifest
from cdn.signing import Scheme, SignedText, generate_key
from cdn.trust import Breadcrumb, TrustedRepository
from cdn.whitelist import Whitelist

NOW = 1_700_000_000
FQRN = "sw.example.org"


@functools.cache
def key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """The same key for the same name throughout a test run, since making one takes a tenth of a second."""
    return generate_key(bits)


@functools.cache
def certificate(fqrn: str, manager: str, now: int) -> Certificate:
    """The same certificate for the same names, so that two signers of one manager are interchangeable."""
    return Certificate.self_signed(fqrn, key(manager), now=now)


@dataclass
class Signer:
    """Signs for one repository; everything can be replaced by what an attacker would have.

    Args:
        fqrn: the repository's name.
        algorithm: of its digests.
        master: name of the master key.
        manager: name of the key that signs manifests.
        now: seconds since the epoch.
    """

    fqrn: str = FQRN
    algorithm: Algorithm = Algorithm.SHA1
    master: str = "master"
    manager: str = "manager"
    now: int = NOW
    certificate: Certificate = field(init=False)

    def __post_init__(self) -> None:
        self.certificate = certificate(self.fqrn, self.manager, self.now)

    @property
    def master_keys(self) -> list[rsa.RSAPublicKey]:
        return [key(self.master).public_key()]

    @property
    def stored_certificate(self) -> bytes:
        return bytes(compress(self.certificate.pem))

    def digest(self, content: bytes) -> Digest:
        return digest_of(self.algorithm, content)

    def whitelist(self, value: Whitelist | None = None, **changes: object) -> bytes:
        """A signed whitelist with this signer's certificate, unless told otherwise."""
        fingerprint = self.certificate.fingerprint(self.algorithm)
        value = value or Whitelist.valid_for(self.fqrn, [fingerprint], now=self.now)
        return self.sign_whitelist(_changed(value, changes).to_body())

    def sign_whitelist(self, body: bytes) -> bytes:
        return SignedText.of("whitelist", body, self.algorithm).signed(key(self.master), Scheme.WHITELIST).to_bytes()

    def manifest(self, **changes: object) -> bytes:
        """A signed manifest of revision 5, unless told otherwise."""
        value = Manifest(
            root_catalog=self.digest(b"root catalog 5"),
            revision=5,
            fqrn=self.fqrn,
            root_catalog_bytes=4096,
            certificate=self.digest(self.stored_certificate),
            timestamp=self.now,
        )
        return self.sign_manifest(_changed(value, changes).to_body())

    def sign_manifest(self, body: bytes) -> bytes:
        return SignedText.of("manifest", body, self.algorithm).signed(key(self.manager), Scheme.MANIFEST).to_bytes()

    def trusted(self, breadcrumb: Breadcrumb | None = None, **changes: object) -> TrustedRepository:
        """An empty trusted set of someone who has the right master key."""
        options = {"now": self.now, "breadcrumb": breadcrumb, **changes}
        return TrustedRepository(self.fqrn, self.master_keys, **options)  # type: ignore[arg-type]


def _changed(value: Any, changes: dict[str, object]) -> Any:
    return replace(value, **changes)
