"""How people name a place in a repository on a command line. Pure.

sw.example.org                              the root; servers and keys come from options or configuration
sw.example.org:/lib/libz.so                 a path
http://host/cvmfs/sw.example.org/lib        the usual URL of a repository, and a path after it
http://host:8000/anything:/lib              any URL or folder; `:/` says where the path begins
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from cdn.errors import UsageError
from cdn.manifest import is_repository_name

_USUAL_PARENT = "cvmfs"


@dataclass(frozen=True, slots=True)
class Address:
    """A place in a repository.

    Args:
        fqrn: the repository's name.
        path: within it.
        server: its base URL or folder, None where the address does not say.
    """

    fqrn: str
    path: str
    server: str | None = None


def parse_address(text: str, *, fqrn: str | None = None) -> Address:
    """Reads an address.

    Args:
        text: as in the head of this module.
        fqrn: the repository's name, where the address cannot tell it.

    Raises:
        UsageError: it names no repository.
    """
    scheme, separator, rest = text.partition("://")
    if separator:
        return _url_address(scheme, rest, fqrn)
    if text.startswith(("/", "./", "../", "~/")):
        return _folder_address(text, fqrn)
    name, _, path = text.partition(":")
    if not is_repository_name(name):
        raise UsageError(
            f"{text[:200]!r} names no repository: write NAME:/path, such as sw.example.org:/lib, or "
            "http://host/cvmfs/sw.example.org/lib"
        )
    return Address(name, path or "/")


def _url_address(scheme: str, rest: str, fqrn: str | None) -> Address:
    base, separator, path = rest.partition(":/")
    if separator:
        return _named(f"{scheme}://{base}", f"/{path}", fqrn)
    parts = rest.split("/")
    for place in range(1, len(parts)):
        is_usual = parts[place - 1] == _USUAL_PARENT and is_repository_name(parts[place])
        if parts[place] == fqrn or (fqrn is None and is_usual):
            path = "/".join(parts[place + 1 :])
            return _named(
                f"{scheme}://{'/'.join(parts[: place + 1])}", f"/{unquote(path, errors='surrogateescape')}", fqrn
            )
    return _named(f"{scheme}://{rest}", "/", fqrn)


def _folder_address(text: str, fqrn: str | None) -> Address:
    base, _, path = text.partition(":/")
    return _named(base, f"/{path}", fqrn)


def _named(server: str, path: str, fqrn: str | None) -> Address:
    name = fqrn or server.rstrip("/").rpartition("/")[2]
    if not is_repository_name(name) or (fqrn is None and "." not in name):
        raise UsageError(f"{server[:200]!r} does not tell the repository's name: add --repository NAME")
    return Address(name, path, server.rstrip("/"))
