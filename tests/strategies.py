"""Shared hypothesis strategies: values of the repository format."""

from __future__ import annotations

import itertools
import stat
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from cdn.catalog.entries import Chunk, Entry, decode_name, encode_name
from cdn.certificate import Fingerprint
from cdn.compression import Compression
from cdn.hashing import Algorithm, Digest
from cdn.history import Branch, History, Tag
from cdn.manifest import NUMBER_MAX, Manifest, is_repository_name
from cdn.objects import Kind, ObjectName
from cdn.reflog import Reflog, ReflogEntry
from cdn.whitelist import Whitelist, WhitelistEntry


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


# ----------------------------------------------------------------------------------------------------------- documents

repository_names = st.from_regex(r"\A[a-z0-9_][a-z0-9._-]{0,60}\Z").filter(is_repository_name)
"""Names of repositories."""

timestamps = st.integers(0, 253_402_300_799)
"""Seconds from 1970 to the end of the year 9999."""

_numbers = st.integers(0, NUMBER_MAX)


def manifests() -> st.SearchStrategy[Manifest]:
    """Manifests with any of the optional keys, and with extensions."""
    present = digests().filter(lambda digest: not digest.is_null)
    keys = st.sampled_from("abcdefghijklmnopqrstuvwxyzEFIJKOPQUVW0123456789")
    values = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=80)
    extensions = st.dictionaries(keys, values, max_size=5).map(lambda found: tuple(found.items()))
    return st.builds(
        Manifest,
        root_catalog=present,
        revision=_numbers,
        ttl_seconds=_numbers,
        fqrn=st.none() | repository_names,
        root_catalog_bytes=st.none() | _numbers,
        garbage_collectable=st.booleans(),
        alternative_names=st.booleans(),
        certificate=st.none() | present,
        history=st.none() | present,
        timestamp=_numbers,
        metainfo=st.none() | present,
        reflog=st.none() | present,
        extensions=extensions,
    )


def whitelists() -> st.SearchStrategy[Whitelist]:
    """Whitelists with any number of entries and both flags."""
    comments = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=40).map(str.strip)
    entries = st.builds(WhitelistEntry, st.builds(Fingerprint, digests()), comments)
    return st.builds(
        Whitelist,
        fqrn=repository_names,
        created_at=timestamps,
        expires=timestamps,
        entries=st.lists(entries, max_size=5).map(tuple),
        verify_ca_chain=st.booleans(),
        uses_pkcs7=st.booleans(),
    )


def histories() -> st.SearchStrategy[History]:
    """Histories with tags on several branches."""
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
    branches = st.lists(st.from_regex(r"\A[a-z0-9@/]{1,8}\Z"), max_size=3, unique=True)

    def with_tags(names: list[str]) -> st.SearchStrategy[History]:
        tags = st.builds(
            Tag,
            name=st.from_regex(r"\A[A-Za-z0-9_./:-]{1,20}\Z"),
            root_catalog=digests(),
            revision=_numbers,
            timestamp=_numbers,
            description=texts,
            root_catalog_bytes=_numbers,
            branch=st.sampled_from(["", *names]),
            channel=st.integers(0, 3),
        )
        return st.builds(
            History,
            fqrn=repository_names,
            tags=st.lists(tags, max_size=6, unique_by=lambda tag: tag.name).map(tuple),
            branches=st.just((Branch("", None, 0), *(Branch(name, "", 1) for name in names))),
            previous=st.none() | digests().filter(lambda digest: not digest.is_null),
        )

    return branches.flatmap(with_tags)


def reflogs() -> st.SearchStrategy[Reflog]:
    """Reflogs with objects of all four kinds."""
    kinds = st.sampled_from((Kind.CATALOG, Kind.CERTIFICATE, Kind.HISTORY, Kind.METAINFO))
    entries = st.builds(ReflogEntry, st.builds(ObjectName, digests(), kinds), _numbers)
    unique = st.lists(entries, max_size=10, unique_by=lambda entry: entry.name.digest).map(tuple)
    return st.builds(Reflog, repository_names, unique)
