"""The Geo API of CernVM-FS (spec §8.8)."""

import pytest

from geodns.geo import Position
from geodns.geo_api import GeoReply, GeoRequest, client_address, may_be_host, order_servers, parse_geo_path

UUID = "62adc518-81b5-2d49-b3b9-5f23a09fd399"
PLACES = {
    "eu.example.org": Position(46.2, 6.1),
    "us.example.org": Position(41.9, -87.6),
    "jp.example.org": Position(35.7, 139.7),
}
CHICAGO, GENEVA = Position(42, -88), Position(46, 7)


def order(requester: Position | None, *names: str) -> str:
    return order_servers(requester, names, PLACES.get).text


class TestOrder:
    def test_the_example_of_the_specification(self):
        assert order(CHICAGO, "eu.example.org", "us.example.org") == "2,1\n"

    def test_unknown_servers_come_last_in_the_order_given(self):
        assert order(CHICAGO, "x.example.org", "eu.example.org", "y.example.org", "us.example.org") == "4,2,1,3\n"

    def test_a_server_named_twice_keeps_its_order(self):
        assert order(CHICAGO, "us.example.org", "eu.example.org", "us.example.org") == "1,3,2\n"

    def test_one_server_is_simply_first(self):
        assert order(GENEVA, "us.example.org") == "1\n"

    def test_servers_are_ordered_as_seen_from_the_nearest_proxy(self):
        names = ("eu.example.org", "jp.example.org", "us.example.org", "+PXYSEP+", "jp.example.org", "eu.example.org")
        # From Chicago Geneva's proxy is nearer than Tokyo's, and seen from Geneva the European server is first.
        assert order(CHICAGO, *names) == "1,3,2,6,5,4\n"

    def test_the_separator_is_counted_and_comes_last(self):
        reply = order(GENEVA, "us.example.org", "eu.example.org", "+PXYSEP+", "eu.example.org")
        assert reply == "2,1,4,3\n"

    @pytest.mark.parametrize(
        ("requester", "names"),
        [
            (None, ("eu.example.org", "us.example.org")),
            (GENEVA, ("x", "y")),
            (GENEVA, ("eu.example.org", "+PXYSEP+", "x")),
            (GENEVA, ("x", "+PXYSEP+", "eu.example.org")),
            (GENEVA, ("eu.example.org", "+PXYSEP+")),
            (GENEVA, ("+PXYSEP+", "eu.example.org")),
        ],
    )
    def test_what_cannot_be_ordered_is_a_bad_request(self, requester, names):
        reply = order_servers(requester, names, PLACES.get)
        assert reply.status == 400
        assert reply.text.startswith("Bad Request: ")
        assert reply.age_seconds_max == 300


class TestPaths:
    def test_the_path_of_a_client_is_read(self):
        path = f"/cvmfs/sw.example.org/api/v1.0/geo/{UUID}/127.0.0.1,localhost,+PXYSEP+,localhost,127.0.0.1"
        names = ("127.0.0.1", "localhost", "+PXYSEP+", "localhost", "127.0.0.1")
        assert parse_geo_path(path, 100) == GeoRequest(UUID, names)

    def test_escapes_are_undone_and_a_plus_stays_a_plus(self):
        path = "/cvmfs/sw.example.org/api/v1.0/geo/host/a%2Cb,%2BPXYSEP%2B,c+d"
        assert parse_geo_path(path, 100) == GeoRequest("host", ("a", "b", "+PXYSEP+", "c+d"))

    def test_a_server_whose_repositories_lie_elsewhere_is_understood(self):
        assert parse_geo_path("/sw.example.org/api/v1.0/geo/host/a,b", 100) == GeoRequest("host", ("a", "b"))

    @pytest.mark.parametrize(
        "path",
        [
            "/cvmfs/sw.example.org/api/",
            "/cvmfs/sw.example.org/api/v1.0",
            "/cvmfs/sw.example.org/api/v1.0/geo",
            "/cvmfs/sw.example.org/api/v1.0/geo/host",
            "/cvmfs/sw.example.org/api/v1.0/geo/host/",
            "/cvmfs/sw.example.org/api/v1.0/geo//a,b",
            "/cvmfs/sw.example.org/api/v1.0/other/host/a,b",
            "/cvmfs/sw.example.org/api/vx/geo/host/a,b",
            "/cvmfs/sw.example.org/api/geo/host/a,b",
            "/cvmfs/sw.example.org/api/v1.0/geo/host/a,,b",
            "/cvmfs/sw.example.org/api/v1.0/geo/host/a,+PXYSEP+,b,+PXYSEP+,c",
            "/cvmfs/sw.example.org/api/v1.0/geo/host/" + ",".join("abcdefghijklmnop"[:11]),
            "/cvmfs/sw.example.org/api/v1.0/geo/host/" + "a" * 9000,
        ],
    )
    def test_what_makes_no_sense_is_a_bad_request(self, path):
        reply = parse_geo_path(path, 10)
        assert isinstance(reply, GeoReply)
        assert reply.status == 400
        assert reply.text.startswith("Bad Request: ")

    @pytest.mark.parametrize(
        "path", ["/", "/favicon.ico", "/cvmfs/sw.example.org/.cvmfspublished", "/cvmfs//api/v1.0/x"]
    )
    def test_what_is_no_part_of_the_api_is_not_found(self, path):
        reply = parse_geo_path(path, 10)
        assert isinstance(reply, GeoReply)
        assert reply.status == 404


class TestRequester:
    def test_cloudflare_goes_before_forwarded_for_and_that_before_the_peer(self):
        headers = {"CF-Connecting-IP": "192.0.2.1", "X-Forwarded-For": "192.0.2.2, 192.0.2.3"}
        assert client_address(headers, "192.0.2.4") == "192.0.2.1"
        del headers["CF-Connecting-IP"]
        assert client_address(headers, "192.0.2.4") == "192.0.2.3"
        assert client_address({}, "192.0.2.4") == "192.0.2.4"
        assert client_address({"X-Forwarded-For": " "}, "192.0.2.4") == "192.0.2.4"

    @pytest.mark.parametrize("name", [UUID, "", "a b", "a/b", "x" * 254, "-a", "ä"])
    def test_what_names_no_host_is_not_looked_up(self, name):
        assert not may_be_host(name)

    def test_host_names_are(self):
        assert may_be_host("squid.site.net")
        assert may_be_host("localhost")
