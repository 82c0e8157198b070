"""Shared hypothesis strategies: values of the repository format."""

from __future__ import annotations

import itertools
import stat
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from cdn.catalog.entries import Chunk, Entry, decode_name, encode_name
from cdn.compression import Compression
from cdn.hashing import Algorithm, Digest
from cdn.objects import Kind, ObjectName


def digests() -> st.SearchStrategy[Digest]:
    """Digests of every algorithm."""
    return st.builds(
        Digest,
        st.sampled_from(Algorithm),
        st.binary(min_size=20, max_size=20),
    )


def object_names() -> st.SearchStrategy[ObjectName]:
    """Names of objects of every kind."""
    return st.builds(ObjectName, digests(), st.sampled_from(Kind))


def compressible_bytes(size_max: int = 100_000) -> st.SearchStrategy[bytes]:
    """Bytes with repetitions, as files have them, and without."""
    repeated = st.builds(lambda piece, times: (piece * times)[:size_max], st.binary(max_size=200), st.integers(0, 2000))
    return st.one_of(st.binary(max_size=5000), repeated)


def names() -> st.SearchStrategy[str]:
    """Names of directory entries, undecodable bytes included; short ones are likely, so that they meet."""
    raw = st.binary(min_size=1, max_size=40).filter(
        lambda name: not set(name) & {0, ord("/")} and name not in (b".", b"..")
    )
    return st.one_of(st.sampled_from("abc"), raw.map(decode_name))


def xattrs() -> st.SearchStrategy[tuple[tuple[bytes, bytes], ...]]:
    """Extended attributes in ascending key order."""
    key = st.binary(min_size=1, max_size=255).filter(lambda raw: 0 not in raw)
    return st.dictionaries(key, st.binary(max_size=255), max_size=4).map(lambda found: tuple(sorted(found.items())))


def chunk_lists() -> st.SearchStrategy[tuple[Chunk, ...]]:
    """Chunks without gaps, of one hash algorithm."""

    def build(parts: list[tuple[int, bytes, bytes | None]], algorithm: Algorithm) -> tuple[Chunk, ...]:
        offsets = itertools.accumulate((size for size, _, _ in parts), initial=0)
        return tuple(
            Chunk(offset, size, Digest(algorithm, value), plain)
            for offset, (size, value, plain) in zip(offsets, parts, strict=False)
        )

    value = st.binary(min_size=20, max_size=20).filter(any)
    part = st.tuples(st.integers(1, 1 << 40), value, st.none() | st.binary(min_size=32, max_size=32))
    return st.builds(build, st.lists(part, min_size=1, max_size=4), st.sampled_from(Algorithm))


def entries() -> st.SearchStrategy[Entry]:
    """Entries of every kind, as a publisher makes them; they have no name, as paths name them."""
    common = {
        "mtime": st.integers(-(1 << 40), 1 << 40),
        "mtime_ns": st.integers(0, 999_999_999),
        "uid": st.integers(0, (1 << 32) - 1),
        "gid": st.integers(0, (1 << 32) - 1),
        "xattrs": st.just(()) | xattrs(),
        "is_hidden": st.booleans(),
    }
    content = {"is_external": st.booleans(), "is_direct_io": st.booleans(), "compression": st.sampled_from(Compression)}

    def mode(kind: int) -> st.SearchStrategy[int]:
        return st.integers(0, 0o7777).map(lambda bits: kind | bits)

    def build(kind: int, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Entry]:
        return st.builds(Entry, name=st.just(""), mode=mode(kind), **(common | fields))

    digest = digests().filter(lambda digest: not digest.is_null)
    plain = st.none() | st.binary(min_size=32, max_size=32)
    files = build(stat.S_IFREG, size=st.integers(0, 1 << 50), digest=digest, plain_digest=plain, **content)
    chunked = build(stat.S_IFREG, chunks=chunk_lists(), is_chunked=st.just(True), **content).map(
        lambda entry: replace(entry, size=sum(chunk.size for chunk in entry.chunks))
    )
    targets = st.binary(min_size=1, max_size=300).filter(lambda raw: 0 not in raw).map(decode_name)
    symlinks = build(stat.S_IFLNK, symlink=targets).map(
        lambda entry: replace(entry, size=len(encode_name(entry.symlink)))
    )
    devices = st.one_of(*(build(kind, device=st.integers(0, (1 << 32) - 1)) for kind in (stat.S_IFCHR, stat.S_IFBLK)))
    others = st.one_of(*(build(kind) for kind in (stat.S_IFIFO, stat.S_IFSOCK)))
    directories = build(stat.S_IFDIR, size=st.just(4096), link_count=st.just(2))
    return st.one_of(files, directories, symlinks, chunked, devices, others)
