"""Configuration files: what is accepted, and how mistakes are told."""

from pathlib import Path

import pytest

from cdn.errors import ConfigError
from geodns.config import load
from geodns.config_values import contact_name, listen_address
from geodns.wire import Name

EXAMPLE = Path(__file__).parents[3] / "examples" / "geodns.toml"

MINIMAL = """
[[zones]]
name = "cdn.example.org"
name_servers = ["ns1"]

[[zones.geo]]
name = "edge"

[[sites]]
name = "geneva"
latitude = 46.2
longitude = 6.1

[[sites.edges]]
name = "g1"
addresses = ["192.0.2.1"]
"""


def mistake(tmp_path: Path, old: str, new: str) -> str:
    assert old in MINIMAL
    path = tmp_path / "geodns.toml"
    path.write_text(MINIMAL.replace(old, new, 1))
    with pytest.raises(ConfigError) as told:
        load(path)
    assert str(told.value).startswith(f"{path}:")
    return str(told.value)


def test_the_example_is_good():
    config = load(EXAMPLE)
    assert [zone.name for zone in config.zones] == ["cdn.example.org"]
    assert [site.name for site in config.sites] == ["geneva", "amsterdam", "chicago"]


def test_the_smallest_configuration_is_good(tmp_path):
    path = tmp_path / "geodns.toml"
    path.write_text(MINIMAL)
    assert load(path).zones[0].geo[0].ttl_seconds == 30


def test_files_are_meant_beside_the_configuration(tmp_path):
    path = tmp_path / "geodns.toml"
    path.write_text(MINIMAL + '\n[geography]\nmap = "networks.map"\ndatabase = "/srv/city.mmdb"\n')
    geography = load(path).geography
    assert (geography.map, geography.database) == (tmp_path / "networks.map", Path("/srv/city.mmdb"))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('name = "cdn.example.org"', 'name = "no zone"', "not a domain name"),
        ('name_servers = ["ns1"]', "name_servers = []", "name_servers"),
        ('name_servers = ["ns1"]', 'name_servers = ["ns1"]\ncontact = "nobody"', "mailbox"),
        ('name_servers = ["ns1"]', 'name_servers = ["ns1"]\nserial = -1', "serial"),
        ('name_servers = ["ns1"]', 'name_servers = ["ns1"]\nttl_seconds = 2147483648', "ttl_seconds"),
        ('name_servers = ["ns1"]', 'name_servers = ["ns1"]\nttl = 5', "no such key"),
        ('name = "edge"', 'name = "edge"\nsites = ["paris"]', "'paris', which is not defined"),
        ('name = "edge"', 'name = "edge"\nsites = ["geneva", "geneva"]', "twice"),
        ('name = "edge"', 'name = "edge.example.com."', "outside the zone"),
        ('name = "edge"', 'name = "*"', "not a domain name"),
        ('name = "edge"', 'name = "edge"\naddresses_max = 0', "addresses_max"),
        ("latitude = 46.2", "latitude = 146.2", "latitude"),
        ('addresses = ["192.0.2.1"]', "addresses = []", "addresses"),
        ('addresses = ["192.0.2.1"]', 'addresses = ["192.0.2.1", "192.0.2.1"]', "twice"),
        ('addresses = ["192.0.2.1"]', 'addresses = ["edge.example.org"]', "addresses"),
        ('addresses = ["192.0.2.1"]', 'addresses = ["192.0.2.1"]\ncheck = "ftp://x"', "check"),
        ('addresses = ["192.0.2.1"]', 'addresses = ["192.0.2.1"]\ncheck = "tcp://x"', "needs a port"),
        ('addresses = ["192.0.2.1"]', 'addresses = ["192.0.2.1"]\ncheck = "http://x:99999/"', "check"),
        ("[[zones]]", '[listen]\naddresses = ["everywhere"]\n[[zones]]', "listen.addresses"),
        ("[[zones]]", "[listen]\nport = 65536\n[[zones]]", "port"),
        ("[[zones]]", '[admin]\nlisten = "9153"\n[[zones]]', "ADDRESS:PORT"),
        ("[[zones]]", '[health]\nslow_seconds = "9s"\n[[zones]]', "slow_seconds"),
        ("[[zones]]", "[limits]\nreplies_per_second = 0.5\n[[zones]]", "replies_per_second"),
        ("[[zones]]", "[limits]\ntcp_connections_max = 0\n[[zones]]", "tcp_connections_max"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(tmp_path, old, new, complaint):
    assert complaint in mistake(tmp_path, old, new)


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ('name = "edge"\ntype = "A"\nvalues = ["192.0.2.1"]', "given twice"),
        ('name = "edge"\ntype = "CNAME"\nvalues = ["x"]', "CNAME"),
        ('name = "@"\ntype = "CNAME"\nvalues = ["x"]', "CNAME"),
        ('name = "x"\ntype = "CNAME"\nvalues = ["y", "z"]', "exactly one"),
        ('name = "x"\ntype = "A"\nvalues = ["2001:db8::1"]', "2001:db8::1"),
        ('name = "x"\ntype = "AAAA"\nvalues = ["192.0.2.1"]', "192.0.2.1"),
        ('name = "x"\ntype = "MX"\nvalues = ["y"]', "must be one of"),
        ('name = "x"\ntype = "A"\nvalues = []', "at least one"),
    ],
)
def test_records_that_cannot_be_are_refused(tmp_path, record, complaint):
    assert complaint in mistake(tmp_path, "[[zones.geo]]", f"[[zones.records]]\n{record}\n\n[[zones.geo]]")


def test_a_geo_name_without_any_site_has_nowhere_to_lead(tmp_path):
    assert "add a [[sites]] table" in mistake(tmp_path, MINIMAL[MINIMAL.index("[[sites]]") :], "")


def test_two_edges_of_one_name_are_refused(tmp_path):
    again = '\n[[sites.edges]]\nname = "g1"\naddresses = ["192.0.2.2"]\n'
    assert "edge 'g1' is there twice" in mistake(
        tmp_path, 'addresses = ["192.0.2.1"]\n', f'addresses = ["192.0.2.1"]\n{again}'
    )


def test_addresses_with_ports_are_read():
    assert listen_address("127.0.0.1:53") == ("127.0.0.1", 53)
    assert listen_address("[::1]:0") == ("::1", 0)


def test_a_dot_in_a_mailbox_stays_in_its_first_label():
    origin = Name.from_text("example.org")
    assert contact_name("john.doe@example.org", origin) == b"\x08john.doe" + origin
    assert contact_name("", origin) == b"\x0ahostmaster" + origin
