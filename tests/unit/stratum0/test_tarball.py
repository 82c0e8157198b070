"""Ingesting a tarball adds what it holds, streamed, or refuses it whole."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import stat
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import zstandard

from cdn.catalog.entries import Entry
from cdn.catalog.tree import CatalogTree
from cdn.chunking import CHUNKED_ABOVE_BYTES
from cdn.errors import CdnError, DocumentError, UsageError
from stratum0.content import StoredContent
from stratum0.publish import PublishOptions, PublishResult, ingest_tarball
from stratum0.repository import Repository
from stratum0.tarball import HEADERS_BYTES_MAX
from tests.fakes import publishers
from tests.fakes.publishers import new_publisher
from tests.unit.stratum0.test_content import read_back

COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gz": gzip.compress,
    "two gz members": lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]),
    "xz": partial(lzma.compress, preset=0),
    "two xz streams": lambda data: lzma.compress(data[:1000]) + bytes(8) + lzma.compress(data[1000:]),
    "zst": zstandard.ZstdCompressor().compress,
    "two zst frames": lambda data: b"".join(
        zstandard.ZstdCompressor().compress(part) for part in (data[:1000], data[1000:])
    ),
    "bz2": bz2.compress,
}


@pytest.fixture
def repository(tmp_path: Path):
    opened = new_publisher(tmp_path / "home", include_xattrs=True)
    yield opened
    opened.close()


class Maker:
    """Makes tarballs in memory."""

    def __init__(self, tar_format: int = tarfile.PAX_FORMAT) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tar_format)  # noqa: SIM115  closed by `bytes`

    def add(self, name: str, data: bytes = b"", **attributes: object) -> Maker:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        info.mtime = 1_700_000_000
        for key, value in attributes.items():
            setattr(info, key, value)
        self._tar.addfile(info, io.BytesIO(data))
        return self

    def folder(self, name: str, mode: int = 0o755) -> Maker:
        return self.add(name, type=tarfile.DIRTYPE, mode=mode)

    def bytes(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


def ingest(repository: Repository, data: bytes, to: str = "", **options: object) -> PublishResult:
    result = ingest_tarball(repository, io.BytesIO(data), to, options=PublishOptions(workers=0), **options)  # type: ignore[arg-type]
    publishers.published(repository)  # asserts that everything about it is right
    return result


def entries(repository: Repository) -> dict[str, Entry]:
    head = repository.head()
    with CatalogTree(repository.catalogs, head.root, head.root_size) as tree:
        return dict(tree.walk(""))


def content(repository: Repository, path: str) -> bytes:
    entry = entries(repository)[path]
    stored = StoredContent(entry.size, entry.compression, entry.digest, None, entry.chunks)
    return read_back(repository.store, stored)  # type: ignore[arg-type]


@pytest.mark.parametrize("compressed", COMPRESSED)
def test_every_compression_is_recognized_by_its_first_bytes(repository: Repository, compressed: str) -> None:
    data = Maker().folder("d").add("d/f", b"hello").add("large", bytes(CHUNKED_ABOVE_BYTES + 5)).bytes()
    ingest(repository, COMPRESSED[compressed](data))
    assert content(repository, "/d/f") == b"hello"
    assert content(repository, "/large") == bytes(CHUNKED_ABOVE_BYTES + 5)


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_member_is_published_as_it_is(repository: Repository, tar_format: int) -> None:
    maker = Maker(tar_format).folder("d", 0o2750).add("d/f", b"x", mode=0o4711, uid=5, gid=6)
    maker.add("link", type=tarfile.SYMTYPE, linkname="/no/$(VAR)", mode=0o777)
    maker.add("fifo", type=tarfile.FIFOTYPE, mode=0o600)
    maker.add("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
    ingest(repository, maker.bytes())
    found = entries(repository)
    assert found["/d"].mode == stat.S_IFDIR | 0o2750
    assert (found["/d/f"].mode, found["/d/f"].uid, found["/d/f"].gid) == (stat.S_IFREG | 0o4711, 5, 6)
    assert found["/d/f"].mtime == 1_700_000_000
    assert found["/link"].symlink == "/no/$(VAR)"
    assert found["/fifo"].mode == stat.S_IFIFO | 0o600
    assert (found["/null"].mode & stat.S_IFCHR, found["/null"].device) == (stat.S_IFCHR, os.makedev(1, 3))


def test_nanoseconds_before_and_after_1970_survive(repository: Repository) -> None:
    maker = Maker().add("a", pax_headers={"mtime": "1700000000.123456789"})
    maker.add("b", pax_headers={"mtime": "-1.5"})
    ingest(repository, maker.bytes())
    found = entries(repository)
    assert (found["/a"].mtime, found["/a"].mtime_ns) == (1_700_000_000, 123_456_789)
    assert (found["/b"].mtime, found["/b"].mtime_ns) == (-2, 500_000_000)


def test_extended_attributes_of_pax_headers_are_published(repository: Repository) -> None:
    ingest(repository, Maker().add("a", pax_headers={"SCHILY.xattr.user.origin": "here"}).bytes())
    assert entries(repository)["/a"].xattrs == ((b"user.origin", b"here"),)


def test_names_of_any_bytes_survive(repository: Repository) -> None:
    name = os.fsdecode(b"odd \xff\n name")
    ingest(repository, Maker(tarfile.GNU_FORMAT).add(name, b"x").bytes())
    assert f"/{name}" in entries(repository)


def test_long_names_survive(repository: Repository) -> None:
    name = "/".join(["d" * 200] * 3 + ["f" * 255])
    ingest(repository, Maker().add(name, b"x").bytes())
    assert content(repository, f"/{name}") == b"x"


def test_what_is_there_and_not_in_the_tarball_stays(repository: Repository) -> None:
    ingest(repository, Maker().folder("d").add("d/old", b"old").add("d/both", b"1").bytes())
    ingest(repository, Maker().folder("d", 0o700).add("d/new", b"new").add("d/both", b"2").bytes())
    assert [content(repository, f"/d/{name}") for name in ("old", "new", "both")] == [b"old", b"new", b"2"]
    assert stat.S_IMODE(entries(repository)["/d"].mode) == 0o700


def test_folders_that_the_tarball_does_not_name_are_made(repository: Repository) -> None:
    ingest(repository, Maker().add("a/b/c", b"x").bytes(), "/opt/app")
    assert content(repository, "/opt/app/a/b/c") == b"x"


def test_the_last_of_two_members_of_one_name_counts(repository: Repository) -> None:
    ingest(repository, Maker().add("f", b"first").add("f", b"second").bytes())
    assert content(repository, "/f") == b"second"


def test_a_member_may_replace_one_of_another_kind(repository: Repository) -> None:
    ingest(repository, Maker().folder("x").add("x/f", b"f").bytes())
    ingest(repository, Maker().add("x", b"now a file").bytes())
    assert content(repository, "/x") == b"now a file"
    assert "/x/f" not in entries(repository)


def test_a_hard_link_has_the_content_of_what_it_points_to(repository: Repository) -> None:
    maker = Maker().folder("d").add("d/one", b"linked").add("d/two", type=tarfile.LNKTYPE, linkname="d/one")
    maker.add("far", type=tarfile.LNKTYPE, linkname="./d/one")
    ingest(repository, maker.bytes())
    assert content(repository, "/d/two") == content(repository, "/far") == b"linked"


def test_names_of_one_file_in_one_folder_stay_linked(repository: Repository) -> None:
    maker = Maker().add("d/one", b"linked").add("far", type=tarfile.LNKTYPE, linkname="d/one")
    maker.add("d/two", type=tarfile.LNKTYPE, linkname="d/one").add("d/three", type=tarfile.LNKTYPE, linkname="d/two")
    ingest(repository, maker.add("d/other", b"x").add("d/another", type=tarfile.LNKTYPE, linkname="d/other").bytes())
    found = entries(repository)
    assert {found[f"/d/{name}"].link_count for name in ("one", "two", "three")} == {3}
    assert len({found[f"/d/{name}"].hardlink_group for name in ("one", "two", "three")}) == 1
    assert found["/d/other"].hardlink_group == found["/d/another"].hardlink_group != found["/d/one"].hardlink_group
    assert found["/far"].link_count == 1


def test_a_hard_link_joins_those_that_the_repository_has(repository: Repository) -> None:
    ingest(repository, Maker().add("d/a", b"1").add("d/b", type=tarfile.LNKTYPE, linkname="d/a").add("d/x").bytes())
    maker = Maker().add("d/c", type=tarfile.LNKTYPE, linkname="d/b").add("d/y", type=tarfile.LNKTYPE, linkname="d/x")
    ingest(repository, maker.add("d/a", type=tarfile.LNKTYPE, linkname="d/a").bytes())
    found = entries(repository)
    assert {found[f"/d/{name}"].link_count for name in "abc"} == {3}
    assert {found[f"/d/{name}"].link_count for name in "xy"} == {2}
    assert content(repository, "/d/c") == b"1"


def test_one_of_several_linked_names_can_become_another_file(repository: Repository) -> None:
    maker = Maker().add("a", b"old").add("b", type=tarfile.LNKTYPE, linkname="a").add("a", b"new")
    ingest(repository, maker.bytes())
    found = entries(repository)
    assert (found["/a"].link_count, found["/b"].link_count) == (1, 1)
    assert (content(repository, "/a"), content(repository, "/b")) == (b"new", b"old")


def test_a_name_may_be_a_directory_in_between(repository: Repository) -> None:
    maker = Maker().add("x", b"first").folder("x").add("x/f", b"f").add("x/d/g", b"g").add("x", b"last")
    ingest(repository, maker.bytes())
    assert content(repository, "/x") == b"last"
    assert set(entries(repository)) == {"", "/x"}


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("name", [".cvmfscatalog", ".cvmfsautocatalog"])
def test_a_marker_that_is_no_regular_file_is_refused(repository: Repository, name: str, kind: bytes) -> None:
    refused(repository, Maker().add(f"d/{name}", type=kind, linkname="x").bytes(), "regular file")
    refused(repository, Maker().add(f"d/{name}/f").bytes(), "only marks a nested catalog")


@pytest.mark.parametrize("time", ["1e999999999", "-1E+999999", "1e400", "nan", "inf", "99999999999999999999", "x"])
def test_an_impossible_time_is_damage(repository: Repository, time: str) -> None:
    refused(repository, Maker().add("f", pax_headers={"mtime": time}).bytes(), "impossible time")


EXTENDING = {
    "long name": tarfile.GNUTYPE_LONGNAME,
    "long link": tarfile.GNUTYPE_LONGLINK,
    "extended": tarfile.XHDTYPE,
    "global": tarfile.XGLTYPE,
    "of Solaris": tarfile.SOLARIS_XHDTYPE,
}


def header(name: str, size: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


class Endless(io.RawIOBase):
    """Some bytes, then one block again and again; counts what was read."""

    def __init__(self, head: bytes, block: bytes) -> None:
        self._head, self._block = head, block
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data, self._head = self._head[:size], self._head[size:]
        data = data or self._block[: size if size >= 0 else None]
        self.count += len(data)
        return data


@pytest.mark.parametrize("kind", EXTENDING)
def test_a_header_that_would_fill_the_memory_is_refused_before_it_is_read(repository: Repository, kind: str) -> None:
    endless = Endless(header("x", 1 << 40, EXTENDING[kind]), bytes(1 << 20))
    with pytest.raises(DocumentError, match="bytes of headers"):
        ingest_tarball(repository, endless, options=PublishOptions(workers=0))  # type: ignore[arg-type]
    assert endless.count <= HEADERS_BYTES_MAX


@pytest.mark.parametrize("block", [b"1\n" * 256, b"1" * 512], ids=["many numbers", "one number"])
def test_the_map_of_a_sparse_file_has_an_end(
    repository: Repository, block: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    if b"\n" in block:  # the numbers up to the real end take two seconds
        monkeypatch.setattr("stratum0.tarball.HEADERS_BYTES_MAX", HEADERS_BYTES_MAX // 8)
    fields = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}
    begin = Maker().add("s", pax_headers=fields).bytes()[: 3 * 512]
    endless = Endless(begin[: 2 * 512] + header("s", 1 << 40, tarfile.REGTYPE) + b"9" * 9 + b"\n", block)
    with pytest.raises(DocumentError, match="header"):
        ingest_tarball(repository, endless, options=PublishOptions(workers=0))  # type: ignore[arg-type]


def test_the_older_map_of_a_sparse_file_has_an_end(repository: Repository) -> None:
    first, more = bytearray(header("s", 0, tarfile.GNUTYPE_SPARSE)), bytearray(b"00000000001\0" * 43)
    first[482] = 1  # "extended"
    first[148:156] = b"%06o\0 " % (sum(first[:148]) + sum(first[156:]) + 8 * ord(" "))
    more[504:] = b"\x01" + bytes(7)
    with pytest.raises(DocumentError, match="bytes of headers"):
        ingest_tarball(repository, Endless(bytes(first), bytes(more)), options=PublishOptions(workers=0))  # type: ignore[arg-type]
    refused(repository, bytes(first + more), "a header is damaged")


def test_headers_of_headers_have_an_end(repository: Repository) -> None:
    one = tarfile.TarInfo.create_pax_global_header({"comment": "x"})
    refused(repository, one * 3000 + Maker().add("f").bytes(), "headers")
    ingest(repository, one * 5 + Maker().add("f").bytes())


def test_global_headers_have_a_limit_in_all(repository: Repository) -> None:
    parts = [
        tarfile.TarInfo.create_pax_global_header({f"k{number}": "v" * (1 << 20)}) + header(f"f{number}", 0, b"0")
        for number in range(5)
    ]
    refused(repository, b"".join(parts) + bytes(1024), "global headers")


def test_a_negative_size_is_damage(repository: Repository) -> None:
    refused(repository, Maker().add("f", b"x", pax_headers={"size": "-600"}).bytes(), "damaged")


def test_a_hard_link_to_nothing_is_refused(repository: Repository) -> None:
    refused(repository, Maker().add("two", type=tarfile.LNKTYPE, linkname="one").bytes(), "which is not there")


def test_a_sparse_file_is_published_with_its_holes(repository: Repository, tmp_path: Path) -> None:
    file = tmp_path / "sparse"
    with file.open("wb") as stream:
        stream.seek(3 << 20)
        stream.write(b"end")
    os.system(f"cd {tmp_path} && tar --sparse -cf t.tar sparse")
    ingest(repository, (tmp_path / "t.tar").read_bytes())
    assert content(repository, "/sparse") == bytes(3 << 20) + b"end"


def test_leading_components_can_be_stripped(repository: Repository) -> None:
    data = Maker().folder("app-1.0").folder("app-1.0/bin").add("app-1.0/bin/x", b"x").add("README", b"").bytes()
    ingest(repository, data, "/app", strip_components=1)
    assert content(repository, "/app/bin/x") == b"x"
    assert "/app/README" not in entries(repository)


def test_dot_prefixes_and_leading_slashes_mean_the_subtree(repository: Repository) -> None:
    ingest(repository, Maker().folder("./").add("./a", b"a").add("/b", b"b").bytes(), "/sub")
    assert content(repository, "/sub/a") == b"a"
    assert content(repository, "/sub/b") == b"b"


def test_many_members_take_turns_between_folders(repository: Repository) -> None:
    maker = Maker()
    contents = {f"d{number % 7}/f{number}": random.Random(number).randbytes(number % 50) for number in range(2500)}
    for name, data in contents.items():
        maker.add(name, data)
    result = ingest(repository, maker.bytes())
    assert result.counts.files == 2500
    for name in list(contents)[::250]:
        assert content(repository, f"/{name}") == contents[name]


# ------------------------------------------------------------------------------------------------------------ refusals


def refused(repository: Repository, data: bytes, message: str, to: str = "") -> None:
    revision = repository.head().revision
    with pytest.raises(CdnError, match=message):
        ingest(repository, data, to)
    assert repository.head().revision == revision
    assert not list((repository.folder / "transactions").iterdir())


@pytest.mark.parametrize("name", ["../escape", "a/../../escape", "a/..", "/../x"])
def test_names_that_lead_out_are_refused(repository: Repository, name: str) -> None:
    refused(repository, Maker().add("before", b"x").add(name, b"x").bytes(), "leads out of the subtree")


def test_an_archive_without_its_end_is_refused(repository: Repository) -> None:
    """A download that broke off between two members looks just like this."""
    data = Maker().add("a", b"x" * 512).bytes()
    refused(repository, data[:1024], "end marker")


@pytest.mark.parametrize("kept", [100, 600, 1023, 1100, 1500])
def test_a_truncated_archive_is_refused(repository: Repository, kept: int) -> None:
    data = Maker().add("a", b"x" * 512).add("b", b"y" * 512).bytes()
    refused(repository, data[:kept], "damaged|ended after|end")


@pytest.mark.parametrize("compressed", ["gz", "xz", "zst", "bz2"])
def test_a_truncated_compressed_stream_is_refused(repository: Repository, compressed: str) -> None:
    data = COMPRESSED[compressed](Maker().add("a", random.Random(1).randbytes(100_000)).bytes())
    refused(repository, data[: len(data) // 2], "damaged|end|read")


@pytest.mark.parametrize("compressed", ["gz", "xz", "bz2"])
def test_a_compressed_stream_is_read_to_its_end(repository: Repository, compressed: str) -> None:
    """Where the check value is; what comes after the end marker of the archive is as good as any."""
    data = COMPRESSED[compressed](Maker().add("a", b"a").bytes() + random.Random(1).randbytes(3 << 19))
    ingest(repository, data)
    refused(repository, data[:-1000], "damaged")


@pytest.mark.parametrize("compressed", ["gz", "xz", "bz2"])
def test_a_damaged_compressed_stream_is_refused(repository: Repository, compressed: str) -> None:
    data = bytearray(COMPRESSED[compressed](Maker().add("a", random.Random(1).randbytes(100_000)).bytes()))
    data[len(data) // 2] ^= 1
    refused(repository, bytes(data), "damaged|read")


def test_a_damaged_header_is_refused(repository: Repository) -> None:
    """The standard library would take it for the end of the archive."""
    data = bytearray(Maker().add("a", b"x").add("b", b"y").bytes())
    data[1024 + 5] ^= 1
    refused(repository, bytes(data), "header is damaged")


def test_something_that_is_no_archive_is_refused(repository: Repository) -> None:
    refused(repository, b"<html>404 not found</html>" * 100, "damaged")


def test_nothing_is_refused(repository: Repository) -> None:
    refused(repository, b"", "damaged|end marker")


def test_a_path_that_is_not_there_is_named(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.tar"):
        ingest_tarball(repository, tmp_path / "missing.tar")


def test_an_impossible_time_is_refused(repository: Repository) -> None:
    for text in ("nan", "1e400", "never"):
        with pytest.raises(DocumentError):
            ingest(repository, Maker().add("a", pax_headers={"mtime": text}).bytes())
