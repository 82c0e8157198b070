"""From a request's target to what is cached under which key, and whom to ask for it."""

from __future__ import annotations

from dataclasses import dataclass

from cdn.manifest import is_repository_name
from edge.config import EdgeConfig
from edge.config_checks import url_target
from edge.config_upstreams import REPOSITORIES_PATH, REPOSITORY_MARK, UpstreamSettings
from edge.content import Content, ContentKind, content_of, object_key, site_key
from edge.request import RequestError
from edge.target import Target


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
        target: what was asked for, in canonical form.
        is_general: it is no repository's but an ordinary site's, which takes any method.
    """

    key: str
    content: Content
    sources: tuple[Source, ...]
    target: Target
    is_general: bool = False

    def key_of(self, other: Target) -> str:
        """The key of another resource of the same ordinary site."""
        return other.url if other.origin else site_key(other.url)


class Routes:
    """Knows the upstreams and what may be asked of whom.

    Args:
        config: names them.
    """

    def __init__(self, config: EdgeConfig) -> None:
        self._upstreams = config.upstreams
        self._general = sorted((each for each in config.upstreams if each.path), key=lambda each: -len(each.path))
        self._is_forwarding = config.forward.enabled
        repositories = [_before_mark(url) for each in config.upstreams if not each.path for url in each.urls]
        sites = [url for each in self._general for url in each.urls] + list(config.forward.allow)
        self._sites = tuple({(target.origin, target.path) for target in map(url_target, sites)})
        self._allowed = self._sites + tuple({(target.origin, target.path) for target in map(url_target, repositories)})

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

    def is_general(self, target: Target) -> bool:
        """Whether a target is an ordinary site's, which takes any method."""
        try:
            return self.locate(target).is_general
        except RequestError:
            return False

    def _reverse(self, target: Target) -> Destination:
        if not target.path.startswith(REPOSITORIES_PATH):
            return self._reverse_general(target)
        repository, slash, rest = target.path_and_query.removeprefix(REPOSITORIES_PATH).partition("/")
        if not (slash and is_repository_name(repository)):
            raise RequestError(403, "only what lies below /cvmfs/<repository>/ is served here")
        upstream = self._upstream_of(repository)
        if upstream is None:
            raise RequestError(403, f"the repository {repository} is not served here")
        content = content_of(target.path)
        sources = tuple(_source(f"{base}/{rest}") for base in upstream.bases(repository))
        return Destination(_key(content, target), content, sources, target)

    def _reverse_general(self, target: Target) -> Destination:
        """What an ordinary site has."""
        upstream = next((each for each in self._general if _is_below(target.path, each.path, or_same=True)), None)
        if upstream is None:
            raise RequestError(403, "nothing is configured to be served under this path")
        rest = target.path_and_query[len(upstream.path.rstrip("/")) :]
        sources = tuple(_source(f"{url.rstrip('/')}{rest}") for url in upstream.urls)
        content = Content(ContentKind.OTHER, path=target.path)
        return Destination(site_key(target.url), content, sources, target, is_general=True)

    def _forward(self, target: Target) -> Destination:
        if not self._is_forwarding:
            raise RequestError(403, "this server is not a proxy")
        if not any(target.origin == origin and _is_below(target.path, path) for origin, path in self._allowed):
            raise RequestError(403, f"this proxy may not be used for {target.origin}")
        content, is_on_site = content_of(target.path), self._is_on_site(target)
        if is_on_site and target.path.endswith(".json") and REPOSITORIES_PATH not in target.path:
            content = Content(ContentKind.OTHER, path=target.path)
        asked = Source(target.url, target.origin)
        sources = (asked, *self._others(content, asked))
        is_general = is_on_site and content.kind is ContentKind.OTHER
        return Destination(_key(content, target), content, sources, target, is_general)

    def _is_on_site(self, target: Target) -> bool:
        return any(target.origin == origin and _is_below(target.path, path) for origin, path in self._sites)

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


def _is_below(path: str, base: str, *, or_same: bool = False) -> bool:
    return path.startswith(base if base.endswith("/") else f"{base}/") or (or_same and path == base)
