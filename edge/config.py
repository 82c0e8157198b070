"""What an edge is told: one TOML file, every key with a default but the upstreams."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Literal

from cdn.config import Duration, Size, load_config
from edge.request import RequestError
from edge.target import Target, parse_target

REPOSITORY_MARK: Final = "@fqrn@"
REPOSITORIES_PATH: Final = "/cvmfs/"
_NAME: Final = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,100}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ListenSettings:
    """Where requests arrive.

    Args:
        addresses: ``ADDRESS:PORT`` each, IPv6 in brackets.
        backlog: connections that may wait to be accepted.
    """

    addresses: tuple[str, ...] = ("127.0.0.1:8000",)
    backlog: int = 1024

    def __post_init__(self) -> None:
        if not self.addresses:
            raise ValueError("addresses: name at least one address to listen on")
        for address in self.addresses:
            with _key("addresses"):
                listen_address(address)
        _check_positive(self, "backlog")


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """The operator's own listener, with metrics and status; never public.

    Args:
        listen: ``ADDRESS:PORT``, or empty for none.
    """

    listen: str = "127.0.0.1:9154"

    def __post_init__(self) -> None:
        if self.listen:
            with _key("listen"):
                listen_address(self.listen)


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Servers that hold the same repositories, or the same part of an ordinary site.

    Args:
        name: what logs and metrics call the group.
        urls: base URLs of a repository on each server, the preferred one first, with ``@fqrn@`` for its name, such as
            ``http://stratum1.example.org/cvmfs/@fqrn@``. With `path`, base URLs of what is below it.
        repositories: which repositories they hold: names, or patterns such as ``*.example.org``. The first group that
            holds a repository serves it.
        path: makes this a group of ordinary web servers: what is asked of this edge below the path, such as
            ``/frontier/`` or ``/``, is asked of them, with any method. The longest path that fits counts.
    """

    name: str
    urls: tuple[str, ...]
    repositories: tuple[str, ...] = ("*",)
    path: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError("name: use letters, digits, dots, dashes and underscores")
        if not self.urls:
            raise ValueError("urls: name at least one server")
        for url in self.urls:
            with _key("urls"):
                url_target(url.replace(REPOSITORY_MARK, "x"))
        if self.path:
            self._check_path()
            return
        if not self.repositories:
            raise ValueError("repositories: name at least one repository or pattern")
        if any(REPOSITORY_MARK not in url for url in self.urls) and not self._is_single():
            raise ValueError(f"urls: a group of several repositories needs {REPOSITORY_MARK} in each URL")

    def _check_path(self) -> None:
        with _key("path"):
            target = url_target(f"http://edge{self.path}")
        if not self.path.startswith("/") or target.path != self.path:
            raise ValueError(f"path: {self.path!r} is no path such as /frontier/")
        if (self.path.rstrip("/") + "/").startswith(REPOSITORIES_PATH):
            raise ValueError(f"path: what is below {REPOSITORIES_PATH} are repositories, named by their own key")
        if any(REPOSITORY_MARK in url for url in self.urls):
            raise ValueError(f"urls: {REPOSITORY_MARK} stands for a repository, and a group with a path has none")

    def _is_single(self) -> bool:
        return len(self.repositories) == 1 and not set("*?[") & set(self.repositories[0])

    def holds(self, repository: str) -> bool:
        """Whether these servers hold a repository."""
        return not self.path and any(fnmatchcase(repository, pattern) for pattern in self.repositories)

    def bases(self, repository: str) -> tuple[str, ...]:
        """The base URL of a repository on each server."""
        return tuple(url.replace(REPOSITORY_MARK, repository).rstrip("/") for url in self.urls)


@dataclass(frozen=True, slots=True)
class ForwardSettings:
    """Serving clients that use this edge as their proxy.

    Args:
        enabled: whether to.
        allow: base URLs of ordinary sites below which anything may be asked for, with any method, besides what the
            upstreams have. An edge is never an open proxy.
    """

    enabled: bool = True
    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for url in self.allow:
            with _key("allow"):
                url_target(url)


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What is kept, and where.

    Args:
        directory: for this edge alone.
        disk_bytes: how much of the disk is used at most, unfinished files included.
        memory_bytes: how much memory is used for bodies at most.
        memory_object_bytes: larger bodies are served from disk.
        object_bytes_max: larger bodies are passed on but not stored.
        verify_seconds: how long a body on disk is trusted after it was verified, if its file did not change.
        scrub_bytes_per_second: how fast the cache is read through, over and over, in search of rotten bodies; 0 for
            never.
    """

    directory: Path = Path("/var/cache/stratocast/edge")
    disk_bytes: Size = 20 << 30
    memory_bytes: Size = 256 << 20
    memory_object_bytes: Size = 1 << 20
    object_bytes_max: Size = 4 << 30
    verify_seconds: Duration = 3600.0
    scrub_bytes_per_second: Size = 4 << 20

    def __post_init__(self) -> None:
        _check_positive(self, "disk_bytes", "object_bytes_max")
        if self.memory_object_bytes > self.memory_bytes:
            raise ValueError("memory_object_bytes: is larger than memory_bytes")


@dataclass(frozen=True, slots=True)
class LifetimeSettings:
    """How long answers live where upstreams leave it open.

    Args:
        negative: how long "no such name" is believed at most.
        stale_if_error: how long a stale manifest or whitelist stands in while no upstream gives a new one.
        other_stale_if_error: the same for other content that can become stale. Objects never do.
    """

    negative: Duration = 5.0
    stale_if_error: Duration = 259200.0
    other_stale_if_error: Duration = 3600.0

    def __post_init__(self) -> None:
        if self.negative > 60:
            raise ValueError("negative: longer than a minute hides new objects from clients")


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """How upstreams are asked.

    Args:
        connect_timeout: for finding and connecting to a server.
        answer_timeout: for the head of its answer.
        idle_timeout: how long it may send nothing.
        connections_per_host: requests under way to one server.
        connections_max: requests under way in all.
        retry_after: how long a server that failed is asked last, doubling up to a minute.
    """

    connect_timeout: Duration = 2.0
    answer_timeout: Duration = 10.0
    idle_timeout: Duration = 10.0
    connections_per_host: int = 32
    connections_max: int = 256
    retry_after: Duration = 1.0

    def __post_init__(self) -> None:
        _check_positive(self, "connect_timeout", "answer_timeout", "idle_timeout")
        _check_positive(self, "connections_per_host", "connections_max")


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """How much clients may cost.

    Args:
        connections_max: connections open at once.
        head_bytes_max: size of a request's head.
        fields_max: number of its header fields.
        target_bytes_max: length of its target.
        head_timeout: for a whole head to arrive, from its first byte.
        body_timeout: how long a client may send nothing of a request's body.
        idle_timeout: how long a connection may be unused.
        send_timeout: how long a client may take nothing of an answer.
        drain_timeout: how long answers may go on after SIGTERM.
    """

    connections_max: int = 10_000
    head_bytes_max: Size = 16384
    fields_max: int = 100
    target_bytes_max: Size = 8000
    head_timeout: Duration = 10.0
    body_timeout: Duration = 30.0
    idle_timeout: Duration = 75.0
    send_timeout: Duration = 60.0
    drain_timeout: Duration = 30.0

    def __post_init__(self) -> None:
        _check_positive(self, "connections_max", "head_bytes_max", "fields_max", "target_bytes_max")
        _check_positive(self, "head_timeout", "body_timeout", "idle_timeout", "send_timeout")
        if self.target_bytes_max > self.head_bytes_max:
            raise ValueError("target_bytes_max: is larger than head_bytes_max")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The access log.

    Args:
        access: the file, ``-`` for standard output, empty for none. SIGHUP opens it again.
        format: ``combined``, as web servers write it with the cache's result at the end, or ``json``.
    """

    access: str = ""
    format: Literal["combined", "json"] = "combined"


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """Everything an edge is told.

    Args:
        upstreams: whom it asks.
        name: what it calls itself to others; its address and port if empty. No two edges that ask one another may have
            the same, since that is how loops are found.
        listen: where requests arrive.
        admin: the operator's listener.
        forward: serving as a proxy.
        cache: what is kept.
        lifetimes: for how long.
        fetch: how upstreams are asked.
        limits: how much clients may cost.
        log: the access log.
    """

    upstreams: tuple[UpstreamSettings, ...]
    name: str = ""
    listen: ListenSettings = field(default_factory=ListenSettings)
    admin: AdminSettings = field(default_factory=AdminSettings)
    forward: ForwardSettings = field(default_factory=ForwardSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    lifetimes: LifetimeSettings = field(default_factory=LifetimeSettings)
    fetch: FetchSettings = field(default_factory=FetchSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    log: LogSettings = field(default_factory=LogSettings)

    def __post_init__(self) -> None:
        if not self.upstreams:
            raise ValueError("upstreams: name at least one")
        names = [upstream.name for upstream in self.upstreams]
        if len(set(names)) < len(names):
            raise ValueError("upstreams: two have the same name")
        if self.name and not _NAME.fullmatch(self.name):
            raise ValueError("name: use letters, digits, dots, dashes, underscores and a port")


def load(path: Path) -> EdgeConfig:
    """Reads a configuration file; a relative cache directory is meant relative to it.

    Raises:
        ConfigError: listing every mistake with file, line and key.
    """
    config = load_config(EdgeConfig, path)
    return replace(config, cache=replace(config.cache, directory=path.parent / config.cache.directory))


def listen_address(text: str) -> tuple[str, int]:
    """Reads ``127.0.0.1:8000`` or ``[::1]:8000``.

    Raises:
        ValueError: for anything else.
    """
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (colon and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError(f"{text!r} is not ADDRESS:PORT")
    ipaddress.ip_address(host)
    return host, int(port)


def url_target(url: str) -> Target:
    """Reads a base URL in canonical form.

    Raises:
        ValueError: it is not ``http://`` or ``https://`` with a host.
    """
    try:
        target = parse_target(url)
    except RequestError as error:
        raise ValueError(f"{url!r} is no base URL: {error.reason}") from error
    if not target.origin or target.query is not None:
        raise ValueError(f"{url!r} is no base URL such as http://stratum1.example.org/cvmfs/{REPOSITORY_MARK}")
    return target


@contextmanager
def _key(name: str) -> Iterator[None]:
    """Puts the key before what a check says."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_positive(settings: object, *names: str) -> None:
    for name in names:
        if getattr(settings, name) <= 0:
            raise ValueError(f"{name}: must be greater than zero")
