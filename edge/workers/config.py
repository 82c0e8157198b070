"""What each of several workers is told: the limits of the whole edge, shared out, and what a reload changes."""

from __future__ import annotations

from dataclasses import replace

from edge.cache.shards import Share
from edge.config import EdgeConfig


def worker_config(config: EdgeConfig, share: Share) -> EdgeConfig:
    """The configuration of one worker; all together keep the limits of the whole."""
    cache, fetch, limits = config.cache, config.fetch, config.limits
    memory_bytes = share.of(cache.memory_bytes)
    return replace(
        config,
        workers=1,
        admin=replace(config.admin, listen=""),
        cache=replace(
            cache,
            disk_bytes=share.of(cache.disk_bytes),
            memory_bytes=memory_bytes,
            memory_object_bytes=min(cache.memory_object_bytes, memory_bytes),
            scrub_bytes_per_second=share.of(cache.scrub_bytes_per_second),
        ),
        upstreams=tuple(replace(each, connections=share.of(each.connections)) for each in config.upstreams),
        fetch=replace(
            fetch,
            connections_per_host=share.of(fetch.connections_per_host),
            connections_max=share.of(fetch.connections_max),
        ),
        limits=replace(
            limits,
            connections_max=share.of(limits.connections_max),
            unsent_bytes_max=share.of(limits.unsent_bytes_max),
        ),
    )


def reloaded(config: EdgeConfig, newer: EdgeConfig) -> EdgeConfig:
    """What a worker that starts after a reload is told: as newer, but for what only a restart changes."""
    listen = config.listen
    if [each.address for each in listen.tls] == [each.address for each in newer.listen.tls]:
        listen = replace(listen, tls=newer.listen.tls)
    return replace(
        config,
        upstreams=newer.upstreams,
        forward=newer.forward,
        lifetimes=newer.lifetimes,
        siblings=newer.siblings,
        listen=listen,
    )
