from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cdn.client.config import ClientSettings
from cdn.client.pins import Pin
from cdn.client.repository import Refreshed, open_repository
from cdn.client.sources import SourcePolicy
from cdn.clock import ManualClock, SystemClock
from cdn.errors import (
    AllSourcesFailedError,
    CdnError,
    ConfigError,
    RepositoryError,
    RollbackError,
    UnreachableError,
    UntrustedCertificateError,
    UsageError,
)
from cdn.objects import MANIFEST_PATH, Kind, ObjectName
from cdn.transport.retry import RetryPolicy
from cdn.trust import Blacklist
from tests.fakes.repositories import Network, Publication, Server, error_500, flipped
from tests.fakes.signer import NOW

ONE, TWO = "http://one/r", "http://two/r"
POLICY = SourcePolicy(rounds=RetryPolicy(1))
IMPATIENT = replace(POLICY, fallback_seconds=0.01)


@pytest.fixture
def publication():
    made = Publication()
    made.publish({"/file": b"one", "/n/file": b"nested one"}, ["/n"], tag="v1")
    return made


async def opened(publication, servers, cache: Path | None = None, policy: SourcePolicy = POLICY, **options):
    settings = ClientSettings(cache=cache, policy=policy)
    network = Network(servers)
    return await open_repository(
        publication.fqrn,
        servers=";".join(servers),
        keys=publication.keys,
        fetcher=network,
        settings=settings,
        **{"clock": ManualClock(NOW + 1000)} | options,
    )


async def test_a_newer_revision_is_switched_to_and_who_reads_the_old_one_goes_on(publication):
    async with await opened(publication, {ONE: Server(publication.served)}) as repository:
        before = repository.files
        assert await repository.refresh() is Refreshed.SAME
        publication.publish({"/file": b"two"})
        assert await repository.refresh() is Refreshed.NEWER
        assert (repository.revision, await repository.files.read("/file")) == (2, b"two")
        assert (before.revision, await before.read("/file")) == (1, b"one")
        assert await before.read("/n/file") == b"nested one"


async def test_catalogs_that_did_not_change_are_not_fetched_again(publication):
    tree = {"/file": b"one", "/n/file": b"same"}
    publication.publish(tree, ["/n"])
    server = Server(publication.served)
    async with await opened(publication, {ONE: server}) as repository:
        await repository.files.read("/n/file")
        publication.publish(tree | {"/more": b"more"}, ["/n"])
        server.asked.clear()
        await repository.refresh()
        await repository.files.read("/n/file")
        catalogs = [request.url for request in server.asked if request.url.endswith("C")]
        assert len(catalogs) == 1


@pytest.mark.parametrize("kind", ["manifest", "certificate", "root catalog"])
async def test_a_revision_that_cannot_be_verified_changes_nothing(publication, kind):
    server = Server(publication.copy())
    async with await opened(publication, {ONE: server}) as repository:
        publication.publish({"/file": b"two"})
        server.served = publication.served
        stored = ObjectName(publication.signer.digest(publication.signer.stored_certificate), Kind.CERTIFICATE)
        paths = {
            "manifest": MANIFEST_PATH,
            "certificate": stored.path,
            "root catalog": ObjectName(publication.root, Kind.CATALOG).path,
        }
        server.lie(paths[kind], flipped)
        assert await repository.refresh() is Refreshed.OFFLINE
        assert repository.is_offline
        assert (repository.revision, await repository.files.read("/file")) == (1, b"one")
        server.answers.clear()
        assert await repository.refresh() is Refreshed.NEWER
        assert not repository.is_offline


async def test_an_older_revision_is_refused_while_open(publication):
    old = publication.copy()
    publication.publish({"/file": b"two"})
    server = Server(publication.served)
    async with await opened(publication, {ONE: server}) as repository:
        server.served = {**publication.served, MANIFEST_PATH: old[MANIFEST_PATH]}
        assert await repository.refresh() is Refreshed.OFFLINE
        assert isinstance(repository.offline_reason, RollbackError)
        assert await repository.files.read("/file") == b"two"


async def test_an_older_revision_is_refused_after_a_restart(publication, tmp_path):
    old = publication.copy()
    publication.publish({"/file": b"two"})
    async with await opened(publication, {ONE: Server(publication.served)}, tmp_path) as repository:
        assert await repository.files.read("/file") == b"two"
    async with await opened(publication, {ONE: Server(old)}, tmp_path) as repository:
        assert isinstance(repository.offline_reason, RollbackError)
        assert (repository.revision, await repository.files.read("/file")) == (2, b"two")


@pytest.mark.parametrize("urls", [[ONE], [ONE, TWO]], ids=["one server", "two servers"])
async def test_a_repository_made_anew_is_refused_with_what_to_do(publication, tmp_path, urls):
    publication.publish({"/file": b"two"})
    async with await opened(publication, {url: Server(publication.served) for url in urls}, tmp_path):
        pass
    anew = Publication()
    anew.publish({"/file": b"another"}, timestamp=NOW + 10)
    async with await opened(anew, {url: Server(anew.served) for url in urls}, tmp_path) as repository:
        assert isinstance(repository.offline_reason, RollbackError)
        place = str(repository.offline_reason).partition("made it anew or set it back, remove ")[2]
    shutil.rmtree(place)
    async with await opened(anew, {url: Server(anew.served) for url in urls}, tmp_path) as repository:
        assert await repository.files.read("/file") == b"another"


async def test_a_blacklisted_revision_is_refused_without_advice_that_does_not_help(publication, tmp_path):
    blacklist = Blacklist.parse(f"<{publication.fqrn} 5\n".encode())
    with pytest.raises(RollbackError, match=r"nothing below 5 is accepted$"):
        await opened(publication, {ONE: Server(publication.served)}, tmp_path, blacklist=blacklist)


async def test_a_current_server_is_found_behind_a_stale_one(publication, tmp_path):
    old = publication.copy()
    publication.publish({"/file": b"two"})
    async with await opened(publication, {ONE: Server(publication.served)}, tmp_path):
        pass
    servers = {ONE: Server(old), TWO: Server(publication.served)}
    async with await opened(publication, servers, tmp_path) as repository:
        assert (repository.revision, repository.is_offline) == (2, False)


async def test_what_is_cached_reads_when_every_source_is_gone(publication, tmp_path):
    server = Server(publication.served)
    async with await opened(publication, {ONE: server}, tmp_path) as repository:
        await repository.files.read("/file")
        server.is_dead = True
        assert await repository.refresh() is Refreshed.OFFLINE
        assert await repository.files.read("/file") == b"one"
    async with await opened(publication, {ONE: server}, tmp_path) as repository:
        assert repository.is_offline
        assert await repository.files.read("/file") == b"one"
        with pytest.raises(AllSourcesFailedError):
            await repository.files.read("/n/file")


def silent(clock):
    """Never answers, while time goes by."""

    def answer(true, request):
        clock.advance(10)
        return replace(true, head_gate=asyncio.Event())

    return answer


async def test_with_something_cached_silent_servers_are_not_waited_for_to_the_end(publication, tmp_path):
    servers = {url: Server(publication.served) for url in (ONE, TWO)}
    async with await opened(publication, servers, tmp_path) as repository:
        await repository.history()
        await repository.files.read("/file")
    clock = ManualClock(NOW + 1000)
    for server in servers.values():
        server.every = silent(clock)
    for pin in (Pin(), Pin(tag="v1")):
        async with await opened(publication, servers, tmp_path, IMPATIENT, clock=clock, pin=pin) as repository:
            assert isinstance(repository.offline_reason, AllSourcesFailedError)
            assert (repository.revision, await repository.files.read("/file")) == (1, b"one")


async def test_where_what_is_cached_does_not_do_servers_are_waited_for_after_all(publication, tmp_path):
    server = Server(publication.served)
    async with await opened(publication, {ONE: server}, tmp_path) as repository:
        await repository.files.read("/file")
    clock, root = ManualClock(NOW + 1000), ObjectName(publication.root, Kind.CATALOG)
    (tmp_path / "objects" / root.path.removeprefix("data/")).write_bytes(b"damaged")

    def awake(true, request):
        server.answers.clear()
        return error_500(true, request)

    server.lie(MANIFEST_PATH, silent(clock))
    server.lie(root.path, awake)
    async with await opened(publication, {ONE: server}, tmp_path, IMPATIENT, clock=clock) as repository:
        assert not repository.is_offline
        assert await repository.files.read("/file") == b"one"


async def test_what_is_cached_reads_after_the_whitelist_expired(publication, tmp_path):
    server = Server(publication.served)
    async with await opened(publication, {ONE: server}, tmp_path) as repository:
        await repository.files.read("/file")
    late = ManualClock(NOW + 90 * 86_400)
    async with await opened(publication, {ONE: server}, tmp_path, clock=late) as repository:
        assert repository.is_offline
        assert await repository.files.read("/file") == b"one"


async def test_documents_changed_on_disk_are_not_believed(publication, tmp_path):
    server = Server(publication.served)
    async with await opened(publication, {ONE: server}, tmp_path):
        pass
    server.is_dead = True
    path = tmp_path / "repositories" / publication.fqrn / "manifest"
    path.write_bytes(path.read_bytes().replace(b"\nS1\n", b"\nS9\n"))
    with pytest.raises(UnreachableError):
        await opened(publication, {ONE: server}, tmp_path)


async def test_without_a_cache_and_without_a_server_nothing_opens(publication):
    with pytest.raises(UnreachableError):
        await opened(publication, {ONE: Server({}, is_dead=True)})


async def test_a_revision_is_chosen_by_tag_number_time_or_root(publication):
    first = publication.root
    publication.publish({"/file": b"two"}, tag="v2")
    publication.publish({"/file": b"three"})
    servers = {ONE: Server(publication.served)}
    chosen = [Pin(tag="v1"), Pin(revision=1), Pin(root_catalog=first), Pin(at=NOW + 1.5)]
    for pin in chosen:
        async with await opened(publication, servers, pin=pin) as repository:
            assert (repository.revision, await repository.files.read("/file")) == (1, b"one")
            assert await repository.refresh() is Refreshed.SAME
            assert repository.revision == 1
    async with await opened(publication, servers, pin=Pin(revision=3)) as repository:
        assert await repository.files.read("/file") == b"three"


@pytest.mark.parametrize("pin", [Pin(tag="nowhere"), Pin(revision=77), Pin(at=5.0)])
async def test_a_revision_that_is_not_there_is_told_so(publication, pin):
    with pytest.raises(RepositoryError):
        await opened(publication, {ONE: Server(publication.served)}, pin=pin)


async def test_a_blacklisted_revision_is_refused_however_it_is_chosen(publication):
    old = publication.root
    publication.publish({"/file": b"two"})
    blacklist = Blacklist(revisions_min=((publication.fqrn, 2),))
    servers = {ONE: Server(publication.served)}
    for pin in (Pin(tag="v1"), Pin(revision=1), Pin(root_catalog=old), Pin(at=NOW + 1)):
        with pytest.raises(RollbackError, match=r"revision 1 of .* is blacklisted"):
            await opened(publication, servers, blacklist=blacklist, pin=pin)
    async with await opened(publication, servers, blacklist=blacklist) as repository:
        assert await repository.files.read("/file") == b"two"
        with pytest.raises(RollbackError, match="blacklisted"):
            await repository.pinned(Pin(tag="v1"))


async def test_a_revision_blacklisted_while_it_is_open_is_not_read_any_more(publication, tmp_path):
    listed = tmp_path / "blacklist"
    listed.write_text("# nothing\n")
    servers = {ONE: Server(publication.served)}
    async with (
        await opened(publication, servers, blacklist=listed) as repository,
        await opened(publication, servers, blacklist=listed, pin=Pin(tag="v1")) as pinned,
    ):
        before, entry = repository.files, await repository.files.stat("/file")
        listed.write_text(f"<{publication.fqrn} 2\n")
        assert await repository.refresh() is Refreshed.OFFLINE
        assert isinstance(repository.offline_reason, RollbackError)
        await pinned.refresh()
        for files in (repository.files, before, pinned.files):
            for use in (files.read("/file"), files.stat("/"), anext(files.walk("/")), anext(files.listdir("/"))):
                with pytest.raises(RollbackError, match=r"revision 1 of .* is blacklisted"):
                    await use
            with pytest.raises(RollbackError):
                async with files.open_entry("/file", entry):
                    pass
        publication.publish({"/file": b"two"})
        assert await repository.refresh() is Refreshed.NEWER
        assert await repository.files.read("/file") == b"two"
        with pytest.raises(RollbackError):
            await before.read("/file")


async def test_a_certificate_blacklisted_while_it_is_used_is_told_at_every_look(publication, tmp_path):
    listed = tmp_path / "blacklist"
    listed.touch()
    async with await opened(publication, {ONE: Server(publication.served)}, blacklist=listed) as repository:
        listed.write_text(publication.signer.certificate.fingerprint().text)
        for _ in range(2):
            assert await repository.refresh() is Refreshed.OFFLINE
            assert isinstance(repository.offline_reason, UntrustedCertificateError)
        listed.write_text("")
        assert await repository.refresh() is Refreshed.SAME


async def test_a_blacklist_that_cannot_be_read_any_more_still_holds(publication, tmp_path):
    listed = tmp_path / "blacklist"
    listed.write_text(f"<{publication.fqrn} 2\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        await opened(publication, {ONE: Server(publication.served)}, blacklist=tmp_path / "absent")
    publication.publish({"/file": b"two"})
    async with await opened(publication, {ONE: Server(publication.served)}, blacklist=listed) as repository:
        listed.unlink()
        assert await repository.refresh() is Refreshed.SAME
        with pytest.raises(RollbackError, match="blacklisted"):
            await repository.pinned(Pin(tag="v1"))


async def test_sources_are_told_how_large_a_catalog_is_so_that_it_gets_its_time(publication):
    told: dict[str, int] = {}
    async with await opened(publication, {ONE: Server(publication.served)}) as repository:
        fetch = repository.sources.fetch

        async def listening(what, operation, *, size=0, **options):
            told[what] = size
            return await fetch(what, operation, size=size, **options)

        repository.sources.fetch = listening
        root = publication.publish({"/n/file": b"other"}, ["/n"])
        await repository.refresh()
        nested = (await repository.files.tree.mount_of("/n/file")).digest
    manifest = repository.manifest
    assert told[ObjectName(root, Kind.CATALOG).path] == manifest.root_catalog_bytes
    assert told[ObjectName(nested, Kind.CATALOG).path] >= 4096


def test_only_one_way_of_choosing_is_taken():
    with pytest.raises(UsageError):
        Pin(tag="v1", revision=1)


async def test_tags_and_metainfo_are_verified_too(publication):
    server = Server(publication.served)
    async with await opened(publication, {ONE: server}) as repository:
        assert [tag.name for tag in (await repository.history()).tags] == ["v1"]
        assert (await repository.metainfo()).administrator == "somebody"
    server.lie(ObjectName(repository.manifest.history, Kind.HISTORY).path, flipped)
    async with await opened(publication, {ONE: server}) as repository:
        with pytest.raises(AllSourcesFailedError):
            await repository.history()


async def test_no_key_and_no_server_are_told_with_what_to_do(publication):
    with pytest.raises(ConfigError, match="no public key"):
        await open_repository("sw.example.org", servers=ONE, keys=[])
    with pytest.raises(ConfigError, match="no server"):
        await open_repository("sw.example.org", servers="", keys=publication.keys)
    with pytest.raises(UsageError, match="no name"):
        await open_repository("../etc", servers=ONE, keys=publication.keys)


async def test_looking_by_itself_finds_the_next_revision(publication):
    publication.publish({"/file": b"one"}, ttl_seconds=1)
    settings = ClientSettings(policy=POLICY, refresh_seconds_min=0.01, refresh_seconds_max=0.01)
    async with await open_repository(
        publication.fqrn,
        servers=ONE,
        keys=publication.keys,
        fetcher=Network({ONE: Server(publication.served)}),
        settings=settings,
        clock=OldClock(),
    ) as repository:
        repository.keep_fresh()
        publication.publish({"/file": b"newer"})
        while repository.revision < 3:  # noqa: ASYNC110  # it looks by its own clock
            await asyncio.sleep(0.005)
        assert await repository.files.read("/file") == b"newer"


class OldClock(SystemClock):
    """Runs, but in the time of the fake's signatures."""

    def now(self) -> float:
        return NOW + 1000


@pytest.mark.parametrize("kind", ["catalog", "file"])
async def test_when_every_server_lies_nothing_wrong_is_returned(publication, kind):
    suffix = {"catalog": "C", "file": ""}[kind]
    servers = {url: Server(publication.served) for url in (ONE, TWO)}
    for server in servers.values():
        for path in publication.served:
            is_chosen = path.endswith("C") if suffix else path.startswith("data/") and not path[-1].isupper()
            if is_chosen:
                server.lie(path, flipped)
    with pytest.raises(CdnError):
        async with await opened(publication, servers) as repository:
            await repository.files.read("/file")


async def test_a_lying_server_beside_an_honest_one_does_no_harm(publication):
    servers = {ONE: Server(publication.served, every=flipped), TWO: Server(publication.served)}
    async with await opened(publication, servers) as repository:
        assert await repository.files.read("/n/file") == b"nested one"
