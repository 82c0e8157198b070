"""Map files and databases: what is loaded, and that damage is refused."""

from pathlib import Path

import pytest

from cdn.errors import ConfigError, DocumentError
from geodns.config import GeographySettings, NetworkSettings
from geodns.geo import packed_address
from geodns.geography_files import CityDatabase, load_geography, load_network_map

DATABASES = Path(__file__).parents[4] / "shared" / "data" / "geoip"
needs_databases = pytest.mark.skipif(not DATABASES.is_dir(), reason="the GeoIP test databases are not on this machine")

CITY = DATABASES / "GeoLite2-City-Test.mmdb"
LONDON = "81.2.69.142"


def test_a_map_file_is_loaded(tmp_path):
    path = tmp_path / "networks.map"
    path.write_text("192.0.2.0/24 46.2 6.1\n")
    assert load_network_map(path).locate(packed_address("192.0.2.1")).position is not None


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.map cannot be read: No such file"):
        load_network_map(tmp_path / "missing.map")
    with pytest.raises(ConfigError, match="cannot be read"):
        CityDatabase.load(tmp_path)


def test_a_map_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "networks.map"
    path.write_bytes(b"192.0.2.0/24 46.2 6.1\n\xff\xfe")
    with pytest.raises(ConfigError, match="byte 22 is not UTF-8"):
        load_network_map(path)


@pytest.mark.parametrize("content", [b"", b"no database", bytes(5000), b"\xab\xcd\xefMaxMind.com", b"x" * 200_000])
def test_a_file_that_is_no_database_is_refused(tmp_path, content):
    path = tmp_path / "city.mmdb"
    path.write_bytes(content)
    with pytest.raises(DocumentError, match=r"city\.mmdb is damaged"):
        CityDatabase.load(path)


@needs_databases
class TestCityDatabase:
    def test_a_known_address_has_its_position_and_prefix(self):
        found = CityDatabase.load(CITY).locate(packed_address(LONDON))
        assert found.position is not None
        assert (round(found.position.latitude, 2), round(found.position.longitude, 2)) == (51.51, -0.09)
        assert found.prefix_length == 31

    def test_ipv6_and_unknown_addresses(self):
        database = CityDatabase.load(CITY)
        assert database.locate(packed_address("2001:218::1")).position is not None
        unknown = database.locate(packed_address("127.0.0.1"))
        assert unknown.position is None
        assert 0 <= unknown.prefix_length <= 32

    @pytest.mark.parametrize("name", ["GeoLite2-ASN-Test.mmdb", "GeoLite2-Country-Test.mmdb"])
    def test_a_database_without_coordinates_is_refused(self, name):
        with pytest.raises(DocumentError, match="no coordinates; use a City database"):
            CityDatabase.load(DATABASES / name)

    @pytest.mark.parametrize("path", sorted((DATABASES / "bad").glob("*.mmdb")), ids=lambda path: path.name)
    def test_a_damaged_database_is_refused(self, path):
        with pytest.raises(DocumentError, match="is damaged") as told:
            CityDatabase.load(path)
        assert path.name in str(told.value)
        assert "/proc/" not in str(told.value)

    @pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
    def test_a_cut_off_database_is_refused(self, tmp_path, kept):
        whole = CITY.read_bytes()
        path = tmp_path / "city.mmdb"
        path.write_bytes(whole[: int(len(whole) * kept)])
        with pytest.raises(DocumentError):
            CityDatabase.load(path)

    def test_overwriting_the_file_in_place_changes_nothing_for_who_loaded_it(self, tmp_path):
        path = tmp_path / "city.mmdb"
        path.write_bytes(CITY.read_bytes())
        database = CityDatabase.load(path)
        path.write_bytes(b"")
        assert database.locate(packed_address(LONDON)).position is not None

    def test_networks_written_by_hand_go_before_the_database(self):
        by_hand = NetworkSettings("81.2.69.0/24", 0.0, 0.0)
        found = load_geography(GeographySettings((by_hand,), database=CITY)).locate(packed_address(LONDON))
        assert found.position is not None
        assert found.position.latitude == 0.0
