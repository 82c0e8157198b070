"""Rot in an edge's cache."""

import hashlib
import os
import zlib

import pytest

from cdn.demo.damage import find_victim, flip
from cdn.demo.report import DemoFailedError
from cdn.hashing import Algorithm, digest_of
from cdn.objects import Kind, ObjectName
from edge.cache.disk_cache import DiskCache
from edge.content import digest_of_key
from edge.http.caching import StoredHead
from edge.http.headers import Headers
from edge.watching.statistics import Statistics


@pytest.fixture
def statistics():
    return Statistics()


@pytest.fixture
def cache(tmp_path, statistics):
    cache = DiskCache(tmp_path, bytes_max=1 << 30, memory_body_max=1 << 14, verify_seconds=3600, statistics=statistics)
    cache.open()
    yield cache
    cache.close()


def put(cache, plain):
    """Caches a file as an edge would; returns its key."""
    body = zlib.compress(plain)
    path = ObjectName(digest_of(Algorithm.SHAKE128, body), Kind.FILE).path
    cache.store(f"object:sw.example.org/{path}", StoredHead(200, Headers(), 0.0, 0.0), body, "")
    return f"object:sw.example.org/{path}"


def test_a_flipped_bit_is_what_the_edge_takes_for_damage(tmp_path, cache, statistics):
    plain = os.urandom(100_000)
    put(cache, os.urandom(200_000))
    key = put(cache, plain)
    victim = find_victim(tmp_path, {hashlib.sha256(plain).hexdigest(): "/lib/file.so"})
    assert (victim.key, victim.path) == (key, "/lib/file.so")
    assert victim.is_whole()

    flip(victim)
    assert not victim.is_whole()
    assert cache.load(key, digest_of_key(key)) is None
    assert statistics.disk_failures == 1
    assert not victim.is_whole(), "the edge has removed it"

    put(cache, plain)
    assert victim.is_whole(), "the edge has fetched it again"


def test_what_is_too_small_to_be_on_disk_alone_is_no_victim(tmp_path, cache):
    plain = os.urandom(1000)
    put(cache, plain)
    with pytest.raises(DemoFailedError, match="large enough"):
        find_victim(tmp_path, {hashlib.sha256(plain).hexdigest(): "/lib/small"})
