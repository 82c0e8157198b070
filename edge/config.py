"""What an edge is told: one TOML file, every key with a default but the upstreams."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final, Literal

from cdn.config import Between, Duration, Size, load_config
from edge.settings.checks import NAME, check_positive, in_key, listen_address, url_target
from edge.settings.limits import LimitSettings
from edge.settings.listen import ListenSettings
from edge.settings.manifests import ManifestSettings
from edge.settings.upstreams import FetchSettings, SiblingSettings, UpstreamSettings

WORKERS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """The operator's own listener, with metrics and status; never public.

    Args:
        listen: ``ADDRESS:PORT``, or empty for none.
    """

    listen: str = "127.0.0.1:9154"

    def __post_init__(self) -> None:
        if self.listen:
            with in_key("listen"):
                listen_address(self.listen)


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
            with in_key("allow"):
                url_target(url)


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What is kept, and where.

    Args:
        directory: for this edge alone.
        disk_bytes: how much of the disk is used at most, in whole blocks of 4 KiB, unfinished files included.
        memory_bytes: how much memory is used for responses at most, what each takes besides its body included.
        pinned_share: which part of both, from 0 to 0.9, manifests, whitelists and root catalogs may keep for
            themselves.
        memory_object_bytes: larger bodies are served from disk.
        object_bytes_max: larger bodies are passed on but not stored.
        verify_seconds: how long a body on disk is trusted after it was verified, if its file did not change.
        scrub_bytes_per_second: how fast the cache is read through, over and over, in search of rotten bodies; 0 for
            never.
    """

    directory: Path = Path("/var/cache/stratocast/edge")
    disk_bytes: Size = 20 << 30
    memory_bytes: Size = 256 << 20
    pinned_share: Annotated[float, Between(0, 0.9)] = 0.25
    memory_object_bytes: Size = 1 << 20
    object_bytes_max: Size = 4 << 30
    verify_seconds: Duration = 3600.0
    scrub_bytes_per_second: Size = 4 << 20

    def __post_init__(self) -> None:
        check_positive(self, "disk_bytes", "object_bytes_max")
        if self.memory_object_bytes > self.memory_bytes:
            raise ValueError("memory_object_bytes: is larger than memory_bytes")


@dataclass(frozen=True, slots=True)
class LifetimeSettings:
    """How long answers live where upstreams leave it open.

    Args:
        negative: how long "no such name" is believed at most.
        stale_while_revalidate: how long a stale manifest or whitelist is still given at once, while an upstream is
            asked for a new one; 0 for never. What an answer says itself counts before this.
        stale_if_error: how long a stale manifest or whitelist stands in while no upstream gives a new one.
        other_stale_if_error: the same for other content that can become stale. Objects never do.
    """

    negative: Duration = 5.0
    stale_while_revalidate: Duration = 30.0
    stale_if_error: Duration = 259200.0
    other_stale_if_error: Duration = 3600.0

    def __post_init__(self) -> None:
        if self.negative > 60:
            raise ValueError("negative: longer than a minute hides new objects from clients")
        if self.stale_while_revalidate > 600:
            raise ValueError("stale_while_revalidate: longer than ten minutes hides new revisions from clients")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The access log.

    Args:
        access: the file, ``-`` for standard output, empty for none. SIGHUP opens it again.
        format: ``combined``, as web servers write it with the cache's result at the end, ``combined_id``, which has the
            request's ID behind that, or ``json``.
        sample: which part of the requests is logged, spread evenly; errors (statuses from 400 on) always are.
        sample_errors: whether of errors only that part is logged as well.
        anonymize: whether the end of client addresses is left out: the last 8 bits of IPv4, the last 80 of IPv6.
        request_id: whether requests have IDs, which are logged and told to upstreams, parents and siblings in
            `X-Request-ID`: ``off``; ``create`` makes one for each; ``accept`` takes the one that a request comes with,
            and makes one if that is missing or malformed.
    """

    access: str = ""
    format: Literal["combined", "combined_id", "json"] = "combined"
    sample: Annotated[float, Between(0.000001, 1)] = 1.0
    sample_errors: bool = False
    anonymize: bool = False
    request_id: Literal["off", "create", "accept"] = "off"

    def __post_init__(self) -> None:
        if self.format == "combined_id" and self.request_id == "off":
            raise ValueError('format: is combined_id, but requests have none; set request_id to "create" or "accept"')


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """Everything an edge is told.

    Args:
        upstreams: whom it asks.
        name: what it calls itself to others; its address and port if empty. No two edges that ask one another may have
            the same, since that is how loops are found.
        workers: how many processes answer requests, from 1 to 64; one for each processor makes sense. They share the
            cache and all limits.
        listen: where requests arrive.
        admin: the operator's listener.
        forward: serving as a proxy.
        cache: what is kept.
        lifetimes: for how long.
        manifest: how manifests, whitelists and objects are kept in step.
        fetch: how upstreams are asked.
        siblings: other edges of the same place.
        limits: how much clients may cost.
        log: the access log.
    """

    upstreams: tuple[UpstreamSettings, ...]
    name: str = ""
    workers: Annotated[int, Between(1, WORKERS_MAX)] = 1
    listen: ListenSettings = field(default_factory=ListenSettings)
    admin: AdminSettings = field(default_factory=AdminSettings)
    forward: ForwardSettings = field(default_factory=ForwardSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    lifetimes: LifetimeSettings = field(default_factory=LifetimeSettings)
    manifest: ManifestSettings = field(default_factory=ManifestSettings)
    fetch: FetchSettings = field(default_factory=FetchSettings)
    siblings: SiblingSettings = field(default_factory=SiblingSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    log: LogSettings = field(default_factory=LogSettings)

    def __post_init__(self) -> None:
        if not self.upstreams:
            raise ValueError("upstreams: name at least one")
        names = [upstream.name for upstream in self.upstreams]
        if len(set(names)) < len(names):
            raise ValueError("upstreams: two have the same name")
        if self.name and not NAME.fullmatch(self.name):
            raise ValueError("name: use letters, digits, dots, dashes, underscores and a port")
        if self.admin.listen and self.listen.takes(self.admin.listen):
            raise ValueError(f"admin.listen: clients are answered at {self.admin.listen}; give operators another port")
        self._check_workers()

    def _check_workers(self) -> None:
        if self.cache.memory_object_bytes > self.cache.memory_bytes // self.workers:
            raise ValueError(
                f"workers: memory_bytes of [cache] is shared out, and {self.cache.memory_bytes // self.workers} bytes "
                "for each have no room for memory_object_bytes"
            )


def load(path: Path) -> EdgeConfig:
    """Reads a configuration file; a relative cache directory, certificate or key is meant relative to it.

    Raises:
        ConfigError: listing every mistake with file, line and key.
    """
    config = load_config(EdgeConfig, path)
    cache = replace(config.cache, directory=path.parent / config.cache.directory)
    return replace(config, cache=cache, listen=config.listen.relative_to(path.parent))
