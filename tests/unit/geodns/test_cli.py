"""The commands, in one process."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from cdn.errors import CdnError, ConfigError, UnreachableError, UsageError
from cdn.reporting import Table
from geodns.cli import geodns
from tests.fakes.reporting import RecordingOutput

EXAMPLE = str(Path(__file__).parents[3] / "examples" / "geodns.toml")
EDGE = "edge.cdn.example.org"


def command(*arguments: str) -> RecordingOutput:
    out = RecordingOutput()
    CliRunner().invoke(geodns, arguments, obj=out, catch_exceptions=False)
    return out


def refused(*arguments: str) -> CdnError:
    error = CliRunner().invoke(geodns, arguments, obj=RecordingOutput()).exception
    assert isinstance(error, CdnError)
    return error


def lookup(*arguments: str) -> dict:
    document = command("lookup", EDGE, "--config", EXAMPLE, *arguments).document
    assert document is not None
    return dict(document)


def test_the_example_is_checked_without_a_doubt():
    out = command("check-config", "--config", EXAMPLE)
    assert out.document is not None
    assert (out.document["sites"], out.document["edges"], out.document["geo_names"]) == (3, 4, 2)
    assert out.warnings == []


def test_what_is_allowed_but_seldom_meant_is_warned_of(tmp_path):
    path = tmp_path / "geodns.toml"
    text = Path(EXAMPLE).read_text().replace(', "2001:db8:3::11"', "").replace('check = "tcp://203.0.113.11:8000"', "")
    path.write_text(text)
    out = command("check-config", "--config", str(path))
    assert any("no check" in warning and "edge1.chicago" in warning for warning in out.warnings)
    assert any("IPv6" in warning and "chicago" in warning for warning in out.warnings)


def test_a_map_with_mistakes_fails_the_check(tmp_path):
    (tmp_path / "networks.map").write_text("nonsense\n")
    path = tmp_path / "geodns.toml"
    path.write_text(Path(EXAMPLE).read_text().replace("# map =", "map ="))
    assert isinstance(refused("check-config", "--config", str(path)), ConfigError)


def test_a_missing_configuration_is_named():
    assert "nothing.toml cannot be read" in str(refused("run", "--config", "nothing.toml"))


def test_a_lookup_tells_the_site_its_addresses_and_all_distances():
    found = lookup("--from", "203.0.113.7")
    assert found["answers"]["A"]["site"] == "chicago"
    assert found["answers"]["A"]["addresses"] == ["203.0.113.11"]
    assert [site["site"] for site in found["sites"]] == ["chicago", "amsterdam", "geneva"]
    distances = [site["distance_km"] for site in found["sites"]]
    assert distances == sorted(distances)
    assert found["prefix_length"] == 24


def test_a_lookup_follows_an_alias():
    document = command("lookup", "WWW.cdn.example.org.", "--from", "203.0.113.7", "--config", EXAMPLE).document
    assert document is not None
    assert document["geo_name"] == EDGE


def test_a_lookup_can_suppose_that_edges_are_down_or_slow():
    assert lookup("--from", "203.0.113.7", "--down", "edge1.chicago")["answers"]["A"]["site"] == "amsterdam"
    near_geneva = lookup("--from", "2001:db8:1::1", "--slow", "edge1.geneva")
    assert near_geneva["answers"]["AAAA"]["edges"] == ["edge2.geneva"]


def test_a_lookup_of_an_unknown_client_says_so():
    out = command("lookup", EDGE, "--from", "100.64.0.1", "--config", EXAMPLE)
    assert "unknown position" in str(out.parts[0])
    assert isinstance(out.parts[-1], Table)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((EDGE, "--from", "nowhere"), "nowhere"),
        (("a..b", "--from", "192.0.2.1"), "not a domain name"),
        (("ns1.cdn.example.org", "--from", "192.0.2.1"), "is no geo name"),
        (("example.com", "--from", "192.0.2.1"), "is no geo name"),
        ((EDGE, "--from", "192.0.2.1", "--down", "edge9"), "there is no edge 'edge9'"),
    ],
)
def test_a_lookup_that_makes_no_sense_is_refused(arguments, complaint):
    error = refused("lookup", *arguments, "--config", EXAMPLE)
    assert isinstance(error, UsageError)
    assert complaint in str(error)


def test_the_state_of_a_server_that_is_not_there_cannot_be_shown():
    assert isinstance(refused("status", "--admin", "http://127.0.0.1:1"), UnreachableError)
    assert isinstance(refused("status", "--admin", "ftp://127.0.0.1"), UsageError)
