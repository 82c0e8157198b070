"""A manifest, its whitelist and its objects stay together, whatever upstreams do; and nobody waits for a renewal."""

import asyncio
from dataclasses import replace

import pytest

from cdn.hashing import Algorithm
from cdn.manifest import Manifest
from cdn.objects import Kind
from edge.config import LifetimeSettings
from edge.settings.manifests import ManifestSettings
from tests.fakes.edge import BASE, REPOSITORY, edge_world, manifest_bytes, until
from tests.fakes.origin import Reply
from tests.fakes.repositories import Publication
from tests.fakes.signer import NOW, Signer

MANIFEST = f"{BASE}/.cvmfspublished"
WHITELIST = f"{BASE}/.cvmfswhitelist"


@pytest.fixture
async def world(tmp_path):
    async with edge_world(tmp_path, origins=2, manifest=ManifestSettings()) as world:
        yield world


@pytest.fixture
def publication():
    made = Publication(REPOSITORY, Algorithm.SHA1)
    made.publish({"/file": made.file(b"one")}, tag="one")
    return made


def serve(world, publication, *origins) -> None:
    for origin in origins or world.origins:
        origin.replies |= {f"{BASE}/{path}": Reply(data) for path, data in publication.served.items()}


def target_of(publication, kind: Kind) -> str:
    manifest = Manifest.parse(publication.served[".cvmfspublished"])
    return f"{BASE}/{next(name for name in manifest.objects if name.kind is kind).path}"


def asked(world, target: str) -> int:
    return sum(origin.count(target) for origin in world.origins)


def is_hit(answer) -> bool:
    return "; hit" in answer.headers["cache-status"]


async def revision(world) -> int:
    return Manifest.parse((await world.get(MANIFEST)).body).revision


async def second_revision(world, publication, *origins) -> None:
    """Lets the first revision become stale, and publishes another one."""
    assert await revision(world) == 1
    await world.get(WHITELIST)
    await all_quiet(world)
    publication.publish({"/file": publication.file(b"two")}, tag="two")
    serve(world, publication, *origins)
    world.advance(100)


async def all_quiet(world) -> None:
    await until(lambda: not world.edge.parts.own._running and not world.edge.parts.own._others)
    await world.settled()


# -------------------------------------------------------------------------------------------------- prefetching


async def test_whoever_gets_a_new_manifest_finds_its_objects_there(world, publication):
    serve(world, publication)
    await second_revision(world, publication)
    assert await revision(world) == 2
    await all_quiet(world)
    for kind in (Kind.CATALOG, Kind.CERTIFICATE, Kind.HISTORY):
        target = target_of(publication, kind)
        assert asked(world, target) == 1, kind
        assert is_hit(await world.get(target))
    assert world.edge.statistics.requests_answered == 6, "the edge's own requests are not counted"


async def test_the_first_manifest_keeps_nobody_waiting_for_its_objects(world, publication):
    serve(world, publication)
    gate = asyncio.Event()
    catalog = target_of(publication, Kind.CATALOG)
    for origin in world.origins:
        origin.replies[catalog].gate = gate
    assert await revision(world) == 1
    await until(lambda: asked(world, catalog))
    gate.set()
    await all_quiet(world)
    assert is_hit(await world.get(catalog))


async def test_a_root_catalog_that_is_too_large_is_not_fetched_beforehand(tmp_path, publication):
    async with edge_world(tmp_path, manifest=ManifestSettings(prefetch_bytes_max=10)) as world:
        serve(world, publication)
        await second_revision(world, publication)
        assert await revision(world) == 2
        await all_quiet(world)
        assert asked(world, target_of(publication, Kind.CATALOG)) == 0
        assert asked(world, target_of(publication, Kind.CERTIFICATE)) == 1


async def test_a_slow_root_catalog_holds_a_new_manifest_up_for_a_bounded_time(tmp_path, publication):
    async with edge_world(tmp_path, manifest=ManifestSettings(prefetch_timeout=0.2)) as world:
        serve(world, publication)
        await second_revision(world, publication)
        gate = asyncio.Event()
        world.origin.replies[target_of(publication, Kind.CATALOG)].gate = gate
        assert await revision(world) == 2
        gate.set()


# -------------------------------------------------------------------------------------------------- holding back


@pytest.mark.parametrize("kind", [Kind.CATALOG, Kind.CERTIFICATE])
async def test_a_manifest_whose_objects_no_upstream_has_does_not_replace_one_that_works(world, publication, kind):
    serve(world, publication)
    await second_revision(world, publication)
    missing = target_of(publication, kind)
    if kind is Kind.CERTIFICATE:  # the same as before: gone from here, too
        await world.edge.purge({"url": missing})
    kept = [origin.replies.pop(missing) for origin in world.origins]
    assert await revision(world) == 1
    assert world.edge.statistics.manifests_held_back == 2
    for origin, reply in zip(world.origins, kept, strict=True):
        origin.replies[missing] = reply
    world.advance(30)
    assert await revision(world) == 2


async def test_a_root_catalog_that_lies_is_as_good_as_none(world, publication):
    serve(world, publication)
    await second_revision(world, publication)
    for origin in world.origins:
        origin.replies[target_of(publication, Kind.CATALOG)] = Reply(b"something else")
    assert await revision(world) == 1


async def test_without_an_earlier_manifest_the_new_one_is_better_than_nothing(world, publication):
    serve(world, publication)
    for origin in world.origins:
        del origin.replies[target_of(publication, Kind.CATALOG)]
    assert await revision(world) == 1


async def test_a_manifest_held_back_is_given_out_when_the_earlier_one_is_too_old(world, publication):
    serve(world, publication)
    await second_revision(world, publication)
    for origin in world.origins:
        del origin.replies[target_of(publication, Kind.CATALOG)]
    assert await revision(world) == 1
    world.advance(300_000)
    assert await revision(world) == 2


async def test_of_two_upstreams_the_one_that_is_complete_counts(world, publication):
    """The first upstream has a newer manifest without its objects; the second the one before."""
    serve(world, publication)
    await second_revision(world, publication, world.origins[0])
    del world.origins[0].replies[target_of(publication, Kind.CATALOG)]
    answer = await world.get(MANIFEST)
    assert Manifest.parse(answer.body).revision == 1
    assert "upstreams-failed" not in answer.headers["cache-status"]


async def test_it_can_be_turned_off(tmp_path, publication):
    async with edge_world(tmp_path, manifest=ManifestSettings(prefetch=False)) as world:
        serve(world, publication)
        await second_revision(world, publication)
        del world.origin.replies[target_of(publication, Kind.CATALOG)]
        assert await revision(world) == 2


# --------------------------------------------------------------------------------------------- certificates, whitelists


def rotate(publication) -> Signer:
    """Another key signs from now on, and the whitelist lists that one only."""
    other = Signer(REPOSITORY, Algorithm.SHA1, manager="another", now=NOW + 50)
    publication.signer = other
    publication.put(Kind.CERTIFICATE, other.certificate.pem)
    publication.served[".cvmfswhitelist"] = other.whitelist()
    return other


async def test_a_new_certificate_brings_its_whitelist_along(world, publication):
    """The whitelist at hand is still fresh, but lists another certificate."""
    serve(world, publication)
    await second_revision(world, publication)
    await world.get(WHITELIST)
    rotate(publication)
    publication.publish({"/file": publication.file(b"three")})
    serve(world, publication)
    assert await revision(world) == 3
    answer = await world.get(WHITELIST)
    assert (answer.body, is_hit(answer)) == (publication.served[".cvmfswhitelist"], True)


async def test_a_manifest_whose_certificate_no_whitelist_lists_is_held_back(world, publication):
    serve(world, publication)
    await second_revision(world, publication)
    before = publication.served[".cvmfswhitelist"]
    rotate(publication)
    publication.publish({"/file": publication.file(b"three")})
    publication.served[".cvmfswhitelist"] = before
    serve(world, publication)
    assert await revision(world) == 1
    assert (await world.get(WHITELIST)).body == before


async def test_a_new_whitelist_brings_the_manifest_along_that_it_was_made_for(world, publication):
    """A client that asks for the whitelist first must not find the manifest of a key that was withdrawn."""
    serve(world, publication)
    assert await revision(world) == 1
    await world.get(WHITELIST)
    await all_quiet(world)
    world.advance(100)
    rotate(publication)
    publication.publish({"/file": publication.file(b"two")})
    serve(world, publication)
    assert (await world.get(WHITELIST)).body == publication.served[".cvmfswhitelist"]
    assert await revision(world) == 2


async def test_a_whitelist_from_the_past_is_refused(world, publication):
    serve(world, publication)
    newer = Signer(REPOSITORY, Algorithm.SHA1, now=NOW + 1000).whitelist()
    for origin in world.origins:
        origin.replies[WHITELIST] = Reply(newer)
    assert (await world.get(WHITELIST)).body == newer
    world.advance(100)
    world.origins[0].replies[WHITELIST] = Reply(publication.served[".cvmfswhitelist"])
    assert (await world.get(WHITELIST)).body == newer
    assert world.edge.statistics.older_manifests == 1


@pytest.mark.parametrize("body", [b"", b"<html>please log in</html>", b"x" * (1 << 20), b"x" * (1 << 21)])
async def test_what_is_no_whitelist_does_not_replace_one(world, publication, body):
    serve(world, publication)
    await world.get(WHITELIST)
    world.advance(100)
    for origin in world.origins:
        origin.replies[WHITELIST] = Reply(body)
    assert (await world.get(WHITELIST)).body == publication.served[".cvmfswhitelist"]


async def test_a_whitelist_of_another_repository_is_refused(world, publication):
    serve(world, publication)
    world.origins[0].replies[WHITELIST] = Reply(Signer("tw.example.org").whitelist())
    assert (await world.get(WHITELIST)).body == publication.served[".cvmfswhitelist"]


async def test_an_expired_whitelist_is_not_hidden_but_announced_long_before(world, publication):
    from cdn.telemetry import install_sink

    told: list[tuple[str, object]] = []
    install_sink(lambda level, name, fields: told.append((name, fields.get("seconds_left"))))
    try:
        serve(world, publication)
        await world.get(WHITELIST)
        assert not [name for name, _ in told if name == "edge.whitelist.expiring"]
        world.advance(27.5 * 86400)
        world.edge.parts.documents.remind()
        assert any(name == "edge.whitelist.expiring" and 0 < left < 3 * 86400 for name, left in told)
        world.advance(10 * 86400)
        assert (await world.get(WHITELIST)).body == publication.served[".cvmfswhitelist"]
        assert any(name == "edge.whitelist.expiring" and left < 0 for name, left in told)
    finally:
        install_sink(None)


async def test_what_is_known_of_a_repository_outlives_a_restart(tmp_path, publication):
    async with edge_world(tmp_path) as world:
        serve(world, publication)
        await revision(world)
        await world.get(WHITELIST)
        await world.settled()
        first = world.edge.parts.documents.repositories.of(REPOSITORY)
    async with edge_world(tmp_path) as world:
        world.origin.is_dead = True
        await world.get(MANIFEST)
        await world.get(WHITELIST)
        assert world.edge.parts.documents.repositories.of(REPOSITORY) == first
        assert first.revision == 1


# ------------------------------------------------------------------------------------------ stale, while it is renewed


@pytest.fixture
async def renewing(tmp_path):
    lifetimes = LifetimeSettings(stale_while_revalidate=30)
    async with edge_world(tmp_path, lifetimes=lifetimes) as world:
        world.origin.replies[MANIFEST] = Reply(manifest_bytes(1))
        assert await revision(world) == 1
        await world.settled()
        yield world


async def test_nobody_waits_for_a_renewal(renewing):
    gate = asyncio.Event()
    renewing.origin.replies[MANIFEST] = Reply(manifest_bytes(2), gate=gate)
    renewing.advance(70)
    answers = [await renewing.get(MANIFEST) for _ in range(5)]
    assert all(answer.body == manifest_bytes(1) for answer in answers)
    assert all("stale-while-revalidate" in answer.headers["cache-status"] for answer in answers)
    assert all(int(answer.headers["age"]) >= 70 for answer in answers)
    gate.set()
    await renewing.settled()
    assert renewing.origin.count(MANIFEST) == 2
    answer = await renewing.get(MANIFEST)
    assert (answer.body, is_hit(answer)) == (manifest_bytes(2), True)


async def test_but_only_for_a_while(renewing):
    renewing.origin.replies[MANIFEST] = Reply(manifest_bytes(2))
    renewing.advance(61 + 31)
    assert await revision(renewing) == 2


async def test_a_client_that_wants_it_confirmed_waits(renewing):
    renewing.origin.replies[MANIFEST] = Reply(manifest_bytes(2))
    renewing.advance(70)
    assert (await renewing.get(MANIFEST, Cache_Control="no-cache")).body == manifest_bytes(2)


async def test_failing_upstreams_are_not_asked_by_every_client_anew(renewing):
    renewing.origin.is_dead = True
    renewing.advance(70)
    assert await revision(renewing) == 1
    await renewing.settled()
    count = renewing.origin.count(MANIFEST)
    assert count > 1
    for _ in range(10):
        assert await revision(renewing) == 1
        await renewing.settled()
    assert renewing.origin.count(MANIFEST) == count
    renewing.advance(6)
    assert await revision(renewing) == 1
    await renewing.settled()
    assert renewing.origin.count(MANIFEST) > count


@pytest.mark.parametrize("directive", ["must-revalidate", "stale-while-revalidate=0"])
async def test_what_an_upstream_says_itself_counts_first(renewing, directive):
    fields = {"Cache-Control": f"max-age=61, {directive}"}
    renewing.origin.replies[MANIFEST] = Reply(manifest_bytes(2), headers=fields)
    renewing.advance(200)
    assert await revision(renewing) == 2
    renewing.origin.replies[MANIFEST] = Reply(manifest_bytes(3))
    renewing.advance(70)
    assert await revision(renewing) == 3


async def test_a_reload_changes_how_long(renewing):
    renewing.edge.reload(replace(renewing.edge.config, lifetimes=LifetimeSettings(stale_while_revalidate=0)))
    renewing.edge.parts.supplies.memory.remove_matching(lambda key: True)
    renewing.origin.replies[MANIFEST] = Reply(manifest_bytes(2))
    renewing.advance(70)
    assert await revision(renewing) == 2


# ------------------------------------------------------------------------------------------------------- metrics


async def test_metrics_tell_kinds_repositories_revisions_and_expiry(world, publication):
    serve(world, publication)
    await second_revision(world, publication)
    catalog = target_of(publication, Kind.CATALOG)
    assert await revision(world) == 2
    for _ in range(3):
        size = len((await world.get(catalog)).body)
    text = world.edge.metrics().decode()
    assert 'edge_requests_total{kind="catalog",result="hit"} 3.0' in text
    assert 'edge_requests_total{kind="manifest",result="miss"} 2.0' in text
    assert f'edge_manifest_revision{{repository="{REPOSITORY}"}} 2.0' in text
    assert f'edge_whitelist_seconds_left{{repository="{REPOSITORY}"}} 2.59' in text
    assert 'edge_request_seconds_count{result="miss"} 3.0' in text
    assert "edge_clients 1.0" in text
    requests, sent = world.edge.statistics.tallies.by_repository()[REPOSITORY]
    assert requests >= 4
    assert sent > 3 * size
