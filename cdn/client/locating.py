"""From a repository's name to its servers and keys: what was said, what is configured, what lies on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cdn.client.addresses import Address
from cdn.client.config import ClientFile, ClientSettings, RepositorySettings
from cdn.client.keys import key_files
from cdn.config import load_config
from cdn.errors import ConfigError
from cdn.objects import MANIFEST_PATH

if TYPE_CHECKING:
    from cdn.client.pins import Pin
    from cdn.client.repository import MountedRepository

_MACHINE: Final = Path("/etc/stratocast")
_REAL_CLIENTS_KEYS: Final = Path("/etc/cvmfs/keys")
_NAME: Final = "client.toml"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a command line says; empty where it says nothing.

    Args:
        servers: base URLs.
        proxies: groups of proxies.
        keys: key files or folders.
        root: folder of repositories on this machine.
        cache: folder of the cache.
        config: configuration file.
        external_urls: where the content of external files lies.
    """

    servers: tuple[str, ...] = ()
    proxies: str = ""
    keys: tuple[Path, ...] = ()
    root: Path | None = None
    cache: Path | None = None
    config: Path | None = None
    external_urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Places:
    """Where this user keeps things, read from the environment once.

    Args:
        config: folder of configuration.
        cache: folder of what can be fetched again.
        data: folder of repositories on this machine, unless another is named.
    """

    config: Path
    cache: Path
    data: Path

    @classmethod
    def of(cls, environment: Mapping[str, str], *, is_root: bool) -> Places:
        """The places by the XDG rules; the superuser's repositories are the machine's."""
        home = Path(environment.get("HOME") or Path.home())
        data = Path(environment.get("XDG_DATA_HOME") or home / ".local/share") / "stratocast"
        return cls(
            Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "stratocast",
            Path(environment.get("XDG_CACHE_HOME") or home / ".cache") / "stratocast",
            Path("/var/lib/stratocast") if is_root else data,
        )


@dataclass(frozen=True, slots=True)
class Located:
    """Everything needed to open a repository."""

    fqrn: str
    servers: tuple[str, ...]
    proxies: str
    keys: tuple[Path, ...]
    settings: ClientSettings
    variables: Mapping[str, str]
    blacklist: Path | None = None
    external_urls: tuple[str, ...] = ()

    async def open(self, pin: Pin) -> MountedRepository:
        """Opens it.

        Raises:
            CdnError: it cannot be had or must not be believed.
        """
        from cdn.client.repository import open_repository

        return await open_repository(
            self.fqrn,
            servers=self.servers,
            proxies=self.proxies,
            external_urls=self.external_urls,
            keys=self.keys,
            settings=self.settings,
            variables=self.variables,
            blacklist=self.blacklist,
            pin=pin,
        )


def _nearest(name: str, folder: Path) -> str:
    """Which repository of this machine may be meant."""
    import difflib

    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return ""
    nearest = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {nearest[0]}, which is on this machine?)" if nearest else ""


def locate(address: Address, wishes: Wishes, places: Places, environment: Mapping[str, str]) -> Located:
    """Finds servers and keys: what the command line says, else the configuration, else this machine.

    Raises:
        ConfigError: there is no server or no key; what can be done is said.
    """
    file = _configuration(wishes, places)
    own = file.repositories.get(address.fqrn, RepositorySettings())
    root = wishes.root or places.data
    configured = own.servers if own.servers is not None else file.servers
    servers = (address.server,) if address.server else wishes.servers or ((configured,) if configured else ())
    local = root / "srv" / address.fqrn
    if not servers and (local / MANIFEST_PATH).is_file():
        servers = (str(local),)
    if not servers:
        raise ConfigError(
            f"no server is known for {address.fqrn}{_nearest(address.fqrn, root / 'srv')}: name one with "
            f'--server http://host/cvmfs/{address.fqrn}, or write servers = "…" into {places.config / _NAME}'
        )
    keys = wishes.keys or (own.keys if own.keys is not None else file.keys)
    elsewhere = own.external_urls if own.external_urls is not None else file.external_urls
    external_urls = wishes.external_urls or ((elsewhere,) if elsewhere else ())
    is_local = all(url.startswith(("/", "./", "../", "~/", "file:")) for url in (*servers, *external_urls))
    settings = ClientSettings(
        cache=wishes.cache or (None if is_local else file.cache or places.cache),
        cache_bytes_max=file.cache_size,
        refresh_seconds_max=file.refresh_max,
    )
    return Located(
        address.fqrn,
        tuple(_folder_made_absolute(server) for server in servers),
        wishes.proxies or (own.proxies if own.proxies is not None else file.proxies),
        keys or _usual_keys(address.fqrn, root, places),
        settings,
        {**environment, **file.variables},
        file.blacklist,
        tuple(_folder_made_absolute(url) for url in external_urls),
    )


def _configuration(wishes: Wishes, places: Places) -> ClientFile:
    if wishes.config is not None:
        return load_config(ClientFile, wishes.config)
    for folder in (places.config, _MACHINE):
        if (folder / _NAME).is_file():
            return load_config(ClientFile, folder / _NAME)
    return ClientFile()


def _usual_keys(fqrn: str, root: Path, places: Places) -> tuple[Path, ...]:
    """The key files found where keys usually are; the first place that has any counts."""
    for folder in (root / "repositories" / fqrn / "keys", root / "replicas" / fqrn / "keys"):
        if folder.is_dir() and (files := key_files(folder, fqrn)):
            return tuple(files)
    for folder in (places.config / "keys", _MACHINE / "keys", _REAL_CLIENTS_KEYS):
        if folder.is_dir() and (files := key_files(folder, fqrn)):
            return tuple(files)
    return ()


def _folder_made_absolute(server: str) -> str:
    is_folder = server.startswith(("/", "./", "../", "~/"))
    return os.path.abspath(os.path.expanduser(server)) if is_folder else server
