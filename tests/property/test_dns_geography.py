"""The flattened map against the obvious slow one, and orders by distance."""

import ipaddress
import math

from hypothesis import given
from hypothesis import strategies as st

from cdn.errors import ConfigError
from geodns.geo import NetworkMap, Position, distance_km, packed_address, parse_network_map
from geodns.geo_api import GeoReply, order_servers, parse_geo_path
from geodns.routing import ALL_WELL, Edge, Site, SiteRouter

POSITIONS = st.builds(Position, st.floats(-90, 90), st.floats(-180, 180))
FEW_POSITIONS = st.sampled_from([Position(0, 0), Position(10, 10), Position(-20, 30)])


@st.composite
def networks(draw):
    """Networks of a small space, so that they nest and touch."""
    if draw(st.booleans()):
        length = draw(st.integers(22, 32))
        address = int(ipaddress.IPv4Address("10.0.0.0")) + draw(st.integers(0, 1023))
        return ipaddress.ip_network((address >> (32 - length) << (32 - length), length))
    length = draw(st.integers(118, 128))
    address = int(ipaddress.IPv6Address("2001:db8::")) + draw(st.integers(0, 1023))
    return ipaddress.IPv6Network((address >> (128 - length) << (128 - length), length))


ADDRESSES = st.one_of(
    st.integers(0, 1100).map(lambda low: ipaddress.IPv4Address("10.0.0.0") + low - 40),
    st.integers(0, 1100).map(lambda low: ipaddress.IPv6Address("2001:db8::") + low - 40),
    st.ip_addresses(),
)
TABLES = st.dictionaries(networks(), FEW_POSITIONS, max_size=25)


def slowly(table, address) -> Position | None:
    holding = [network for network in table if address.version == network.version and address in network]
    return table[max(holding, key=lambda network: network.prefixlen)] if holding else None


@given(TABLES, ADDRESSES)
def test_the_longest_prefix_wins(table, address):
    assert NetworkMap(table.items()).locate(address.packed).position == slowly(table, address)


@given(TABLES, ADDRESSES, st.integers(0, 2**128 - 1))
def test_the_prefix_told_holds_for_every_address_in_it(table, address, other):
    found = NetworkMap(table.items()).locate(address.packed)
    block = ipaddress.ip_network(
        (int(address) if address.version == 4 else address.packed, found.prefix_length), strict=False
    )
    inside = block[other % block.num_addresses]
    for witness in (inside, block[0], block[-1]):
        assert slowly(table, witness) == found.position


@given(TABLES, ADDRESSES)
def test_the_prefix_told_is_the_shortest_that_holds(table, address):
    found = NetworkMap(table.items()).locate(address.packed)
    if found.prefix_length:
        wider = ipaddress.ip_network((address.packed, found.prefix_length - 1), strict=False)
        edges = {wider[0], wider[-1]}
        edges |= {end for n in table if n.version == wider.version and n.subnet_of(wider) for end in (n[0], n[-1])}
        edges |= {end + step for end in edges for step in (-1, 1) if 0 <= int(end) + step < 2**wider.max_prefixlen}
        assert any(slowly(table, edge) != found.position for edge in edges if edge in wider)


@given(POSITIONS, POSITIONS)
def test_distances_agree_with_the_haversine_formula(a, b):
    rise, run = math.radians(b.latitude - a.latitude), math.radians(b.longitude - a.longitude)
    level = math.cos(math.radians(a.latitude)) * math.cos(math.radians(b.latitude))
    chord = math.sin(rise / 2) ** 2 + level * math.sin(run / 2) ** 2
    assert math.isclose(
        distance_km(a, b), 2 * 6371.0088 * math.asin(min(1, math.sqrt(chord))), rel_tol=1e-6, abs_tol=0.2
    )


@given(POSITIONS, st.lists(POSITIONS, min_size=1, max_size=12))
def test_the_chosen_site_is_a_nearest_one(client, places):
    sites = tuple(Site(f"s{i}", place, (Edge(f"e{i}", (bytes(4),)),)) for i, place in enumerate(places))
    route = SiteRouter(sites).route(client, 4, ALL_WELL)
    assert route.site is not None
    nearest = min(distance_km(client, place) for place in places)
    assert distance_km(client, route.site.position) <= nearest + 1e-6


@given(
    st.text(max_size=300)
    | st.lists(st.text(alphabet="0123456789./: #abcdefxn-", max_size=40), max_size=6).map("\n".join)
)
def test_any_text_is_a_map_or_a_told_mistake(text):
    try:
        loaded = parse_network_map(text, "map")
    except ConfigError as error:
        assert str(error).startswith("map:")
    else:
        loaded.locate(packed_address("192.0.2.1"))


NAMES = st.lists(st.sampled_from(["a", "b", "c", "d", "x", "y", "+PXYSEP+"]), min_size=1, max_size=9)
PLACES = {"a": Position(0, 0), "b": Position(0, 10), "c": Position(0, 20), "d": Position(0, 30)}


@given(POSITIONS, NAMES)
def test_a_good_geo_reply_is_a_permutation_with_unknown_servers_last(requester, names):
    if names.count("+PXYSEP+") > 1:
        return
    reply = order_servers(requester, names, PLACES.get)
    if reply.status != 200:
        assert reply.text.startswith("Bad Request: ")
        return
    order = [int(number) for number in reply.text.removesuffix("\n").split(",")]
    assert sorted(order) == list(range(1, len(names) + 1))
    cut = names.index("+PXYSEP+") if "+PXYSEP+" in names else len(names)
    known = [names[number - 1] in PLACES for number in order[:cut]]
    assert known == sorted(known, reverse=True)
    if cut < len(names):
        assert order[-1] == cut + 1


@given(st.text(max_size=100) | st.text(max_size=40).map("/cvmfs/r/api/v1.0/geo/{}".format))
def test_any_path_is_a_request_or_a_reply(path):
    parsed = parse_geo_path(path, 10)
    assert parsed.status in (400, 404) if isinstance(parsed, GeoReply) else parsed.locator
