"""What a name says about its content: its kind and the digest it must have (spec §1, §8.2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from cdn.errors import DocumentError
from cdn.hashing import Digest
from cdn.manifest import is_repository_name
from cdn.objects import MANIFEST_PATH, WHITELIST_PATH, Kind, digest_in

OBJECT_SECONDS: Final = 259200
"""How long caches below may keep an object if the upstream does not say (spec §8.2)."""
MANIFEST_BYTES_MAX: Final = 1 << 16
WHITELIST_BYTES_MAX: Final = 1 << 20
OBJECT_KEY: Final = "object:"
SITE_KEY: Final = "site:"
_ALTERNATIVE: Final = ".cvmfsalt-"


_OBJECT_LABELS: Final[dict[str, str]] = {kind.value: kind.name.lower() for kind in Kind if kind.value}


class ContentKind(Enum):
    """What kind of content a name promises."""

    __hash__ = object.__hash__  # there is one of each, and the library's own way takes ten times as long

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
        return self.kind is ContentKind.MANIFEST or self.kind is ContentKind.WHITELIST


def content_of(path: str) -> Content:
    """Reads a canonical URL path such as ``/cvmfs/sw.example.org/data/ab/cdef…``."""
    directory, slash, rest = path.rpartition("/data/")
    if slash and is_repository_name(repository := directory.rpartition("/")[2]):
        found = object_content(repository, f"data/{rest}")
        if found is not None:
            return found
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


def object_content(repository: str, path: str) -> Content | None:
    """What a canonical path relative to a repository leads to, if that is an object."""
    try:
        return Content(ContentKind.OBJECT, repository, digest_in(path), path) if path.startswith("data/") else None
    except DocumentError:
        return None


def is_judged(content: Content) -> bool:
    """Whether clients get this only when it is complete and was judged."""
    return content.kind is ContentKind.MANIFEST or is_whitelist(content)


def is_whitelist(content: Content) -> bool:
    """Whether this is a whitelist, and not a signature beside one."""
    return content.kind is ContentKind.WHITELIST and content.path == WHITELIST_PATH


def judged_bytes_max(content: Content) -> int:
    """How large what is judged may be."""
    return MANIFEST_BYTES_MAX if content.kind is ContentKind.MANIFEST else WHITELIST_BYTES_MAX


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


def _alternative_digest(name: str) -> Digest | None:
    text = name.removeprefix(_ALTERNATIVE)
    found = object_content("", f"data/{text[:2]}/{text[2:]}")
    return found.digest if found is not None else None


def _kind_of_name(name: str) -> ContentKind:
    if name == MANIFEST_PATH:
        return ContentKind.MANIFEST
    if name == WHITELIST_PATH or name.startswith(f"{WHITELIST_PATH}."):
        return ContentKind.WHITELIST
    if name.startswith(".cvmfs") or name.endswith(".json"):
        return ContentKind.DOCUMENT
    return ContentKind.OTHER
