"""Master public keys: where they are found, and the sentence that says what to do where none is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cdn.errors import ConfigError
from cdn.keyfiles import read_public_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

KEYS_MAX: Final = 64


def load_keys(keys: Iterable[RSAPublicKey | Path | str], fqrn: str) -> tuple[RSAPublicKey, ...]:
    """The master public keys of a repository.

    Args:
        keys: keys, key files, or folders. Of a folder, ``NAME.pub`` is taken if there is one for the repository or for
            a domain it is in; otherwise every ``*.pub`` in it.
        fqrn: the repository's name.

    Raises:
        ConfigError: there is none; what can be done is said.
        DocumentError: a file holds no key.
    """
    found: list[RSAPublicKey] = []
    for key in keys:
        if isinstance(key, str | Path):
            found += [_read(file) for file in key_files(Path(key), fqrn)]
        else:
            found.append(key)
    if not found:
        raise ConfigError(
            f"there is no public key for {fqrn}, so nothing it serves could be verified: get {fqrn}.pub from its "
            "publisher by a way you trust, and name it with --key"
        )
    return tuple(found[:KEYS_MAX])


def key_files(place: Path, fqrn: str) -> list[Path]:
    """The key files that a place, a file or a folder, holds for a repository."""
    if not place.is_dir():
        return [place]
    labels = fqrn.split(".")
    names = [".".join(labels[start:]) for start in range(len(labels))]
    for name in names:
        for folder in (place, place / ".".join(labels[1:])):  # real clients keep keys in a folder for the domain
            if (folder / f"{name}.pub").is_file():
                return [folder / f"{name}.pub"]
    domain = place / ".".join(labels[1:])
    if labels[1:] and domain.is_dir() and (files := sorted(domain.glob("*.pub"))):
        return files
    return sorted(place.glob("*.pub"))


def _read(path: Path) -> RSAPublicKey:
    try:
        return read_public_key(path)
    except OSError as error:
        raise ConfigError(f"the public key {os.fspath(path)} cannot be read: {error.strerror}") from error
