"""What an edge is told about whom it asks."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from cdn.config import Duration
from edge.config_checks import NAME, check_positive, in_key, url_target

REPOSITORY_MARK: Final = "@fqrn@"
REPOSITORIES_PATH: Final = "/cvmfs/"


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Servers that hold the same repositories, or the same part of an ordinary site.

    Args:
        name: what logs and metrics call the group.
        urls: base URLs of a repository on each server, the preferred one first, with ``@fqrn@`` for its name, such as
            ``http://stratum1.example.org/cvmfs/@fqrn@``. With `path`, base URLs of what is below it.
        repositories: which repositories they hold: names, or patterns such as ``*.example.org``. The first group that
            holds a repository serves it.
        path: makes this a group of ordinary web servers: what is asked of this edge below the path, such as
            ``/frontier/`` or ``/``, is asked of them, with any method. The longest path that fits counts.
    """

    name: str
    urls: tuple[str, ...]
    repositories: tuple[str, ...] = ("*",)
    path: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError("name: use letters, digits, dots, dashes and underscores")
        if not self.urls:
            raise ValueError("urls: name at least one server")
        for url in self.urls:
            with in_key("urls"):
                url_target(url.replace(REPOSITORY_MARK, "x"))
        if self.path:
            self._check_path()
            return
        if not self.repositories:
            raise ValueError("repositories: name at least one repository or pattern")
        if any(REPOSITORY_MARK not in url for url in self.urls) and not self._is_single():
            raise ValueError(f"urls: a group of several repositories needs {REPOSITORY_MARK} in each URL")

    def _check_path(self) -> None:
        with in_key("path"):
            target = url_target(f"http://edge{self.path}")
        if not self.path.startswith("/") or target.path != self.path:
            raise ValueError(f"path: {self.path!r} is no path such as /frontier/")
        if (self.path.rstrip("/") + "/").startswith(REPOSITORIES_PATH):
            raise ValueError(f"path: what is below {REPOSITORIES_PATH} are repositories, named by their own key")
        if any(REPOSITORY_MARK in url for url in self.urls):
            raise ValueError(f"urls: {REPOSITORY_MARK} stands for a repository, and a group with a path has none")

    def _is_single(self) -> bool:
        return len(self.repositories) == 1 and not set("*?[") & set(self.repositories[0])

    def holds(self, repository: str) -> bool:
        """Whether these servers hold a repository."""
        return not self.path and any(fnmatchcase(repository, pattern) for pattern in self.repositories)

    def bases(self, repository: str) -> tuple[str, ...]:
        """The base URL of a repository on each server."""
        return tuple(url.replace(REPOSITORY_MARK, repository).rstrip("/") for url in self.urls)


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """How upstreams are asked.

    Args:
        connect_timeout: for finding and connecting to a server.
        answer_timeout: for the head of its answer.
        idle_timeout: how long it may send nothing.
        connections_per_host: requests under way to one server.
        connections_max: requests under way in all.
        retry_after: how long a server that failed is asked last, doubling up to a minute.
    """

    connect_timeout: Duration = 2.0
    answer_timeout: Duration = 10.0
    idle_timeout: Duration = 10.0
    connections_per_host: int = 32
    connections_max: int = 256
    retry_after: Duration = 1.0

    def __post_init__(self) -> None:
        check_positive(self, "connect_timeout", "answer_timeout", "idle_timeout")
        check_positive(self, "connections_per_host", "connections_max")
