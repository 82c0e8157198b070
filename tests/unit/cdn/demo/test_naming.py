"""Finding an edge through GeoDNS."""

import pytest

from cdn.demo.naming import GeoResolver, ask
from cdn.demo.report import DemoFailedError
from geodns.server import GeoDnsServer
from tests.fakes.geodns import CHICAGO, CHICAGO_CLIENT, GENEVA, GENEVA_CLIENT, ZONE, geodns_config


@pytest.fixture
async def geodns():
    server = GeoDnsServer(geodns_config())
    await server.start()
    yield server
    await server.stop()


async def test_the_client_subnet_decides_which_edge_is_named(geodns):
    server = geodns.addresses[0]
    assert set((await ask(server, f"edge.{ZONE}", f"{GENEVA_CLIENT}/32")).addresses) == set(GENEVA)
    located = await ask(server, f"edge.{ZONE}", f"{CHICAGO_CLIENT}/32")
    assert located.addresses == CHICAGO
    assert located.ttl_seconds == 30


async def test_an_answer_is_kept_as_long_as_it_says(geodns):
    resolver = GeoResolver(geodns.addresses[0], f"{CHICAGO_CLIENT}/32")
    assert await resolver(f"edge.{ZONE}", 80) == CHICAGO
    asked = geodns.statistics.udp_replies
    assert await resolver(f"edge.{ZONE}", 80) == CHICAGO
    assert geodns.statistics.udp_replies == asked


async def test_a_name_without_an_address_is_an_error_for_the_client(geodns):
    with pytest.raises(DemoFailedError, match="names no address"):
        await ask(geodns.addresses[0], f"nowhere.{ZONE}", f"{CHICAGO_CLIENT}/32")
    with pytest.raises(OSError, match="names no address"):
        await GeoResolver(geodns.addresses[0], f"{CHICAGO_CLIENT}/32")(f"nowhere.{ZONE}", 80)
