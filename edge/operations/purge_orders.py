"""What an operator wants forgotten, and the rule that follows from it.

An order names a URL, a prefix of URLs, a repository, one of its revisions, or everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cdn.errors import UsageError
from cdn.manifest import NUMBER_MAX, is_repository_name
from edge.cache.purging import Rule
from edge.content import OBJECT_KEY, SITE_KEY
from edge.http.request import RequestError
from edge.http.target import Target, parse_target
from edge.settings.checks import url_target
from edge.settings.upstreams import REPOSITORIES_PATH, REPOSITORY_MARK, UpstreamSettings

_TEXT_MAX: Final = 8000
_ANY_NAME: Final = "name-of-the-repository"
"""Stands for a repository in canonical URLs."""
_SCOPES: Final = ("url", "prefix", "repository", "all")
_KEYS: Final = frozenset({*_SCOPES, "revision", "soft"})


@dataclass(frozen=True, slots=True)
class PurgeOrder:
    """What is to be forgotten; one of the first four, the revision only with its repository.

    Args:
        url: one URL in all its variants, as a client asks for it: a path (as of a server) or an absolute URL (as of a
            proxy).
        prefix: the beginning of such URLs.
        repository: everything of this repository.
        revision: only what belongs to this revision of the repository.
        is_all: everything.
        is_soft: it is not removed but must be confirmed by an upstream before it is used again; it may stand in while
            upstreams fail.
    """

    url: str = ""
    prefix: str = ""
    repository: str = ""
    revision: int | None = None
    is_all: bool = False
    is_soft: bool = False

    @classmethod
    def parse(cls, document: Mapping[str, object]) -> PurgeOrder:
        """Reads an order from outside.

        Raises:
            UsageError: naming every mistake, one sentence each.
        """
        mistakes = list(_mistakes(document))
        if mistakes:
            raise UsageError("; ".join(mistakes))
        values: Any = document
        return cls(
            url=values.get("url", ""),
            prefix=values.get("prefix", ""),
            repository=values.get("repository", ""),
            revision=values.get("revision"),
            is_all=values.get("all", False),
            is_soft=values.get("soft", False),
        )

    @property
    def text(self) -> str:
        """What it is about, for people."""
        if self.is_all:
            return "everything"
        if self.revision is not None:
            return f"revision {self.revision} of {self.repository}"
        if self.repository:
            return f"the repository {self.repository}"
        return f"what begins with {self.prefix}" if self.prefix else self.url


def _mistakes(document: Mapping[str, object]) -> Iterable[str]:
    """What is wrong with an order."""
    for key in sorted(document.keys() - _KEYS):
        yield f"{key[:40]!r} is no key of a purge: use {', '.join(sorted(_KEYS))}"
    for key in ("url", "prefix", "repository"):
        value = document.get(key, "x")
        if not (isinstance(value, str) and 0 < len(value) <= _TEXT_MAX):
            yield f"{key} is a text of 1 to {_TEXT_MAX} characters"
    for key in ("all", "soft"):
        if not isinstance(document.get(key, False), bool):
            yield f"{key} is true or false"
    if sum(bool(document.get(key)) for key in _SCOPES) != 1:
        yield "say what to purge by one of url, prefix, repository and all"
    repository = document.get("repository", "x")
    if isinstance(repository, str) and repository and not is_repository_name(repository):
        yield f"{repository[:100]!r} is no name of a repository"
    revision = document.get("revision", 0)
    if isinstance(revision, bool) or not (isinstance(revision, int) and 0 <= revision <= NUMBER_MAX):
        yield f"revision is a number from 0 to {NUMBER_MAX}"
    if "revision" in document and not document.get("repository"):
        yield "a revision is one of a repository: name that too"


def rule_of(order: PurgeOrder, upstreams: Iterable[UpstreamSettings], now: float) -> Rule:
    """The rule for an order by prefix, by repository or for everything.

    Args:
        order: which.
        upstreams: their URLs say where repositories may have been asked for.
        now: seconds since the epoch.

    Raises:
        UsageError: the prefix can begin no URL.
    """
    if order.is_all:
        return Rule(order.text, now, order.is_soft, ("",))
    if order.repository:
        name = order.repository
        held = (base for each in upstreams if each.holds(name) for base in each.bases(name))
        bases = (f"{REPOSITORIES_PATH}{name}/", f"{OBJECT_KEY}{name}/", *(f"{url_target(base).url}/" for base in held))
        return Rule(order.text, now, order.is_soft, bases, (), name)
    prefixes, repositories = _of_prefix(order.prefix, upstreams)
    return Rule(order.text, now, order.is_soft, prefixes, repositories)


def _of_prefix(prefix: str, upstreams: Iterable[UpstreamSettings]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which keys begin so, and of which repositories all objects may have been asked for so.

    Objects are kept once, wherever they were asked for, so a prefix of URLs covers those that have a URL of that form.
    """
    target = _target_of(prefix)
    url = target.url
    if not target.origin:
        return (url, SITE_KEY + url, *_objects_below(url, REPOSITORIES_PATH, "")), ()
    found, repositories = [url], []
    for upstream in upstreams:
        for template in () if upstream.path else upstream.urls:
            base = url_target(template.replace(REPOSITORY_MARK, _ANY_NAME)).url.rstrip("/")
            head, mark, tail = base.partition(_ANY_NAME)
            if mark:
                if head.startswith(url):
                    repositories += list(upstream.repositories)
                found += [] if head.startswith(url) else _objects_below(url, head, tail)
            else:
                found += [each for name in upstream.repositories for each in _objects_of_one(url, f"{head}/", name)]
    return tuple(dict.fromkeys(found)), tuple(dict.fromkeys(repositories))


def _objects_below(url: str, head: str, tail: str) -> list[str]:
    """Beginnings of keys of objects whose URL, made of `head`, the repository's name, `tail` and a path, begins so."""
    if head.startswith(url):
        return [OBJECT_KEY]
    if not url.startswith(head):
        return []
    name, slash, path = url[len(head) :].partition("/")
    if not slash:
        return [OBJECT_KEY + name]
    rest, end = f"/{path}", f"{tail}/"
    if end.startswith(rest):
        return [f"{OBJECT_KEY}{name}/"]
    return [f"{OBJECT_KEY}{name}/{rest.removeprefix(end)}"] if rest.startswith(end) else []


def _objects_of_one(url: str, base: str, name: str) -> list[str]:
    if base.startswith(url):
        return [f"{OBJECT_KEY}{name}/"]
    return [f"{OBJECT_KEY}{name}/{url.removeprefix(base)}"] if url.startswith(base) else []


def _target_of(text: str) -> Target:
    try:
        return parse_target(text)
    except RequestError as error:
        raise UsageError(f"{text[:200]!r} is the beginning of no path or URL: {error.reason}") from error
