"""Key files: PEM on disk, private ones readable by their owner alone (spec §2.3)."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cdn.errors import ConfigError, DocumentError
from cdn.signing import PrivateKey, PublicKey, check_key

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY_FILE_BYTES_MAX: Final = 64 << 10
PRIVATE_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644
_TOO_OPEN: Final = stat.S_IRWXO | stat.S_IWGRP
"""Reading by the group is let pass: that is how container platforms hand secrets to a service."""
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_Path = str | os.PathLike[str]


def write_private_key(path: _Path, key: PrivateKey, *, replace: bool = False) -> None:
    """Writes a private key, mode 0600, so that the file is there complete or not at all.

    Args:
        path: where to.
        key: the key; PKCS#8 without a pass phrase, as the tools of the format expect.
        replace: whether a key already there may be replaced; losing one is rarely meant.

    Raises:
        FileExistsError: there is a file and it must stay.
        OSError: it could not be written.
    """
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_file(path, pem, PRIVATE_MODE, replace=replace)


def write_public_key(path: _Path, key: PublicKey, *, replace: bool = False) -> None:
    """Writes a public key as real clients are given it: PEM of SubjectPublicKeyInfo.

    Raises:
        FileExistsError: there is a file and it must stay.
        OSError: it could not be written.
    """
    write_file(path, public_pem(key), PUBLIC_MODE, replace=replace)


def public_pem(key: PublicKey) -> bytes:
    """PEM of SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def read_private_key(path: _Path) -> PrivateKey:
    """Reads a private key.

    Raises:
        ConfigError: others may read the file, or it has a pass phrase.
        DocumentError: it holds no usable private key.
        OSError: it is not there or may not be read.
    """
    pem = _read(path, private=True)
    document = f"private key {os.fspath(path)}"
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise ConfigError(
            f"{document} has a pass phrase: store it without one, in a place that only its owner reads"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DocumentError(document, "it holds no PEM private key") from error
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise DocumentError(document, "it is neither an RSA nor an elliptic curve key")
    check_key(key.public_key(), document)
    return key


def read_public_key(path: _Path) -> rsa.RSAPublicKey:
    """Reads a master public key.

    Raises:
        DocumentError: the file holds no RSA public key.
        OSError: it is not there or may not be read.
    """
    return parse_public_key(_read(path, private=False), f"public key {os.fspath(path)}")


def parse_public_key(pem: bytes, document: str) -> rsa.RSAPublicKey:
    """A master public key from PEM.

    Raises:
        DocumentError: this is no RSA public key; no other kind can sign a whitelist.
    """
    if len(pem) > KEY_FILE_BYTES_MAX:
        raise DocumentError(document, f"it is larger than {KEY_FILE_BYTES_MAX} bytes")
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DocumentError(document, "it holds no PEM public key") from error
    if not isinstance(key, rsa.RSAPublicKey):
        raise DocumentError(document, "it is no RSA key, and only such keys sign whitelists")
    check_key(key, document)
    return key


def write_file(path: _Path, content: bytes, mode: int, *, replace: bool) -> None:
    """Puts a small file into place whole: written under a new name that no link can stand behind, synced, then named.

    Raises:
        FileExistsError: there is a file and it must stay.
        OSError: it could not be written.
    """
    target = os.path.abspath(os.fspath(path))
    with _staged(target, content, mode) as staged:
        if replace:
            os.replace(staged, target)
        else:
            _link_new(staged, target)
    directory = os.open(os.path.dirname(target), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def _staged(target: str, content: bytes, mode: int) -> Iterator[str]:
    folder, name = os.path.split(target)
    staged = os.path.join(folder, f".{name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_MODE)
    except OSError as error:
        error.filename = target  # what was asked for, not the name on the way to it
        raise
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        yield staged
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staged)


def _link_new(staged: str, target: str) -> None:
    try:
        os.link(staged, target)  # fails where anything has the name, a dangling link included
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from error
        os.rename(staged, target)


def _read(path: _Path, *, private: bool) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DocumentError(f"key file {os.fspath(path)}", "it is no regular file")
        if private and status.st_mode & _TOO_OPEN:
            raise ConfigError(
                f"private key {os.fspath(path)} is open to others (mode {stat.S_IMODE(status.st_mode):04o}): "
                "run chmod 600 on it, and replace it if they are not trusted"
            )
        content = file.read(KEY_FILE_BYTES_MAX + 1)
    if len(content) > KEY_FILE_BYTES_MAX:
        raise DocumentError(f"key file {os.fspath(path)}", f"it is larger than {KEY_FILE_BYTES_MAX} bytes")
    return content
