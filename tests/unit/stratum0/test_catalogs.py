"""The cache of uncompressed catalogs."""

from __future__ import annotations

import pytest

from cdn.errors import DocumentError, HashMismatchError, ObjectMissingError
from cdn.hashing import Algorithm, Digest, digest_of
from cdn.objects import Kind, ObjectName
from cdn.storage.memory import MemoryStore
from stratum0.catalogs import CatalogCache
from tests.fakes.publishers import new_publisher


@pytest.fixture
def repository(tmp_path):
    return new_publisher(tmp_path / "publisher")


def cache_over(repository, folder, bytes_max=1 << 30):
    return CatalogCache(repository.store, folder, bytes_max)


def test_a_catalog_is_inflated_once(repository, tmp_path):
    cache, root = cache_over(repository, tmp_path / "cache"), repository.head().root
    with cache.load(root) as catalog:
        assert catalog.revision == 1
    (repository.settings.storage / ObjectName(root, Kind.CATALOG).path).write_bytes(b"not looked at again")
    with cache.load(root) as catalog:
        assert catalog.revision == 1
    cache.forget(root)
    with pytest.raises(HashMismatchError):
        cache.load(root)


def test_a_catalog_that_the_store_lost_is_not_to_be_had_from_the_cache(repository, tmp_path):
    cache, root = cache_over(repository, tmp_path / "cache"), repository.head().root
    cache.load(root).close()
    repository.store.delete(ObjectName(root, Kind.CATALOG).path)
    with pytest.raises(ObjectMissingError):
        cache.load(root)
    assert not list((tmp_path / "cache").glob("*.catalog"))


def test_a_damaged_object_is_not_cached(repository, tmp_path):
    cache, root = cache_over(repository, tmp_path / "cache"), repository.head().root
    file = repository.settings.storage / ObjectName(root, Kind.CATALOG).path
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(HashMismatchError):
        cache.load(root)
    file.write_bytes(good)
    with cache.load(root) as catalog:
        assert catalog.revision == 1
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.endswith(".staged")]


@pytest.mark.parametrize("stored", [b"no zlib", b""])
def test_an_object_of_the_right_digest_that_is_no_catalog_is_refused(tmp_path, stored):
    store, digest = MemoryStore(), digest_of(Algorithm.SHA1, stored)
    store.put(ObjectName(digest, Kind.CATALOG).path, stored)
    with pytest.raises(DocumentError):
        CatalogCache(store, tmp_path / "cache").load(digest)


def test_what_is_written_in_another_run_of_the_machine_is_not_used(repository, tmp_path):
    folder, root = tmp_path / "cache", repository.head().root
    cache_over(repository, folder).load(root).close()
    (folder / "boot").write_text("another run")
    file = folder / f"{root.text}.catalog"
    file.write_bytes(b"\0" * file.stat().st_size)
    with cache_over(repository, folder).load(root) as catalog:
        assert catalog.revision == 1


def test_the_cache_stays_within_its_bound_and_keeps_what_was_used_last(repository, tmp_path):
    roots: list[Digest] = [repository.head().root]
    for number in range(6):
        with repository.transaction() as transaction:
            transaction.put_file(f"/{number}", b"x")
        roots.append(repository.head().root)
    size = repository.catalogs.file_of(roots[0]).stat().st_size
    cache = cache_over(repository, tmp_path / "cache", bytes_max=3 * size)
    for root in roots:
        cache.load(root).close()
    kept = list((tmp_path / "cache").glob("*.catalog"))
    assert sum(file.stat().st_size for file in kept) <= 3 * size + size
    assert f"{roots[-1].text}.catalog" in {file.name for file in kept}


def test_a_copy_is_private(repository, tmp_path):
    root = repository.head().root
    repository.catalogs.copy(root, tmp_path / "copy")
    (tmp_path / "copy").write_bytes(b"changed")
    with repository.catalogs.load(root) as catalog:
        assert catalog.revision == 1
    with pytest.raises(FileExistsError):
        repository.catalogs.copy(root, tmp_path / "copy")


def test_a_catalog_just_written_need_not_be_inflated(repository, tmp_path):
    root = repository.head().root
    repository.catalogs.copy(root, tmp_path / "written")
    store = MemoryStore()
    store.put(ObjectName(root, Kind.CATALOG).path, b"not looked at")
    cache = CatalogCache(store, tmp_path / "cache")
    cache.keep(root, tmp_path / "written")
    with cache.load(root) as catalog:
        assert catalog.revision == 1
