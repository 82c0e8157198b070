"""What real clients and tools demand of a publisher (spec §11.1), and the likeliest mistakes (§11.4), a test each.

Nothing of our own reads what is looked at here: only the standard library and a cryptography library that knows nothing
of the format.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import random
import sqlite3
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from cdn.hashing import Algorithm
from cdn.telemetry import install_fault_hook
from stratum0.config import Home, RepositorySettings
from stratum0.keys import resign
from stratum0.publish import PublishOptions, publish_tree
from stratum0.repository import Repository
from stratum0.web import StorageServer
from tests.fakes.publishers import NAME, copied

EMPTY_PATH_MD5 = "d41d8cd98f00b204e9800998ecf8427e"
TABLES = {"properties", "catalog", "chunks", "statistics", "nested_catalogs", "bind_mountpoints"}
COUNTERS = {
    f"{scope}_{name}"
    for scope in ("self", "subtree")
    for name in (
        "regular", "symlink", "special", "dir", "nested", "chunked", "chunks", "file_size", "chunked_size", "xattr",
        "external", "external_file_size",
    )
}  # fmt: skip
IDENTIFIERS = {"sha1": "", "shake128": "-shake128"}
LARGE = 9 << 20
DIRECTORY, MOUNTPOINT, FILE, SYMLINK, NESTED_ROOT, CHUNKED = 1, 2, 4, 8, 32, 64


class Served:
    """What a publisher serves, read by the letter of the specification."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.folder = Path(repository.store.root)
        self.algorithm = repository.settings.algorithm
        self.reload()

    def reload(self) -> None:
        self.manifest = (self.folder / ".cvmfspublished").read_bytes()
        self.body, self.hash_line, self.signature = split(self.manifest)
        self.fields = {line[:1]: line[1:] for line in self.body.decode().splitlines() if line[:1].isupper()}

    def hash(self, data: bytes) -> str:
        if self.algorithm is Algorithm.SHAKE128:
            return hashlib.shake_128(data).hexdigest(20) + "-shake128"
        return hashlib.sha1(data).hexdigest()

    def path(self, digest: str, suffix: str) -> Path:
        return self.folder / "data" / digest[:2] / (digest[2:] + suffix)

    def stored(self, digest: str, suffix: str) -> bytes:
        data = self.path(digest, suffix).read_bytes()
        assert self.hash(data) == digest
        return data

    def text_of(self, blob: bytes) -> str:
        return blob.hex() + IDENTIFIERS[self.algorithm.option]

    def catalogs(self, tmp: Path) -> Iterator[tuple[str, sqlite3.Connection, bytes]]:
        """Every catalog of the revision: where it is mounted, the database, its file's bytes."""
        todo = [("", self.fields["C"])]
        while todo:
            mountpoint, digest = todo.pop()
            data = zlib.decompress(self.stored(digest, "C"))
            file = tmp / f"{digest}.sqlite"
            file.write_bytes(data)
            connection = sqlite3.connect(file)
            connection.text_factory = bytes
            yield mountpoint, connection, data
            for path, nested, size in connection.execute("SELECT path, sha1, size FROM nested_catalogs"):
                assert size == len(zlib.decompress(self.stored(nested.decode(), "C")))
                todo.append((path.decode(), nested.decode()))
            connection.close()

    def master(self) -> rsa.RSAPublicKey:
        key = serialization.load_pem_public_key(self.repository.keys.public_key_file.read_bytes())
        assert isinstance(key, rsa.RSAPublicKey)
        return key

    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(zlib.decompress(self.stored(self.fields["X"], "X")))


def split(document: bytes) -> tuple[bytes, bytes, bytes]:
    body, rest = document.split(b"--\n", 1)
    hash_line, signature = rest.split(b"\n", 1)
    return body, hash_line, signature


def path_key(path: str) -> tuple[int, int]:
    return struct.unpack("<qq", hashlib.md5(path.encode()).digest())


@pytest.fixture(scope="module", params=["shake128", "sha1"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A repository with a revision of all kinds of entries, made once for all that only look at it."""
    folder = tmp_path_factory.mktemp(request.param)
    source = folder / "source"
    for each in ("software/1.0/bin", "data"):
        (source / each).mkdir(parents=True)
    (source / "software" / ".cvmfscatalog").touch()
    (source / "software" / "1.0" / "bin" / "tool").write_bytes(b"#!/bin/sh\n" * 50)
    (source / "software" / "1.0" / "bin" / "alias").symlink_to("tool")
    (source / "data" / "large").write_bytes(random.Random(1).randbytes(LARGE))
    (source / "data" / "medium").write_bytes(random.Random(2).randbytes(1 << 20))
    (source / "data" / "nothing").touch()
    home = Home(folder / "home")
    settings = RepositorySettings(NAME, home.storage_of(NAME), hash=request.param)
    with Repository.create(NAME, home, settings=settings) as repository:
        publish_tree(repository, source, options=PublishOptions(workers=0))
    return home


@pytest.fixture
def served(made: Home) -> Iterator[Served]:
    """For tests that change nothing."""
    with Repository.peek(NAME, made) as repository:
        yield Served(repository)


@pytest.fixture
def changing(made: Home, tmp_path: Path) -> Iterator[Served]:
    """For tests that publish or sign: a copy of their own."""
    with copied(made, tmp_path / "home") as repository:
        yield Served(repository)


# -------------------------------------------------------------------------------------------- §11.1: what there must be


def test_1_the_manifest_has_what_a_client_needs_and_what_is_customary(served: Served) -> None:
    assert set("CRDSNXT") | set("BGA") <= served.fields.keys()
    assert served.fields["R"] == EMPTY_PATH_MD5
    assert served.fields["N"] == NAME


def test_2_the_whitelist_is_unexpired_and_lists_the_certificate(served: Served) -> None:
    body, hash_line, _ = split((served.folder / ".cvmfswhitelist").read_bytes())
    lines = body.decode().splitlines()
    now = dt.datetime.now(dt.UTC).strftime("%Y%m%d%H")
    assert len(lines[0]) == 14
    assert lines[1][0] == "E"
    assert lines[1][1:11] > now
    assert lines[2] == f"N{NAME}"
    assert served.hash(body).encode() == hash_line or hashlib.sha1(body).hexdigest().encode() == hash_line
    wanted = served.certificate().fingerprint(hashes.SHA1()).hex()
    shake = hashlib.shake_128(served.certificate().public_bytes(serialization.Encoding.DER)).hexdigest(20)
    listed = [line.split("#")[0].split()[0].replace(":", "").lower().partition("-")[0] for line in lines[3:]]
    assert wanted in listed or shake in listed


def test_3_certificate_and_root_catalog_are_compressed_objects(served: Served) -> None:
    assert served.certificate().subject is not None
    assert zlib.decompress(served.stored(served.fields["C"], "C")).startswith(b"SQLite format 3\0")


def test_4_every_catalog_has_its_tables_properties_counters_and_root_row(served: Served, tmp_path: Path) -> None:
    mountpoints = set()
    for mountpoint, catalog, _ in served.catalogs(tmp_path):
        mountpoints.add(mountpoint)
        tables = {name.decode() for (name,) in catalog.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert tables >= TABLES
        properties = {key.decode(): value for key, value in catalog.execute("SELECT key, value FROM properties")}
        assert {"schema", "schema_revision", "revision", "last_modified"} <= properties.keys()
        assert float(properties["schema"]) == 2.5
        assert {counter.decode() for (counter,) in catalog.execute("SELECT counter FROM statistics")} >= COUNTERS
        key = path_key(mountpoint)
        row = "SELECT count(*) FROM catalog WHERE md5path_1 = ? AND md5path_2 = ?"
        assert catalog.execute(row, key).fetchone() == (1,)
    assert mountpoints == {"", "/software"}


def test_5_every_object_is_there_the_empty_file_too(served: Served, tmp_path: Path) -> None:
    found = set()
    for _, catalog, _ in served.catalogs(tmp_path):
        for blob, flags in catalog.execute("SELECT hash, flags FROM catalog WHERE hash IS NOT NULL"):
            assert flags & CHUNKED == 0
            found.add(len(zlib.decompress(served.stored(served.text_of(blob), ""))))
        for blob, size in catalog.execute("SELECT hash, size FROM chunks"):
            assert len(zlib.decompress(served.stored(served.text_of(blob), "P"))) == size
    assert 0 in found


def test_6_the_public_key_file_is_what_clients_are_configured_with(served: Served) -> None:
    assert served.repository.keys.public_key_file.read_bytes().startswith(b"-----BEGIN PUBLIC KEY-----")
    assert served.master().key_size >= 2048


def test_replicas_and_tools_find_what_they_need(served: Served, tmp_path: Path) -> None:
    assert (served.folder / ".cvmfs_master_replica").is_file()
    assert served.fields["G"] == "yes"
    reflog = (served.folder / ".cvmfsreflog").read_bytes()
    assert served.hash(reflog) == served.fields["Y"]
    file = tmp_path / "history"
    file.write_bytes(zlib.decompress(served.stored(served.fields["H"], "H")))
    history = sqlite3.connect(file)
    properties = dict(history.execute("SELECT key, value FROM properties"))
    assert (float(properties["schema"]), properties["fqrn"]) == (1.0, NAME)
    assert history.execute("SELECT count(*) FROM branches WHERE branch = '' AND parent IS NULL").fetchone() == (1,)
    history.close()
    (catalog,) = [catalog for mountpoint, catalog, _ in served.catalogs(tmp_path) if not mountpoint][:1]
    assert catalog is not None


# ---------------------------------------------------------------------------------------- §11.4: the likeliest mistakes


def test_mistake_1_the_manifest_is_signed_with_a_digest_info_and_the_whitelist_without(served: Served) -> None:
    key = served.certificate().public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    key.verify(served.signature, served.hash_line, padding.PKCS1v15(), hashes.SHA1())
    _, hash_line, signature = split((served.folder / ".cvmfswhitelist").read_bytes())
    numbers = served.master().public_numbers()
    size = (numbers.n.bit_length() + 7) // 8
    block = pow(int.from_bytes(signature, "big"), numbers.e, numbers.n).to_bytes(size, "big")
    assert block == b"\0\1" + b"\xff" * (size - 3 - len(hash_line)) + b"\0" + hash_line


def test_mistake_2_the_hash_covers_the_last_line_feed_and_is_signed_without_one(served: Served) -> None:
    assert served.body.endswith(b"\n")
    assert served.hash(served.body).encode() == served.hash_line
    assert b"\n" not in served.hash_line


def test_mistake_3_hashes_are_over_stored_bytes_and_chunks_have_their_suffix(served: Served, tmp_path: Path) -> None:
    chunks = 0
    for _, catalog, _ in served.catalogs(tmp_path):
        for (blob,) in catalog.execute("SELECT hash FROM chunks"):
            assert served.path(served.text_of(blob), "P").is_file()
            assert not served.path(served.text_of(blob), "").exists()
            chunks += 1
    assert chunks > 1


def test_mistake_4_the_algorithm_stands_before_the_suffix_and_in_every_text(served: Served, tmp_path: Path) -> None:
    identifier = IDENTIFIERS[served.algorithm.option]
    for key in "CXHMY":
        assert len(served.fields[key]) == 40 + len(identifier)
        assert served.fields[key].endswith(identifier)
    for _, catalog, _ in served.catalogs(tmp_path):
        for (text,) in catalog.execute("SELECT sha1 FROM nested_catalogs"):
            assert text.decode().endswith(identifier)
    names = [file.name for file in (served.folder / "data").glob("??/*")]
    assert names
    assert all(name[38 : 38 + len(identifier)] == identifier and len(name) <= 39 + len(identifier) for name in names)


def test_mistake_5_path_keys_are_signed_little_endian_and_the_roots_parent_is_zero(
    served: Served, tmp_path: Path
) -> None:
    keys = {}
    for _, catalog, _ in served.catalogs(tmp_path):
        rows = catalog.execute("SELECT name, md5path_1, md5path_2, parent_1, parent_2 FROM catalog")
        keys.update({row[0]: row[1:] for row in rows})
    assert keys[b""] == (338333539836370388, 9098107892288553193, 0, 0)
    assert keys[b"tool"] == (*path_key("/software/1.0/bin/tool"), *path_key("/software/1.0/bin"))


def test_mistake_6_names_and_targets_are_never_null_and_no_hash_is_an_empty_blob(
    served: Served, tmp_path: Path
) -> None:
    for _, catalog, _ in served.catalogs(tmp_path):
        bad = "name IS NULL OR symlink IS NULL OR (hash IS NOT NULL AND length(hash) <> 20)"
        assert catalog.execute(f"SELECT count(*) FROM catalog WHERE {bad}").fetchone() == (0,)
        without = "SELECT count(*) FROM catalog WHERE flags & ? AND hash IS NOT NULL"
        for flag in (DIRECTORY, SYMLINK, CHUNKED):
            assert catalog.execute(without, (flag,)).fetchone() == (0,)


def test_mistake_7_catalogs_have_row_ids_and_no_write_ahead_log(served: Served, tmp_path: Path) -> None:
    for _, catalog, data in served.catalogs(tmp_path):
        assert data[18:20] == b"\1\1"
        highest, rows = catalog.execute("SELECT max(rowid), count(*) FROM catalog").fetchone()
        assert highest <= rows * 1.25 + 1


def test_mistake_8_a_nested_catalog_is_whole_and_leaves_nothing_behind(served: Served, tmp_path: Path) -> None:
    for mountpoint, catalog, _ in served.catalogs(tmp_path):
        rows = {
            name: (flags, parent)
            for name, flags, parent in catalog.execute("SELECT name, flags, parent_1 FROM catalog")
        }
        if not mountpoint:
            assert rows[b"software"][0] & (MOUNTPOINT | NESTED_ROOT) == MOUNTPOINT
            assert b"tool" not in rows
            assert b".cvmfscatalog" not in rows
        else:
            prefix = catalog.execute("SELECT value FROM properties WHERE key = 'root_prefix'").fetchone()
            assert prefix == (mountpoint.encode(),)
            assert rows[b"software"][0] & (MOUNTPOINT | NESTED_ROOT) == NESTED_ROOT
            assert rows[b"software"][1] == path_key("")[0]
            assert {b"tool", b".cvmfscatalog"} <= rows.keys()


def test_mistake_9_time_and_revision_agree_and_only_grow(changing: Served, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    for number in range(3):
        with changing.repository.transaction() as transaction:
            transaction.put_file("/file", b"%d" % number)
        changing.reload()
        (facts,) = [
            dict(catalog.execute("SELECT key, value FROM properties"))
            for mountpoint, catalog, _ in changing.catalogs(tmp_path)
            if not mountpoint
        ]
        assert int(changing.fields["T"]) >= int(facts[b"last_modified"])
        assert int(changing.fields["S"]) == int(facts[b"revision"])
        seen.append((int(changing.fields["S"]), int(changing.fields["T"])))
    revisions = [revision for revision, _ in seen]
    assert revisions == list(range(revisions[0], revisions[0] + 3))
    assert seen == sorted(seen)


def test_mistake_10_sizes_and_compression_bits_are_those_of_the_content(served: Served, tmp_path: Path) -> None:
    sizes = {}
    for _, catalog, _ in served.catalogs(tmp_path):
        for name, size, blob, flags in catalog.execute("SELECT name, size, hash, flags FROM catalog WHERE flags & 4"):
            if blob is not None:
                assert flags >> 11 & 7 == 0
                assert len(zlib.decompress(served.stored(served.text_of(blob), ""))) == size
            sizes[name] = size
        pieces = "SELECT sum(size), min(offset) FROM chunks"
        total = catalog.execute(pieces).fetchone()
        assert total in {(None, None), (LARGE, 0)}
    assert sizes[b"large"] == LARGE


def test_mistake_11_every_object_is_there_before_the_manifest_names_it(changing: Served) -> None:
    stored: list[set[str]] = []
    manifests: list[bytes] = []

    def look(name: str) -> None:
        if name == "commit.manifest.before":
            stored.append({str(file) for file in (changing.folder / "data").glob("??/*")})
            manifests.append((changing.folder / ".cvmfspublished").read_bytes())

    install_fault_hook(look)
    with changing.repository.transaction() as transaction:
        transaction.put_file("/software/new", b"new content")
    install_fault_hook(None)
    assert manifests == [changing.manifest]
    assert stored == [{str(file) for file in (changing.folder / "data").glob("??/*")}]


async def test_mistake_12_objects_are_served_as_they_are_over_http_1_1(served: Served) -> None:
    server = StorageServer(served.folder.parent)
    await server.start()
    try:
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            for path in (".cvmfspublished", str(served.path(served.fields["C"], "C").relative_to(served.folder))):
                headers = {"Accept-Encoding": "gzip, br, zstd"}
                url = f"{server.url}/cvmfs/{NAME}/{path}"
                async with session.get(url, headers=headers, allow_redirects=False) as response:
                    assert response.status == 200
                    assert response.version == aiohttp.HttpVersion11
                    assert "Content-Encoding" not in response.headers
                    assert await response.read() == (served.folder / path).read_bytes()
    finally:
        await server.stop()


def test_mistake_13_the_whitelist_counts_in_utc_wherever_it_is_signed(
    changing: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        before = dt.datetime.now(dt.UTC)
        resign(changing.repository)
    finally:
        monkeypatch.undo()
        time.tzset()
    lines = (changing.folder / ".cvmfswhitelist").read_bytes().decode("latin-1").splitlines()
    created = dt.datetime.strptime(lines[0], "%Y%m%d%H%M%S").replace(tzinfo=dt.UTC)
    expires = dt.datetime.strptime(lines[1][1:], "%Y%m%d%H%M%S").replace(tzinfo=dt.UTC)
    assert abs(created - before) < dt.timedelta(minutes=5)
    assert expires - created >= dt.timedelta(days=29)


def test_mistake_14_the_fingerprint_is_over_der_in_upper_case_with_colons(served: Served) -> None:
    lines = (served.folder / ".cvmfswhitelist").read_bytes().decode("latin-1").splitlines()
    der = served.certificate().public_bytes(serialization.Encoding.DER)
    expected = served.hash(der).upper()
    digits, dash, identifier = expected.partition("-")
    text = ":".join(digits[at : at + 2] for at in range(0, 40, 2)) + dash + identifier
    sha1 = hashlib.sha1(der).hexdigest().upper()
    plain = ":".join(sha1[at : at + 2] for at in range(0, 40, 2))
    assert lines[3].split()[0] in {text, plain}
