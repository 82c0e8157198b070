"""From a request's target to what is cached under which key, and whom to ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

from cdn.client.source_list import ONLY_DIRECT
from cdn.errors import without_login
from cdn.manifest import is_repository_name
from edge.config import EdgeConfig
from edge.content import Content, ContentKind, content_of, object_content, object_key, site_key
from edge.http.request import RequestError
from edge.http.target import Target
from edge.settings.checks import url_target
from edge.settings.upstreams import REPOSITORIES_PATH, REPOSITORY_MARK, UpstreamSettings
from edge.watching.tallies import NOBODYS, Tally

_VIA: Final = " via "
_HELD_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Source:
    """One place to ask.

    Args:
        url: what to ask for.
        server: scheme, host and port, and through which proxy if there is one; by this its health is known.
        group: those with the same number are equal, and asked before those with a higher one.
        proxy: through which it is asked.
        is_sibling: it is an edge of the same place, which asks none of its siblings in turn.
    """

    url: str
    server: str
    group: int = 0
    proxy: str | None = None
    is_sibling: bool = False

    def below(self, path: str) -> Source:
        """The same place for what lies below it."""
        return Source(f"{self.url}/{path}", self.server, self.group, self.proxy)

    @property
    def origin(self) -> str:
        """Scheme, host and port of the server itself."""
        return self.server.partition(_VIA)[0]


@dataclass(frozen=True, slots=True)
class Destination:
    """What a request is about.

    Args:
        key: what its answer is cached under. Equal for all ways to ask for the same object of a repository.
        content: what its name says.
        sources: whom to ask, the preferred one first.
        target: what was asked for, in canonical form.
        is_general: it is no repository's but an ordinary site's, which takes any method.
        tally: where requests for it are counted.
    """

    key: str
    content: Content
    sources: tuple[Source, ...]
    target: Target
    is_general: bool = False
    tally: Tally = field(default=NOBODYS, repr=False, compare=False)

    def key_of(self, other: Target) -> str:
        """The key of another resource of the same ordinary site."""
        return other.url if other.origin else site_key(other.url)


TallyOf = Callable[[Content], Tally]


def _nobodys(_: Content) -> Tally:
    return NOBODYS


class Routes:
    """Knows the upstreams and what may be asked of whom.

    Args:
        config: names them.
    """

    def __init__(self, config: EdgeConfig) -> None:
        self._upstreams = config.upstreams
        self._held: dict[str, tuple[UpstreamSettings | None, tuple[Source, ...]]] = {}
        """By repository, who holds it, and the sources of the repository itself."""
        self._general = sorted((each for each in config.upstreams if each.path), key=lambda each: -len(each.path))
        self._is_forwarding = config.forward.enabled
        repositories = [_before_mark(url) for each in config.upstreams if not each.path for url in each.servers]
        sites = [url for each in self._general for url in each.servers] + list(config.forward.allow)
        self._sites = tuple({(target.origin, target.path) for target in map(url_target, sites)})
        self._allowed = self._sites + tuple({(target.origin, target.path) for target in map(url_target, repositories)})

    @property
    def servers(self) -> tuple[str, ...]:
        """All upstream servers, as `Source.server` has them."""
        return tuple(self.connections)

    @property
    def connections(self) -> dict[str, int]:
        """All upstream servers, and how many requests may be under way to each; 0 where nothing is said."""
        limits: dict[str, int] = {}
        for upstream in self._upstreams:
            for source in _sources(upstream, ""):
                known = limits.get(source.server, 0)
                limits[source.server] = min(known, upstream.connections) or known or upstream.connections
        return limits

    def probes(self) -> Iterator[tuple[Source, float]]:
        """What to ask which server for to see whether it is well, and how often in seconds."""
        for upstream in self._upstreams:
            urls = {url_target(_unmarked(url)).origin: upstream.probe_url(url) for url in upstream.servers}
            if upstream.probe:
                for source in _sources(upstream, ""):
                    yield replace(source, url=urls[source.origin]), upstream.probe_interval

    def holds(self, repository: str) -> bool:
        """Whether an upstream holds a repository."""
        return self._held_by(repository)[0] is not None

    def locate(self, target: Target, tally_of: TallyOf = _nobodys) -> Destination:
        """Says what a target is about.

        Args:
            target: what a client asks for.
            tally_of: says where requests for some content are counted.

        Raises:
            RequestError: 403, since it is nothing that this edge serves.
        """
        return self._forward(target, tally_of) if target.origin else self._reverse(target, tally_of)

    def is_general(self, target: Target) -> bool:
        """Whether a target is an ordinary site's, which takes any method."""
        try:
            return self.locate(target).is_general
        except RequestError:
            return False

    def _reverse(self, target: Target, tally_of: TallyOf) -> Destination:
        if not target.path.startswith(REPOSITORIES_PATH):
            return self._reverse_general(target, tally_of)
        repository, slash, rest = target.path_and_query[len(REPOSITORIES_PATH) :].partition("/")
        if not (slash and is_repository_name(repository)):
            raise RequestError(403, "only what lies below /cvmfs/<repository>/ is served here")
        upstream, bases = self._held_by(repository)
        if upstream is None:
            raise RequestError(403, f"the repository {repository} is not served here")
        content = object_content(repository, rest) or content_of(target.path)
        sources = tuple([base.below(rest) for base in bases])
        return Destination(_key(content, target), content, sources, target, tally=tally_of(content))

    def _reverse_general(self, target: Target, tally_of: TallyOf) -> Destination:
        """What an ordinary site has."""
        upstream = next((each for each in self._general if _is_below(target.path, each.path, or_same=True)), None)
        if upstream is None:
            raise RequestError(403, "nothing is configured to be served under this path")
        rest = target.path_and_query[len(upstream.path.rstrip("/")) :]
        sources = tuple(_sources(upstream, "", rest))
        content = Content(ContentKind.OTHER, path=target.path)
        return Destination(site_key(target.url), content, sources, target, is_general=True, tally=tally_of(content))

    def _forward(self, target: Target, tally_of: TallyOf) -> Destination:
        if not self._is_forwarding:
            raise RequestError(403, "this server is not a proxy")
        if not any(target.origin == origin and _is_below(target.path, path) for origin, path in self._allowed):
            raise RequestError(403, f"this proxy may not be used for {target.origin}")
        content, is_on_site = content_of(target.path), self._is_on_site(target)
        if is_on_site and target.path.endswith(".json") and REPOSITORIES_PATH not in target.path:
            content = Content(ContentKind.OTHER, path=target.path)
        sources = self._sources_of(content, target)
        is_general = is_on_site and content.kind is ContentKind.OTHER
        return Destination(_key(content, target), content, sources, target, is_general, tally_of(content))

    def _is_on_site(self, target: Target) -> bool:
        return any(target.origin == origin and _is_below(target.path, path) for origin, path in self._sites)

    def _sources_of(self, content: Content, target: Target) -> tuple[Source, ...]:
        """Who is asked for what a client asked one server for: of an object anybody, since it is verified.

        The server that the client named comes first, with those that are configured as its equals.
        """
        bases = self._held_by(content.repository)[1] if content.kind is ContentKind.OBJECT else ()
        others = tuple([base.below(content.path) for base in bases])
        preferred = {source.group for source in others if source.origin == target.origin and target.query is None}
        if preferred:
            return tuple(sorted(others, key=lambda source: source.group not in preferred))
        asked = tuple(self._asked(target))
        return asked + tuple(replace(source, group=source.group + len(asked)) for source in others)

    def _asked(self, target: Target) -> Iterator[Source]:
        """The server that a client named, through the proxies that are configured for it."""
        upstream = next((each for each in self._upstreams if target.origin in _origins(each)), None)
        groups = upstream.proxy_groups if upstream is not None else ONLY_DIRECT
        for number, proxies in enumerate(groups):
            yield from (_source(target.url, proxy, number, target.origin) for proxy in proxies)

    def _held_by(self, repository: str) -> tuple[UpstreamSettings | None, tuple[Source, ...]]:
        known = self._held.get(repository)
        if known is None:
            upstream = next((each for each in self._upstreams if each.holds(repository)), None)
            known = upstream, tuple(_sources(upstream, repository)) if upstream is not None else ()
            if len(self._held) >= _HELD_MAX:
                self._held.clear()
            self._held[repository] = known
        return known


def _key(content: Content, target: Target) -> str:
    if content.kind is ContentKind.OBJECT and target.query is None:
        return object_key(content)
    return target.url


def _sources(upstream: UpstreamSettings, repository: str, rest: str = "") -> Iterator[Source]:
    """The servers of an upstream: every server through the first proxies, then through the next, then further servers.

    As real clients do it (spec §8.6).
    """
    number = 0
    for urls in upstream.groups:
        bases = [url.replace(REPOSITORY_MARK, repository or "x").rstrip("/") for url in urls]
        for proxies in upstream.proxy_groups:
            for base in bases:
                yield from (_source(base + rest, proxy, number, _origin_of(base)) for proxy in proxies)
            number += 1


@lru_cache(maxsize=1024)
def _origin_of(url: str) -> str:
    """The server of a base URL, which need not be read anew for everything below it."""
    return url_target(url.partition("?")[0]).origin


def _source(url: str, proxy: str | None, group: int, origin: str) -> Source:
    return Source(url, f"{origin}{_VIA}{without_login(proxy)}" if proxy is not None else origin, group, proxy)


def _origins(upstream: UpstreamSettings) -> set[str]:
    return {url_target(_unmarked(url)).origin for url in upstream.servers}


def _unmarked(url: str) -> str:
    return url.replace(REPOSITORY_MARK, "x")


def _before_mark(url: str) -> str:
    """The part of a base URL that all repositories share; the whole if there is only one."""
    head, mark, _ = url.partition(REPOSITORY_MARK)
    return head if mark else url.rstrip("/") + "/"


def _is_below(path: str, base: str, *, or_same: bool = False) -> bool:
    return path.startswith(base if base.endswith("/") else f"{base}/") or (or_same and path == base)
