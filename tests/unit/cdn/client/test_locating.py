from __future__ import annotations

from pathlib import Path

import pytest

from cdn.client.addresses import Address
from cdn.client.config import ClientFile
from cdn.client.keys import key_files, load_keys
from cdn.client.locating import Places, Wishes, locate
from cdn.config import parse_config
from cdn.errors import ConfigError, DocumentError
from cdn.keyfiles import write_public_key
from tests.fakes.signer import key

NAME = "sw.example.org"
HERE = Address(NAME, "/")


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path / "config", tmp_path / "cache", tmp_path / "data")


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_command_line_comes_before_the_configuration(places):
    write(places.config / "client.toml", 'servers = "http://configured/r"\nproxies = "p:1"\nkeys = ["/configured"]\n')
    said = locate(HERE, Wishes(("http://said/r",), "q:1", (Path("/said"),)), places, {})
    assert (said.servers, said.proxies, said.keys) == (("http://said/r",), "q:1", (Path("/said"),))
    configured = locate(HERE, Wishes(), places, {})
    assert (configured.servers, configured.proxies, configured.keys) == (
        ("http://configured/r",),
        "p:1",
        (Path("/configured"),),
    )


def test_an_address_with_a_server_needs_no_other(places):
    assert locate(Address(NAME, "/", "http://there/r"), Wishes(("http://said/r",)), places, {}).servers == (
        "http://there/r",
    )


def test_what_is_configured_for_one_repository_holds_for_it_alone(places):
    text = f'servers = "http://all/@fqrn@"\n[repositories."{NAME}"]\nservers = "http://own/r"\n'
    write(places.config / "client.toml", text)
    assert locate(HERE, Wishes(), places, {}).servers == ("http://own/r",)
    assert locate(Address("other.example.org", "/"), Wishes(), places, {}).servers == ("http://all/@fqrn@",)


def test_external_urls_are_found_like_servers(places):
    text = 'servers = "http://all/@fqrn@"\nexternal_urls = "http://data"\n'
    write(places.config / "client.toml", text + f'[repositories."{NAME}"]\nexternal_urls = "http://own;http://two"\n')
    assert locate(HERE, Wishes(), places, {}).external_urls == ("http://own;http://two",)
    assert locate(Address("other.example.org", "/"), Wishes(), places, {}).external_urls == ("http://data",)
    assert locate(HERE, Wishes(external_urls=("/said",)), places, {}).external_urls == ("/said",)


def test_what_comes_from_elsewhere_into_a_repository_of_this_machine_is_kept(places):
    write(places.data / "srv" / NAME / ".cvmfspublished")
    assert locate(HERE, Wishes(external_urls=("/here",)), places, {}).settings.cache is None
    assert locate(HERE, Wishes(external_urls=("http://far",)), places, {}).settings.cache == places.cache


def test_a_repository_of_this_machine_is_found_with_its_key(places):
    write(places.data / "srv" / NAME / ".cvmfspublished")
    key = write(places.data / "repositories" / NAME / "keys" / f"{NAME}.pub")
    located = locate(HERE, Wishes(), places, {})
    assert (located.servers, located.keys) == ((str(places.data / "srv" / NAME),), (key,))
    assert located.settings.cache is None, "what lies on this machine is not kept a second time"


def test_a_replica_of_this_machine_is_found_with_its_key(places):
    write(places.data / "srv" / NAME / ".cvmfspublished")
    key = write(places.data / "replicas" / NAME / "keys" / f"{NAME}.pub")
    assert locate(HERE, Wishes(), places, {}).keys == (key,)


def test_no_server_says_what_to_do(places):
    with pytest.raises(ConfigError, match="--server"):
        locate(HERE, Wishes(), places, {})


def test_a_misspelt_repository_of_this_machine_is_guessed(places):
    write(places.data / "srv" / NAME / ".cvmfspublished")
    with pytest.raises(ConfigError, match=r"did you mean sw\.example\.org"):
        locate(Address("sw.exmaple.org", "/"), Wishes(), places, {})


def test_variables_come_from_the_environment_and_the_configuration(places):
    write(places.config / "client.toml", '[variables]\nB = "file"\n')
    assert locate(HERE, Wishes(("http://x/r",)), places, {"A": "env", "B": "env"}).variables == {
        "A": "env",
        "B": "file",
    }


def test_a_configuration_tells_all_its_mistakes():
    with pytest.raises(ConfigError) as caught:
        parse_config(ClientFile, 'servers = "ftp://x"\nproxies = "auto"\nexternal_urls = "x"\n', "client.toml")
    assert "servers" in str(caught.value)
    assert "proxies" in str(caught.value)
    assert "external_urls" in str(caught.value)


def test_places_follow_the_environment():
    environment = {"HOME": "/home/u", "XDG_CACHE_HOME": "/fast"}
    places = Places.of(environment, is_root=False)
    assert places == Places(
        Path("/home/u/.config/stratocast"), Path("/fast/stratocast"), Path("/home/u/.local/share/stratocast")
    )
    assert Places.of(environment, is_root=True).data == Path("/var/lib/stratocast")


# ---------------------------------------------------------------------------------------------------------------- keys


def test_of_a_folder_the_key_for_the_name_or_its_domain_is_taken(tmp_path):
    for name in ("other.pub", "example.org.pub"):
        write(tmp_path / name)
    assert key_files(tmp_path, NAME) == [tmp_path / "example.org.pub"]
    own = write(tmp_path / "example.org" / f"{NAME}.pub")
    assert key_files(tmp_path, NAME) == [own]


def test_of_a_folder_without_such_a_key_all_are_taken(tmp_path):
    files = [write(tmp_path / name) for name in ("a.pub", "b.pub")]
    assert key_files(tmp_path, NAME) == files


def test_no_key_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"get sw.example.org.pub from its publisher"):
        load_keys([tmp_path], NAME)


def test_keys_are_read_and_bad_files_refused(tmp_path):
    path = tmp_path / "k.pub"
    write_public_key(path, key("master").public_key())
    assert len(load_keys([path, key("manager").public_key()], NAME)) == 2
    with pytest.raises(DocumentError):
        load_keys([write(tmp_path / "bad.pub", "no key")], NAME)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_keys([tmp_path / "absent.pub"], NAME)
