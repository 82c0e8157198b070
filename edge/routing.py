"""From a request's target to what is cached under which key, and whom to ask for it."""

from __future__ import annotations

from dataclasses import dataclass

from cdn.manifest import is_repository_name
from edge.config import REPOSITORY_MARK, EdgeConfig, UpstreamSettings, url_target
from edge.content import Content, ContentKind, content_of, object_key
from edge.request import RequestError
from edge.target import Target

_REVERSE_ROOT = "/cvmfs/"


@dataclass(frozen=True, slots=True)
class Source:
    """One place to ask.

    Args:
        url: what to ask for.
        server: scheme, host and port, by which its health is known.
    """

    url: str
    server: str


@dataclass(frozen=True, slots=True)
class Destination:
    """What a request is about.

    Args:
        key: what its answer is cached under. Equal for all ways to ask for the same object of a repository.
        content: what its name says.
        sources: whom to ask, the preferred one first.
    """

    key: str
    content: Content
    sources: tuple[Source, ...]


class Routes:
    """Knows the upstreams and what may be asked of whom.

    Args:
        config: names them.
    """

    def __init__(self, config: EdgeConfig) -> None:
        self._upstreams = config.upstreams
        self._is_forwarding = config.forward.enabled
        allowed = [url_target(_before_mark(url)) for upstream in config.upstreams for url in upstream.urls]
        allowed += [url_target(url) for url in config.forward.allow]
        self._allowed = tuple({(target.origin, target.path) for target in allowed})

    @property
    def servers(self) -> tuple[str, ...]:
        """All upstream servers, as `Source.server` has them."""
        urls = [url_target(url.replace(REPOSITORY_MARK, "x")) for each in self._upstreams for url in each.urls]
        return tuple(dict.fromkeys(target.origin for target in urls))

    def locate(self, target: Target) -> Destination:
        """Says what a target is about.

        Raises:
            RequestError: 403, since it is nothing that this edge serves.
        """
        return self._forward(target) if target.origin else self._reverse(target)

    def _reverse(self, target: Target) -> Destination:
        repository, slash, rest = target.path_and_query.removeprefix(_REVERSE_ROOT).partition("/")
        if not (target.path.startswith(_REVERSE_ROOT) and slash and is_repository_name(repository)):
            raise RequestError(403, "only what lies below /cvmfs/<repository>/ is served here")
        upstream = self._upstream_of(repository)
        if upstream is None:
            raise RequestError(403, f"the repository {repository} is not served here")
        content = content_of(target.path)
        sources = tuple(_source(f"{base}/{rest}") for base in upstream.bases(repository))
        return Destination(_key(content, target), content, sources)

    def _forward(self, target: Target) -> Destination:
        if not self._is_forwarding:
            raise RequestError(403, "this server is not a proxy")
        if not any(target.origin == origin and _is_below(target.path, path) for origin, path in self._allowed):
            raise RequestError(403, f"this proxy may not be used for {target.origin}")
        content = content_of(target.path)
        asked = Source(target.url, target.origin)
        return Destination(_key(content, target), content, (asked, *self._others(content, asked)))

    def _others(self, content: Content, asked: Source) -> tuple[Source, ...]:
        """Who else may be asked for an object: anybody, since it is verified."""
        upstream = self._upstream_of(content.repository) if content.kind is ContentKind.OBJECT else None
        if upstream is None:
            return ()
        sources = (_source(f"{base}/{content.path}") for base in upstream.bases(content.repository))
        return tuple(source for source in sources if source.server != asked.server)

    def _upstream_of(self, repository: str) -> UpstreamSettings | None:
        return next((upstream for upstream in self._upstreams if upstream.holds(repository)), None)


def _key(content: Content, target: Target) -> str:
    if content.kind is ContentKind.OBJECT and target.query is None:
        return object_key(content)
    return target.url


def _source(url: str) -> Source:
    return Source(url, url_target(url.partition("?")[0]).origin)


def _before_mark(url: str) -> str:
    """The part of a base URL that all repositories share; the whole if there is only one."""
    head, mark, _ = url.partition(REPOSITORY_MARK)
    return head if mark else url.rstrip("/") + "/"


def _is_below(path: str, base: str) -> bool:
    return path.startswith(base if base.endswith("/") else f"{base}/")
