"""What a name says about its content: its kind, the digest it must have, and how long it may live (spec §1, §8.2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from cdn.errors import DocumentError
from cdn.hashing import Digest
from cdn.manifest import is_repository_name
from cdn.objects import MANIFEST_PATH, WHITELIST_PATH, Kind, ObjectName
from edge.http_caching import Lifetime

OBJECT_SECONDS: Final = 259200
"""How long caches below may keep an object if the upstream does not say (spec §8.2)."""
DOCUMENT_SECONDS: Final = 61
"""The same for manifests, whitelists and JSON files."""
OBJECT_KEY: Final = "object:"
SITE_KEY: Final = "site:"
_ALTERNATIVE: Final = ".cvmfsalt-"


_OBJECT_LABELS: Final[dict[str, str]] = {kind.value: kind.name.lower() for kind in Kind if kind.value}


class ContentKind(Enum):
    """What kind of content a name promises."""

    OBJECT = "object"
    """Immutable, and its name is its digest."""
    MANIFEST = "manifest"
    WHITELIST = "whitelist"
    DOCUMENT = "document"
    """Other small files with fixed names: reflog, markers, JSON."""
    GEO = "geo"
    """A reply of the Geo API."""
    OTHER = "other"
    """Anything else: an ordinary web resource."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a path leads to.

    Args:
        kind: what kind of content.
        repository: the repository it belongs to; empty if there is none.
        digest: what its body must hash to, where the name says it.
        path: relative to the repository; the whole path if there is none.
    """

    kind: ContentKind
    repository: str = ""
    digest: Digest | None = None
    path: str = ""

    @property
    def label(self) -> str:
        """What metrics call it: of an object what its suffix says, else the kind."""
        if self.kind is not ContentKind.OBJECT:
            return str(self.kind.value)
        return _OBJECT_LABELS.get(self.path[-1:], "file")

    @property
    def is_pinned(self) -> bool:
        """Whether it stays when room is made: without a manifest everything else is useless."""
        return self.kind in {ContentKind.MANIFEST, ContentKind.WHITELIST}


def content_of(path: str) -> Content:
    """Reads a canonical URL path such as ``/cvmfs/sw.example.org/data/ab/cdef…``."""
    directory, slash, rest = path.rpartition("/data/")
    if slash and (found := _object(rest)) is not None and is_repository_name(directory.rpartition("/")[2]):
        return Content(ContentKind.OBJECT, directory.rpartition("/")[2], found.digest, f"data/{rest}")
    base, slash, _ = path.partition("/api/v")
    if slash and "/geo/" in path and is_repository_name(base.rpartition("/")[2]):
        return Content(ContentKind.GEO, base.rpartition("/")[2], None, path[len(base) + 1 :])
    directory, _, name = path.rpartition("/")
    repository = directory.rpartition("/")[2]
    if not is_repository_name(repository):
        repository = ""
    if name.startswith(_ALTERNATIVE):
        return Content(ContentKind.DOCUMENT, repository, _alternative_digest(name), name)
    return Content(_kind_of_name(name), repository, None, name if repository else path)


def object_key(content: Content) -> str:
    """The cache key of an object: the same, whichever server it was asked for."""
    return f"{OBJECT_KEY}{content.repository}/{content.path}"


def site_key(url: str) -> str:
    """The cache key of an ordinary site's resource, whose name promises nothing."""
    return SITE_KEY + url


def digest_of_key(key: str) -> Digest | None:
    """What the body cached under a key must hash to, if the key says it."""
    if key.startswith(SITE_KEY):
        return None
    path = f"/{key.removeprefix(OBJECT_KEY)}" if key.startswith(OBJECT_KEY) else key.partition("?")[0]
    return content_of(path).digest


def _object(rest: str) -> ObjectName | None:
    try:
        return ObjectName.parse(f"data/{rest}")
    except DocumentError:
        return None


def _alternative_digest(name: str) -> Digest | None:
    text = name.removeprefix(_ALTERNATIVE)
    found = _object(f"{text[:2]}/{text[2:]}")
    return found.digest if found is not None else None


def _kind_of_name(name: str) -> ContentKind:
    if name == MANIFEST_PATH:
        return ContentKind.MANIFEST
    if name == WHITELIST_PATH or name.startswith(f"{WHITELIST_PATH}."):
        return ContentKind.WHITELIST
    if name.startswith(".cvmfs") or name.endswith(".json"):
        return ContentKind.DOCUMENT
    return ContentKind.OTHER


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long answers live, by kind.

    Args:
        negative_seconds_max: how long an upstream's word that there is no such name is believed.
        stale_if_error_seconds: how long a stale manifest or whitelist stands in for failing upstreams.
        other_stale_if_error_seconds: the same for all other content that can become stale.
        stale_while_revalidate_seconds: how long a stale manifest or whitelist is given while a new one is asked for.
    """

    negative_seconds_max: float = 5.0
    stale_if_error_seconds: float = 259200.0
    other_stale_if_error_seconds: float = 3600.0
    stale_while_revalidate_seconds: float = 0.0
    _by_kind: dict[ContentKind, Lifetime] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        signed = Lifetime(
            DOCUMENT_SECONDS,
            stale_if_error_seconds=self.stale_if_error_seconds,
            stale_while_revalidate_seconds=self.stale_while_revalidate_seconds,
        )
        document = Lifetime(DOCUMENT_SECONDS, stale_if_error_seconds=self.other_stale_if_error_seconds)
        by_kind = {
            ContentKind.OBJECT: Lifetime(OBJECT_SECONDS, is_immutable=True),
            ContentKind.MANIFEST: signed,
            ContentKind.WHITELIST: signed,
            ContentKind.DOCUMENT: document,
            ContentKind.GEO: document,
            ContentKind.OTHER: Lifetime(stale_if_error_seconds=self.other_stale_if_error_seconds),
        }
        object.__setattr__(self, "_by_kind", by_kind)

    def of(self, kind: ContentKind, status: int) -> Lifetime:
        """The lifetime of an answer with this status."""
        if status in {404, 410}:
            if kind is ContentKind.OTHER:
                return Lifetime(self.negative_seconds_max)
            return Lifetime(self.negative_seconds_max, seconds_max=self.negative_seconds_max)
        lifetime = self._by_kind[kind]
        if status != 200 and lifetime.default_seconds is not None:
            return Lifetime(0.0, seconds_max=self.negative_seconds_max)
        return lifetime
