"""Where everything pretends to be."""

import pytest

from cdn.demo.places import CLIENTS, EDGES, edge_at, edge_named
from geodns.geo import Position, distance_km


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_the_edges_a_client_is_expected_to_get_are_the_nearest_ones_on_the_globe(client):
    here = Position(client.latitude, client.longitude)
    nearest = sorted(EDGES, key=lambda edge: distance_km(here, Position(edge.latitude, edge.longitude)))
    assert [edge.name for edge in nearest[:2]] == [client.nearest, client.next_nearest]


def test_an_edge_is_found_by_its_name_and_by_its_address():
    for edge in EDGES:
        assert edge_named(edge.name) is edge
        assert edge_at(edge.address) == edge.name
    assert edge_at("192.0.2.1") == "192.0.2.1"
