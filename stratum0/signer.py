"""The keys of one repository: files in a folder of its own, and the pair that signs manifests (spec §2.3).

<name>.masterkey   signs whitelists; may be elsewhere (an offline master key)
<name>.pub         its public key, which every client has
<name>.crt         the certificate whose key signs manifests
<name>.key         that key
<name>.crt.next, <name>.key.next   a pair that is to replace them (see stratum0.rotation)
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from cdn.certificate import CERTIFICATE_BYTES_MAX, Certificate
from cdn.errors import ConfigError, RepositoryError
from cdn.keyfiles import (
    PUBLIC_MODE,
    read_private_key,
    read_public_key,
    write_file,
    write_private_key,
    write_public_key,
)
from cdn.signing import Scheme, SignedText

if TYPE_CHECKING:
    from cdn.hashing import Algorithm
    from cdn.signing import PrivateKey, PublicKey
    from cdn.whitelist import Whitelist

FOLDER_MODE: Final = 0o700


@dataclass(frozen=True, slots=True)
class Signer:
    """A certificate with its key: what signs manifests.

    Args:
        certificate: the certificate.
        key: its private key; never shown.
    """

    certificate: Certificate
    key: PrivateKey = field(repr=False)

    def sign(self, body: bytes, algorithm: Algorithm) -> bytes:
        """The signed document for a manifest's body, as it is published.

        Raises:
            SignatureError: it could not be signed.
        """
        return SignedText.of("manifest", body, algorithm).signed(self.key, Scheme.MANIFEST).to_bytes()


@dataclass(frozen=True, slots=True)
class KeyFolder:
    """The folder with a repository's key files.

    Args:
        folder: its path; readable by its owner alone.
        fqrn: the repository's name.
    """

    folder: Path
    fqrn: str

    @property
    def master_key_file(self) -> Path:
        """The private key that signs whitelists."""
        return self.folder / f"{self.fqrn}.masterkey"

    @property
    def public_key_file(self) -> Path:
        """The public key that every client needs."""
        return self.folder / f"{self.fqrn}.pub"

    @property
    def certificate_file(self) -> Path:
        """The certificate in use."""
        return self.folder / f"{self.fqrn}.crt"

    @property
    def key_file(self) -> Path:
        """The key of the certificate in use."""
        return self.folder / f"{self.fqrn}.key"

    @property
    def has_master_key(self) -> bool:
        """Whether whitelists can be signed on this machine."""
        return self.master_key_file.exists()

    def create(self) -> None:
        """Makes the folder.

        Raises:
            OSError: it is there or cannot be made.
        """
        self.folder.mkdir(mode=FOLDER_MODE)
        self.folder.chmod(FOLDER_MODE)

    def write_master(self, key: rsa.RSAPrivateKey) -> None:
        """Writes a master key and its public half."""
        write_private_key(self.master_key_file, key)
        self.write_public(key.public_key())

    def write_public(self, key: rsa.RSAPublicKey) -> None:
        """Writes the master key's public half."""
        write_public_key(self.public_key_file, key)

    def write_signer(self, signer: Signer) -> None:
        """Writes certificate and key of a new repository."""
        write_private_key(self.key_file, signer.key)
        write_file(self.certificate_file, signer.certificate.pem, PUBLIC_MODE, replace=False)

    def public_key(self) -> rsa.RSAPublicKey:
        """The master key's public half.

        Raises:
            RepositoryError: it is missing.
            CdnError: it cannot be used.
        """
        with _missing(self.public_key_file, "clients and this machine verify everything with it"):
            return read_public_key(self.public_key_file)

    def master_key(self) -> rsa.RSAPrivateKey:
        """The master key.

        Raises:
            RepositoryError: it is not on this machine.
            ConfigError: it does not belong to the public key.
        """
        hint = f"sign elsewhere: `cdn repo keys export {self.fqrn} FILE`"
        with _missing(self.master_key_file, hint):
            key = read_private_key(self.master_key_file)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ConfigError(f"{self.master_key_file} is no RSA key, and only such keys sign whitelists")
        if not same_key(key.public_key(), self.public_key()):
            raise ConfigError(f"{self.master_key_file} does not belong to {self.public_key_file}")
        return key

    def signer(self) -> Signer:
        """The pair in use.

        Raises:
            RepositoryError: a part of it is missing.
            ConfigError: its parts do not belong together, or others may read the key.
        """
        self._finish_replacing()
        certificate = self.certificate()
        with _missing(self.key_file, "without it nothing can be published; restore it or run `cdn repo keys rotate`"):
            key = read_private_key(self.key_file)
        if not same_key(key.public_key(), certificate.public_key):
            raise ConfigError(f"{self.key_file} does not belong to {self.certificate_file}")
        return Signer(certificate, key)

    def certificate(self) -> Certificate:
        """The certificate in use.

        Raises:
            RepositoryError: it is missing.
            CdnError: it cannot be used.
        """
        return self._certificate(self.certificate_file)

    # ---------------------------------------------------------------------------------------------------- the next pair

    @property
    def next_certificate_file(self) -> Path:
        """A certificate that is to replace the one in use."""
        return self.folder / f"{self.fqrn}.crt.next"

    @property
    def next_key_file(self) -> Path:
        """Its key."""
        return self.folder / f"{self.fqrn}.key.next"

    def next_signer(self) -> Signer | None:
        """The pair that is to replace the one in use, None if there is none.

        Raises:
            CdnError: it cannot be used.
        """
        if not self.next_key_file.exists() or not self.next_certificate_file.exists():
            return None
        certificate = self._certificate(self.next_certificate_file)
        key = read_private_key(self.next_key_file)
        return Signer(certificate, key) if same_key(key.public_key(), certificate.public_key) else None

    def write_next(self, signer: Signer) -> None:
        """Prepares a pair that is to replace the one in use."""
        self.next_certificate_file.unlink(missing_ok=True)  # first, so that no pair is ever of two halves
        write_private_key(self.next_key_file, signer.key, replace=True)
        write_file(self.next_certificate_file, signer.certificate.pem, PUBLIC_MODE, replace=True)

    def install_next(self) -> None:
        """Puts the next pair in place of the one in use; if this is interrupted, `signer` finishes it."""
        os.replace(self.next_key_file, self.key_file)
        os.replace(self.next_certificate_file, self.certificate_file)

    def discard_next(self) -> None:
        """Forgets the next pair."""
        self.next_certificate_file.unlink(missing_ok=True)
        self.next_key_file.unlink(missing_ok=True)

    def _finish_replacing(self) -> None:
        if not self.next_certificate_file.exists() or self.next_key_file.exists():
            return
        key, certificate = read_private_key(self.key_file), self._certificate(self.next_certificate_file)
        if same_key(key.public_key(), certificate.public_key):
            os.replace(self.next_certificate_file, self.certificate_file)

    def _certificate(self, file: Path) -> Certificate:
        with _missing(file, "restore it or run `cdn repo keys rotate`"), file.open("rb") as stream:
            return Certificate.parse(stream.read(CERTIFICATE_BYTES_MAX + 1))


def new_signer(fqrn: str, *, now: float) -> Signer:
    """A new certificate with a new key."""
    from cdn.signing import generate_key

    key = generate_key()
    return Signer(Certificate.self_signed(fqrn, key, now=now), key)


def sign_whitelist(whitelist: Whitelist, key: rsa.RSAPrivateKey, algorithm: Algorithm) -> bytes:
    """The signed form of a whitelist, as it is published.

    Raises:
        SignatureError: it could not be signed.
    """
    return SignedText.of("whitelist", whitelist.to_body(), algorithm).signed(key, Scheme.WHITELIST).to_bytes()


def same_key(left: PublicKey, right: PublicKey) -> bool:
    """Whether two public keys are the same."""
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return left.public_bytes(*form) == right.public_bytes(*form)


class _missing:  # noqa: N801  # read as a word of the `with` statement
    """Turns a file that is not there into a sentence."""

    def __init__(self, file: Path, hint: str) -> None:
        self._file = file
        self._hint = hint

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise RepositoryError(f"the key file {self._file} is missing: {self._hint}") from error
        if isinstance(error, PermissionError):
            raise RepositoryError(f"the key file {self._file} may not be read: run this as its owner") from error
