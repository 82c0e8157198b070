"""Where replicas lie, and what each of them is told.

ROOT/srv/NAME/                 what is served: data/, .cvmfspublished …
ROOT/srv/info/v1/              which repositories there are
ROOT/replicas/NAME/            never served: replica.toml, keys/, the lock, the newest documents believed
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from cdn.client.source_list import parse_proxies, parse_servers
from cdn.config import Between, Duration, Size, load_config
from cdn.errors import ConfigError, RepositoryMissingError, UsageError
from cdn.manifest import is_repository_name

CONFIG_NAME: Final = "replica.toml"
WORKERS_DEFAULT: Final = 16


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """One replica.

    Args:
        servers: base URLs of its sources, the preferred first.
        proxies: groups of proxies to them.
        workers: how many objects are fetched at once.
        interval: between two looks for a new revision, by `cdn replica run`.
        check_master_replica: whether a source must allow replication (`.cvmfs_master_replica`).
        tags: whether tagged revisions are copied besides the newest.
        object_bytes_max: larger objects are refused.
        timeout: how long a source may send nothing.
    """

    servers: str
    proxies: str = ""
    workers: Annotated[int, Between(1, 256)] = WORKERS_DEFAULT
    interval: Duration = 60.0
    check_master_replica: bool = True
    tags: bool = True
    object_bytes_max: Size = 64 << 30
    timeout: Duration = 10.0

    def __post_init__(self) -> None:
        mistakes = []
        for key, text, parse in (("servers", self.servers, parse_servers), ("proxies", self.proxies, parse_proxies)):
            try:
                parse(text, "name.example.org")
            except ConfigError as error:
                mistakes.append(f"{key}: {error}")
        if self.interval < 1:
            mistakes.append("interval: less than a second is no interval but a load")
        if mistakes:
            raise ValueError(*mistakes)


@dataclass(frozen=True, slots=True)
class ReplicaHome:
    """The folders of all replicas of one machine.

    Args:
        root: see the head of this module.
    """

    root: Path

    @classmethod
    def usual(cls) -> ReplicaHome:
        """The folder where nobody names another: the machine's for root, else the user's own."""
        if os.geteuid() == 0:
            return cls(Path("/var/lib/stratocast"))
        return cls(Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "stratocast")

    @property
    def served(self) -> Path:
        """What a web server shows."""
        return self.root / "srv"

    def storage(self, fqrn: str) -> Path:
        """A replica's objects and documents."""
        return self.served / _checked(fqrn)

    def folder(self, fqrn: str) -> Path:
        """What is known of a replica and never served."""
        return self.root / "replicas" / _checked(fqrn)

    def keys(self, fqrn: str) -> Path:
        """The folder of its public keys."""
        return self.folder(fqrn) / "keys"

    def names(self) -> list[str]:
        """The replicas there are."""
        found = (self.root / "replicas").glob(f"*/{CONFIG_NAME}")
        return sorted(path.parent.name for path in found if is_repository_name(path.parent.name))

    def config(self, fqrn: str) -> ReplicaConfig:
        """What a replica is told.

        Raises:
            RepositoryMissingError: there is none of this name.
            ConfigError: its file has mistakes.
        """
        path = self.folder(fqrn) / CONFIG_NAME
        if not path.is_file():
            raise RepositoryMissingError(
                f"there is no replica of {fqrn} in {self.root}: make one with `cdn replica add {fqrn} --server URL`"
            )
        return load_config(ReplicaConfig, path)


def config_text(config: ReplicaConfig) -> str:
    """The file that `load_config` reads again."""
    return "".join(f"{line}\n" for line in _lines(config))


def _lines(config: ReplicaConfig) -> Iterator[str]:
    yield f"servers = {json.dumps(config.servers)}"
    yield f"proxies = {json.dumps(config.proxies)}"
    yield f"workers = {config.workers}"
    yield f'interval = "{config.interval:g}s"'
    yield f"check_master_replica = {str(config.check_master_replica).lower()}"
    yield f"tags = {str(config.tags).lower()}"


def _checked(fqrn: str) -> str:
    if not is_repository_name(fqrn):
        raise UsageError(f"{fqrn[:200]!r} is no name of a repository, such as sw.example.org")
    return fqrn
