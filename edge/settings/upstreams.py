"""What an edge is told about whom it asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal

from cdn.client.source_list import SOURCES_MAX, ProxyGroups, parse_groups, parse_proxies
from cdn.config import Between, Duration
from cdn.errors import ConfigError
from edge.settings.checks import NAME, check_positive, in_key, url_target

REPOSITORY_MARK: Final = "@fqrn@"
REPOSITORIES_PATH: Final = "/cvmfs/"
WEIGHT_MAX: Final = 1000.0


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Servers that hold the same repositories, or the same part of an ordinary site.

    Args:
        name: what logs and metrics call the group.
        urls: base URLs of a repository on each server, with ``@fqrn@`` for its name, such as
            ``http://stratum1.example.org/cvmfs/@fqrn@``. With `path`, base URLs of what is below it. As a list they are
            asked in this order. ``"a|b;c"`` asks `a` or `b`, whichever is likely to answer sooner, and `c` when both
            failed; an item of a list may be such alternatives, too (``["a|b", "c"]`` is the same).
        repositories: which repositories they hold: names, or patterns such as ``*.example.org``. The first group that
            holds a repository serves it.
        path: makes this a group of ordinary web servers: what is asked of this edge below the path, such as
            ``/frontier/`` or ``/``, is asked of them, with any method. The longest path that fits counts.
        proxies: edges or other proxies through which the servers are asked, as in ``CVMFS_HTTP_PROXY``:
            ``"http://p1:8000|http://p2:8000;DIRECT"``. Empty to ask the servers themselves.
        connections: requests under way to each of these servers at most; 0 for `fetch.connections_per_host`.
        probe: what is asked for now and then to see whether a server is well, without any client waiting for it: a path
            below each base URL such as ``.cvmfspublished``, or from the server's root if it begins with a slash. Empty
            for never.
        probe_interval: about how often a server is probed that is not in use, or failed.
    """

    name: str
    urls: str | tuple[str, ...]
    repositories: tuple[str, ...] = ("*",)
    path: str = ""
    proxies: str = ""
    connections: Annotated[int, Between(0)] = 0
    probe: str = ""
    probe_interval: Duration = 10.0

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError("name: use letters, digits, dots, dashes and underscores")
        with in_key("urls"):
            self._check_urls()
        with in_key("proxies"):
            _ = self.proxy_groups
        check_positive(self, "probe_interval")
        if self.path:
            self._check_path()
        elif not self.repositories:
            raise ValueError("repositories: name at least one repository or pattern")
        elif any(REPOSITORY_MARK not in url for url in self.servers) and not self._is_single:
            raise ValueError(f"urls: a group of several repositories needs {REPOSITORY_MARK} in each URL")
        with in_key("probe"):
            self._check_probe()

    def _check_urls(self) -> None:
        if not isinstance(self.urls, str) and any(";" in item for item in self.urls):
            raise ValueError("a list has an item for each group; write what stands behind a ; as the next item")
        if not self.servers:
            raise ValueError("name at least one server")
        if len(self.servers) > SOURCES_MAX:
            raise ValueError(f"{len(self.servers)} servers are more than the {SOURCES_MAX} that can be used")
        if len(set(self.servers)) < len(self.servers):
            raise ValueError("a server is named twice")
        for url in self.servers:
            if "://" not in url:
                raise ValueError(f"{url!r} does not begin with http:// or https://")
            url_target(url.replace(REPOSITORY_MARK, "x"))

    def _check_path(self) -> None:
        with in_key("path"):
            target = url_target(f"http://edge{self.path}")
        if not self.path.startswith("/") or target.path != self.path:
            raise ValueError(f"path: {self.path!r} is no path such as /frontier/")
        if (self.path.rstrip("/") + "/").startswith(REPOSITORIES_PATH):
            raise ValueError(f"path: what is below {REPOSITORIES_PATH} are repositories, named by their own key")
        if any(REPOSITORY_MARK in url for url in self.servers):
            raise ValueError(f"urls: {REPOSITORY_MARK} stands for a repository, and a group with a path has none")

    def _check_probe(self) -> None:
        if self.probe and not self.probe.startswith("/") and not self.path and not self._is_single:
            raise ValueError("in a group of several repositories, begin it with a slash: a path from the server's root")
        for url in self.servers:
            url_target(self.probe_url(url))

    @property
    def _is_single(self) -> bool:
        return len(self.repositories) == 1 and not set("*?[") & set(self.repositories[0])

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The base URLs: one group after another, within one all are equal."""
        if isinstance(self.urls, str):
            return parse_groups(self.urls)
        return tuple(group for item in self.urls for group in parse_groups(item))

    @property
    def proxy_groups(self) -> ProxyGroups:
        """The proxies: one group after another, within one all are equal; None for none.

        Raises:
            ConfigError: one is no URL and no host:port.
        """
        try:
            return parse_proxies(self.proxies)
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @property
    def servers(self) -> tuple[str, ...]:
        """All base URLs."""
        return tuple(url for group in self.groups for url in group)

    def holds(self, repository: str) -> bool:
        """Whether these servers hold a repository."""
        return not self.path and any(fnmatchcase(repository, pattern) for pattern in self.repositories)

    def bases(self, repository: str) -> tuple[str, ...]:
        """The base URL of a repository on each server."""
        return tuple(url.replace(REPOSITORY_MARK, repository).rstrip("/") for url in self.servers)

    def probe_url(self, url: str) -> str:
        """What to ask for to see whether the server with this base URL is well."""
        base = url_target(url.replace(REPOSITORY_MARK, self.repositories[0] if self._is_single else "x"))
        below = "" if self.probe.startswith("/") else base.path.rstrip("/") + "/"
        return f"{base.origin}{below}{self.probe}"


@dataclass(frozen=True, slots=True)
class SiblingSettings:
    """Other edges of the same place: together they are one cache, in which each keeps its share of the objects.

    Args:
        urls: the base URL of each, such as ``http://edge2.example.org:8000``; that of this edge may be among them, so
            that all have the same list. Empty for none.
        own: the base URL of this edge, exactly as the others have it.
        weights: how much each keeps compared with the others, by its URL; 1 where nothing is said. All edges of the
            place need the same.
        timeout: how long a sibling may take to answer before an upstream is asked instead.
    """

    urls: tuple[str, ...] = ()
    own: str = ""
    weights: dict[str, float] = field(default_factory=dict)
    timeout: Duration = 2.0

    def __post_init__(self) -> None:
        for url in self.urls:
            with in_key("urls"):
                _check_edge(url)
        if self.urls and not self.own:
            raise ValueError("own: say by which URL the siblings know this edge")
        if self.own:
            with in_key("own"):
                _check_edge(self.own)
        if len(self.urls) > SOURCES_MAX:
            raise ValueError(f"urls: {len(self.urls)} siblings are more than the {SOURCES_MAX} that can be used")
        for url, weight in self.weights.items():
            if url not in {*self.urls, self.own}:
                raise ValueError(f"weights: {url} is none of the siblings")
            if not 0 < weight <= WEIGHT_MAX:
                raise ValueError(f"weights: {url} needs a weight above 0 and up to {WEIGHT_MAX:g}")
        check_positive(self, "timeout")

    @property
    def others(self) -> tuple[str, ...]:
        """The siblings without this edge."""
        return tuple(dict.fromkeys(url for url in self.urls if url != self.own))


def _check_edge(url: str) -> None:
    if url != url_target(url).origin:
        raise ValueError(f"{url!r} is no base URL of an edge such as http://edge2.example.org:8000")


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """How upstreams are asked.

    Args:
        connect_timeout: for finding and connecting to a server.
        answer_timeout: for the head of its answer.
        idle_timeout: how long it may send nothing.
        connections_per_host: requests under way to one server.
        connections_max: requests under way in all.
        queue_timeout: how long a request waits for its turn at a server to which as many are under way as may be.
        retry_after: how long a server that failed rests, doubling up to a minute.
        hedge_share: how many requests may be sent to a second server of the same group, since the first one takes
            longer than 95 of 100 of its answers do; 0 for none.
        resolver: ``dns`` to find servers through DNS, following its lifetimes, with what the system knows besides as a
            second source; ``system`` for the system's resolver alone.
    """

    connect_timeout: Duration = 2.0
    answer_timeout: Duration = 10.0
    idle_timeout: Duration = 10.0
    connections_per_host: int = 32
    connections_max: int = 256
    queue_timeout: Duration = 5.0
    retry_after: Duration = 1.0
    hedge_share: Annotated[float, Between(0, 0.5)] = 0.05
    resolver: Literal["dns", "system"] = "dns"

    def __post_init__(self) -> None:
        check_positive(self, "connect_timeout", "answer_timeout", "idle_timeout")
        check_positive(self, "connections_per_host", "connections_max")
