"""The manifest: which root catalog is current, in which revision, since when (`.cvmfspublished`, spec §2.1).

Here is only its form. That a manifest may be believed is for `cdn.trust` to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from cdn.errors import DocumentError
from cdn.hashing import Digest
from cdn.objects import Kind, ObjectName

ROOT_PATH_HASH: Final = "d41d8cd98f00b204e9800998ecf8427e"
"""MD5 of the empty string, which is the path of the root; key R never has another value."""
TTL_SECONDS_DEFAULT: Final = 240
NUMBER_MAX: Final = (1 << 63) - 1
"""Revisions and sizes are also kept in SQLite, whose integers end here."""
PLAIN_DIGEST_KEY: Final = "d"

_DOCUMENT: Final = "manifest"
_KNOWN_KEYS: Final = frozenset("CBRDSGANXHTMYL")
_MULTIPLE_KEY: Final = "Z"
_YES_OR_NO: Final = {True: "yes", False: "no"}
_DECIMAL: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}", re.ASCII)
_PLAIN_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one published revision consists of.

    Args:
        root_catalog: digest of the stored root catalog; its algorithm is the repository's.
        revision: grows with every publication; equals the root catalog's.
        ttl_seconds: how long clients may go without looking again; the root catalog repeats it.
        fqrn: the repository's name; old manifests may lack it.
        root_catalog_bytes: size of the uncompressed root catalog, where it is said.
        garbage_collectable: whether replicas may drop old revisions.
        alternative_names: whether bootstrap objects also have `.cvmfsalt-` names.
        certificate: digest of the object with the certificate that signed.
        history: digest of the tag database, if there is one.
        timestamp: seconds since the epoch of the publication; 0 where it is not said.
        metainfo: digest of the object that describes the repository.
        reflog: digest of the publisher's reflog.
        extensions: every other key with its value, in order. Ours are lower-case letters; old parties ignore them all,
            and the signature covers them.
    """

    root_catalog: Digest
    revision: int
    ttl_seconds: int = TTL_SECONDS_DEFAULT
    fqrn: str | None = None
    root_catalog_bytes: int | None = None
    garbage_collectable: bool = False
    alternative_names: bool = False
    certificate: Digest | None = None
    history: Digest | None = None
    timestamp: int = 0
    metainfo: Digest | None = None
    reflog: Digest | None = None
    extensions: tuple[tuple[str, str], ...] = field(default=())

    def __post_init__(self) -> None:
        for key, value in self.extensions:
            if len(key) != 1 or key in _KNOWN_KEYS or not key.isprintable() or "\n" in value or key + value == "--":
                raise ValueError(f"{key!r} with value {value!r} is no extension of a manifest")

    @property
    def plain_digest(self) -> bytes | None:
        """SHA-256 of the uncompressed root catalog, if the publisher says it (docs/formats/plain-digest.md)."""
        for key, value in self.extensions:
            if key == PLAIN_DIGEST_KEY and _PLAIN_DIGEST.fullmatch(value):
                return bytes.fromhex(value)
        return None

    @property
    def objects(self) -> tuple[ObjectName, ...]:
        """The objects it names, in the order of its keys: root catalog, certificate, history, metainfo."""
        named = (
            (self.root_catalog, Kind.CATALOG),
            (self.certificate, Kind.CERTIFICATE),
            (self.history, Kind.HISTORY),
            (self.metainfo, Kind.METAINFO),
        )
        return tuple(ObjectName(digest, kind) for digest, kind in named if digest is not None)

    @classmethod
    def parse(cls, body: bytes) -> Manifest:
        """Reads the lines before ``--``.

        Order does not matter, and of a repeated key the last value counts, as for real clients. What is no digest after
        a key that may be missing (H, M, Y) counts as not set (spec §3.2).

        Raises:
            DocumentError: a required key is missing or a value is not of its form.
        """
        values = _values(body)
        root_catalog = _digest(values, "C")
        if root_catalog is None:
            raise DocumentError(_DOCUMENT, "it names no root catalog (key C)")
        if values.get("R") != ROOT_PATH_HASH:
            raise DocumentError(_DOCUMENT, "it is not for the root of a repository (key R)")
        return cls(
            root_catalog=root_catalog,
            revision=_required_number(values, "S"),
            ttl_seconds=_required_number(values, "D"),
            fqrn=_name(values),
            root_catalog_bytes=_number(values, "B"),
            garbage_collectable=values.get("G") == "yes",
            alternative_names=values.get("A") == "yes",
            certificate=_digest(values, "X"),
            history=_optional_digest(values, "H"),
            timestamp=_number(values, "T") or 0,
            metainfo=_optional_digest(values, "M"),
            reflog=_optional_digest(values, "Y"),
            extensions=tuple((key, value) for key, value in values.items() if key not in _KNOWN_KEYS),
        )

    def to_body(self) -> bytes:
        """The lines before ``--`` in canonical order; extensions come last."""
        values = (
            ("C", self.root_catalog.text),
            ("B", _optional(self.root_catalog_bytes)),
            ("R", ROOT_PATH_HASH),
            ("D", str(self.ttl_seconds)),
            ("S", str(self.revision)),
            ("G", _YES_OR_NO[self.garbage_collectable]),
            ("A", _YES_OR_NO[self.alternative_names]),
            ("N", self.fqrn),
            ("X", _optional(self.certificate)),
            ("H", _optional(self.history)),
            ("T", str(self.timestamp) if self.timestamp > 0 else None),
            ("M", _optional(self.metainfo)),
            ("Y", _optional(self.reflog)),
            *self.extensions,
        )
        lines = (f"{key}{value}\n" for key, value in values if value is not None)
        return "".join(lines).encode("utf-8", "surrogateescape")


def is_repository_name(name: str) -> bool:
    """Whether this may be a repository's name: letters, digits, ``-``, ``_`` and dots, not beginning with a dot."""
    return _NAME.fullmatch(name) is not None


def _values(body: bytes) -> dict[str, str]:
    values: dict[str, str] = {}
    for line in body.decode("utf-8", "surrogateescape").split("\n"):
        if line == "--":
            break
        key, value = line[:1], line[1:]
        if not key:
            continue
        if key not in _KNOWN_KEYS and not key.isprintable():
            raise DocumentError(_DOCUMENT, f"a line begins with {key!r}")
        values[key] = f"{values[key]}|{value}" if key == _MULTIPLE_KEY and key in values else value
    return values


def _digest(values: dict[str, str], key: str) -> Digest | None:
    text = values.get(key)
    if text is None:
        return None
    try:
        digest = Digest.parse(text)
    except DocumentError as error:
        raise DocumentError(_DOCUMENT, f"key {key}: {error.reason}") from error
    return None if digest.is_null else digest


def _optional_digest(values: dict[str, str], key: str) -> Digest | None:
    """As `_digest`, of a key without which a repository can be read: real clients take for null what is none."""
    try:
        return _digest(values, key)
    except DocumentError:
        return None


def _number(values: dict[str, str], key: str) -> int | None:
    text = values.get(key)
    if text is None:
        return None
    if not _DECIMAL.fullmatch(text) or int(text) > NUMBER_MAX:
        raise DocumentError(_DOCUMENT, f"key {key}: {text[:40]!r} is no number from 0 to {NUMBER_MAX}")
    return int(text)


def _required_number(values: dict[str, str], key: str) -> int:
    number = _number(values, key)
    if number is None:
        raise DocumentError(_DOCUMENT, f"key {key} is missing")
    return number


def _name(values: dict[str, str]) -> str | None:
    name = values.get("N")
    if name is not None and not is_repository_name(name):
        raise DocumentError(_DOCUMENT, f"key N: {name[:100]!r} is no name of a repository")
    return name


def _optional(value: Digest | int | None) -> str | None:
    return None if value is None else str(value)
