"""Distances and maps."""

import ipaddress

import pytest

from cdn.errors import ConfigError
from geodns.geo import LayeredGeography, NetworkMap, Position, distance_km, packed_address, parse_network_map

GENEVA, LONDON, SYDNEY = Position(46.2, 6.15), Position(51.5, -0.12), Position(-33.87, 151.2)


def locate(geography, address: str):
    found = geography.locate(packed_address(address))
    return (found.position, found.prefix_length)


class TestDistance:
    @pytest.mark.parametrize(
        ("a", "b", "expected"),
        [
            (GENEVA, GENEVA, 0.0),
            (GENEVA, LONDON, 748),
            (LONDON, SYDNEY, 16_994),
            (Position(0, 179.5), Position(0, -179.5), 111.2),
            (Position(90, 0), Position(-90, 50), 20_015),
            (Position(0, 0), Position(0, 180), 20_015),
        ],
    )
    def test_it_is_the_great_circle(self, a, b, expected):
        assert distance_km(a, b) == pytest.approx(expected, rel=0.005, abs=0.001)
        assert distance_km(a, b) == distance_km(b, a)

    def test_places_a_metre_apart_are_told_apart(self):
        assert distance_km(GENEVA, Position(46.20001, 6.15)) == pytest.approx(0.00111, rel=0.01)

    @pytest.mark.parametrize("point", [(91, 0), (-91, 0), (0, 181), (0, -181), (float("nan"), 0), (0, float("inf"))])
    def test_points_off_the_globe_are_refused(self, point):
        with pytest.raises(ValueError, match="degrees"):
            Position(*point)


class TestNetworkMap:
    def test_the_longest_prefix_wins_wherever_it_lies(self):
        map_of_ten = parse_network_map(
            "10.0.0.0/8 46.2 6.15\n10.1.0.0/16 51.5 -0.12\n10.1.2.3 -33.87 151.2\n10.255.0.0/16 51.5 -0.12", "map"
        )
        assert locate(map_of_ten, "10.200.0.1")[0] == GENEVA
        assert locate(map_of_ten, "10.1.0.1")[0] == LONDON
        assert locate(map_of_ten, "10.1.2.3") == (SYDNEY, 32)
        assert locate(map_of_ten, "10.1.2.4")[0] == LONDON
        assert locate(map_of_ten, "10.255.255.255")[0] == LONDON
        assert locate(map_of_ten, "11.0.0.0")[0] is None
        assert locate(map_of_ten, "9.255.255.255")[0] is None

    def test_the_prefix_told_leaves_out_nested_networks(self):
        nested = parse_network_map("10.0.0.0/8 46.2 6.15\n10.1.0.0/16 51.5 -0.12", "map")
        assert locate(nested, "10.128.0.1") == (GENEVA, 9)
        assert locate(nested, "10.0.0.1") == (GENEVA, 16)
        assert locate(nested, "10.1.0.1") == (LONDON, 16)

    def test_neighbours_with_one_position_are_one_block(self):
        halves = parse_network_map("10.0.0.0/9 46.2 6.15\n10.128.0.0/9 46.2 6.15", "map")
        assert locate(halves, "10.3.4.5") == (GENEVA, 8)

    def test_an_empty_map_knows_nothing_of_anybody_at_once(self):
        assert locate(NetworkMap(), "192.0.2.1") == (None, 0)
        assert locate(NetworkMap(), "2001:db8::1") == (None, 0)

    def test_a_map_of_everything_is_one_block(self):
        everything = parse_network_map("0.0.0.0/0 46.2 6.15\n::/0 51.5 -0.12", "map")
        assert locate(everything, "255.255.255.255") == (GENEVA, 0)
        assert locate(everything, "::") == (LONDON, 0)

    def test_ipv6_is_a_space_of_its_own(self):
        both = parse_network_map("2001:db8::/32 46.2 6.15", "map")
        assert locate(both, "2001:db8:ffff::1") == (GENEVA, 32)
        assert locate(both, "32.1.13.184")[0] is None

    def test_ipv4_written_as_ipv6_is_ipv4(self):
        assert packed_address("::ffff:192.0.2.1") == bytes((192, 0, 2, 1))
        assert packed_address("fe80::1%eth0") == ipaddress.ip_address("fe80::1").packed


class TestMapFiles:
    def test_comments_and_empty_lines_are_passed_over(self):
        assert len(parse_network_map("# a map\n\n 192.0.2.0/24\t46.2   6.15 # here\n", "map")) == 1

    @pytest.mark.parametrize(
        ("line", "complaint"),
        [
            ("192.0.2.0/24 46.2", "NETWORK LATITUDE LONGITUDE"),
            ("192.0.2.0/24 46.2 6.1 9", "NETWORK LATITUDE LONGITUDE"),
            ("192.0.2.0/33 46.2 6.1", "not a network"),
            ("192.0.2.0/255.255.255.0 46.2 6.1", "prefix as a number"),
            ("192.0.2.1/24 46.2 6.1", "write 192.0.2.0/24"),
            ("example.org 46.2 6.1", "not a network"),
            ("192.0.2.0/24 north 6.1", "not a number of degrees"),
            ("192.0.2.0/24 nan 6.1", "latitude"),
            ("192.0.2.0/24 46.2 200", "longitude"),
        ],
    )
    def test_a_mistake_is_told_with_its_line(self, line, complaint):
        with pytest.raises(ConfigError, match=complaint) as told:
            parse_network_map(f"\n{line}\n", "here.map")
        assert str(told.value).startswith("here.map:2: ")

    def test_all_mistakes_are_told_at_once_up_to_a_limit(self):
        with pytest.raises(ConfigError) as told:
            parse_network_map("nonsense\n" * 1000, "here.map")
        assert len(str(told.value).splitlines()) == 20

    def test_a_network_given_twice_is_a_mistake(self):
        with pytest.raises(ConfigError, match="given before"):
            parse_network_map("192.0.2.0/24 1 1\n192.0.2.0/24 2 2", "map")


class TestLayers:
    def test_the_first_that_knows_counts_and_no_block_is_larger_than_the_layers_above_allow(self):
        by_hand = parse_network_map("10.1.0.0/16 51.5 -0.12", "map")
        bought = parse_network_map("10.0.0.0/8 46.2 6.15", "map")
        layered = LayeredGeography([by_hand, bought])
        assert locate(layered, "10.1.9.9") == (LONDON, 16)
        assert locate(layered, "10.0.9.9") == (GENEVA, 16)
        assert locate(layered, "10.128.9.9") == (GENEVA, 9)
        assert locate(layered, "11.0.0.0")[0] is None

    def test_no_layers_know_nothing(self):
        assert locate(LayeredGeography([]), "10.0.0.1") == (None, 0)
