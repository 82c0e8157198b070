"""What a client can be told: one frozen class, and the file in which people write its defaults.

# ~/.config/stratocast/client.toml
servers = "http://s1.example.org/cvmfs/@fqrn@;http://s2.example.org/cvmfs/@fqrn@"
proxies = "http://proxy.site.example:3128;DIRECT"
keys = ["/etc/stratocast/keys"]
cache_size = "20GiB"

[repositories."sw.example.org"]
servers = "http://edge.example.org/cvmfs/sw.example.org"
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cdn.client.catalogs import OPEN_MAX_DEFAULT
from cdn.client.objects import FETCHES_MAX
from cdn.client.source_list import parse_external_urls, parse_proxies, parse_servers
from cdn.client.sources import SourcePolicy
from cdn.config import Duration, Size
from cdn.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RepositorySettings:
    """What differs for one repository; None is what holds for all."""

    servers: str | None = None
    proxies: str | None = None
    keys: tuple[Path, ...] | None = None
    external_urls: str | None = None


@dataclass(frozen=True, slots=True)
class ClientFile:
    """The configuration file.

    Args:
        servers: base URLs, see `cdn.client.source_list`.
        proxies: groups of proxies.
        keys: public key files, or folders that hold them.
        external_urls: where the content of external files lies, written as servers are.
        cache: folder of the local cache.
        cache_size: about how much it may hold.
        refresh_max: look for a new revision at least this often, whatever the repository says.
        variables: for ``$(VAR)`` in symlinks, besides the environment's.
        blacklist: file of certificates and revisions that are refused.
        repositories: what differs for some.
    """

    servers: str = ""
    proxies: str = ""
    keys: tuple[Path, ...] = ()
    external_urls: str = ""
    cache: Path | None = None
    cache_size: Size = 4 << 30
    refresh_max: Duration = 0.0
    variables: dict[str, str] = field(default_factory=dict)
    blacklist: Path | None = None
    repositories: dict[str, RepositorySettings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        mistakes = [*_mistakes(self.servers, self.proxies, self.external_urls)]
        for name, settings in self.repositories.items():
            values = (settings.servers or "", settings.proxies or "", settings.external_urls or "")
            mistakes += _mistakes(*values, f"repositories.{name}.")
        if mistakes:
            raise ValueError(*mistakes)


def _mistakes(servers: str, proxies: str, external_urls: str, prefix: str = "") -> list[str]:
    found = []
    for key, text, parse in (
        ("servers", servers, parse_servers),
        ("proxies", proxies, parse_proxies),
        ("external_urls", external_urls, parse_external_urls),
    ):
        try:
            if text:
                parse(text, "name.example.org")
        except ConfigError as error:
            found.append(f"{prefix}{key}: {error}")
    return found


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How an open repository behaves.

    Args:
        cache: folder of the local cache; None keeps nothing between runs.
        cache_bytes_max: about how much it may hold; None for no limit.
        policy: how patiently sources are asked.
        fetches_max: how many objects are fetched at once.
        catalogs_open_max: how many catalogs stay open when nobody reads them.
        refresh_seconds_min, refresh_seconds_max: bounds of the time between two looks for a new revision; the
            repository says the rest. A maximum of 0 is none.
        retry_seconds: how long after a failed look the next one is.
    """

    cache: Path | None = None
    cache_bytes_max: int | None = 4 << 30
    policy: SourcePolicy = field(default_factory=SourcePolicy)
    fetches_max: int = FETCHES_MAX
    catalogs_open_max: int = OPEN_MAX_DEFAULT
    refresh_seconds_min: float = 1.0
    refresh_seconds_max: float = 0.0
    retry_seconds: float = 180.0
