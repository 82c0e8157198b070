"""The configuration files that the demonstration writes."""

from dataclasses import replace

from cdn.demo.places import CLIENTS, EDGE_NAME, EDGES
from cdn.demo.settings import edge_config, geodns_config, quoted
from edge.config import load as load_edge
from geodns.config import load as load_geodns


def test_an_edge_reads_its_configuration_as_it_was_meant(tmp_path):
    place = replace(EDGES[0], name="geneva")
    upstreams = ["http://127.0.0.1:1001", "http://127.0.0.1:1002"]
    path = tmp_path / "edge.toml"
    path.write_text(edge_config(place, port=1003, admin_port=1004, upstreams=upstreams, cache=str(tmp_path / "c")))
    config = load_edge(path)
    assert config.name == "geneva"
    assert config.listen.addresses == ("127.0.0.2:1003",)
    assert config.admin.listen == "127.0.0.2:1004"
    assert config.upstreams[0].servers == tuple(f"{url}/cvmfs/@fqrn@" for url in upstreams)
    assert config.cache.directory == tmp_path / "c"


def test_geodns_reads_its_configuration_as_it_was_meant(tmp_path):
    path = tmp_path / "geodns.toml"
    path.write_text(geodns_config(port=1005, admin_port=1006, edge_port=1003))
    config = load_geodns(path)
    (zone,) = config.zones
    assert f"{zone.geo[0].name}.{zone.name}" == EDGE_NAME
    assert [site.edges[0].addresses for site in config.sites] == [(place.address,) for place in EDGES]
    assert [site.edges[0].check for site in config.sites] == [f"http://{p.address}:1003/healthz" for p in EDGES]
    assert [entry.network for entry in config.geography.networks] == [client.network for client in CLIENTS]


def test_a_text_is_quoted_as_toml_wants_it():
    import tomllib

    for text in ('a "quoted" \\ path', "tab\tand\nline", "größe/ä"):
        assert tomllib.loads(f"x = {quoted(text)}")["x"] == text
