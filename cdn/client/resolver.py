"""From a path as somebody writes it to the path of an entry: ``.``, ``..``, symlinks and their variables (spec §5.11).

Links are followed as a kernel would follow them under a mount at ``/cvmfs/NAME``: an absolute target into that mount
stays in the repository, any other leads out of it and cannot be followed here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cdn.catalog.entries import Entry, encode_name
from cdn.catalog.paths import NAME_BYTES_MAX, PATH_BYTES_MAX, parent_of
from cdn.client.variables import expand
from cdn.errors import PathKindError, PathMissingError, SymlinkLoopError

LINKS_MAX: Final = 40
"""As many as Linux follows."""

Find = Callable[[str], Awaitable[Entry | None]]
"""Gives the entry at a path, None if there is none."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """An entry and the path it really has."""

    path: str
    entry: Entry


class Resolver:
    """Resolves paths in one tree.

    Args:
        find: looks up entries.
        fqrn: the repository's name.
        variables: for ``$(VAR)`` in link targets.
    """

    def __init__(self, find: Find, fqrn: str, variables: Mapping[str, str]) -> None:
        self._find = find
        self._mountpoint = f"/cvmfs/{fqrn}"
        self._variables = variables

    def target_of(self, entry: Entry) -> str:
        """A symlink's target as this client sees it."""
        return expand(entry.symlink, self._variables)

    async def resolve(self, path: str, *, follow: bool = True) -> Resolved:
        """The entry at a path.

        Args:
            path: with or without a slash at its beginning.
            follow: whether a symlink at its very end is followed; those on the way always are.

        Raises:
            PathMissingError: there is none, or a link leads out of the repository.
            PathKindError: something on the way is no directory.
            SymlinkLoopError: the links go in a circle.
        """
        if not path.endswith("/") and (found := await self._straight(path, follow=follow)) is not None:
            return found
        return await self._walk(path, follow=follow)

    async def _straight(self, path: str, *, follow: bool) -> Resolved | None:
        """The entry, if it is at exactly this path: then no link was on the way, since entries have only real paths."""
        plain = "" if path in ("", "/") else path if path.startswith("/") else f"/{path}"
        if not is_plain(plain):
            return None
        entry = await self._find(plain)
        return None if entry is None or (follow and entry.is_symlink) else Resolved(plain, entry)

    async def _walk(self, path: str, *, follow: bool) -> Resolved:
        here = Resolved("", await self._found(""))
        left = _components(path)
        follow = follow or path.endswith("/")
        links = 0
        while left:
            name = left.pop()
            if not here.entry.is_directory:
                raise PathKindError(f"not a directory: {here.path or '/'}")
            here = await self._step(here, name, path)
            if here.entry.is_symlink and (left or follow):
                links += 1
                if links > LINKS_MAX:
                    raise SymlinkLoopError(path)
                target = self._target_inside(here)
                start = "" if target.startswith("/") else parent_of(here.path)
                here = Resolved(start, await self._found(start))
                left += _components(target)
        if path.endswith("/") and not here.entry.is_directory:
            raise PathKindError(f"not a directory: {here.path or '/'}")
        return here

    async def _step(self, here: Resolved, name: str, asked: str) -> Resolved:
        path = parent_of(here.path) if name == ".." else f"{here.path}/{name}"
        if name == ".." and not here.path:
            raise PathMissingError(f"{asked} (it leads out of the repository)")
        if len(name) > NAME_BYTES_MAX or len(encode_name(path)) > PATH_BYTES_MAX:
            raise PathMissingError(path[:200])
        return Resolved(path, await self._found(path))

    async def _found(self, path: str) -> Entry:
        entry = await self._find(path)
        if entry is None:
            raise PathMissingError(path)
        return entry

    def _target_inside(self, link: Resolved) -> str:
        """Where a link leads, as an absolute path of the repository or relative to the link."""
        target = self.target_of(link.entry)
        if not target:
            raise PathMissingError(f"{link.path} (its target is empty)")
        if not target.startswith("/"):
            return target
        if target == self._mountpoint or target.startswith(f"{self._mountpoint}/"):
            return target[len(self._mountpoint) :] or "/"
        raise PathMissingError(f"{link.path} (it leads out of the repository, to {target[:200]})")


def is_plain(path: str) -> bool:
    """Whether a path is absolute and has nothing in it to resolve but links; the root is empty."""
    return not path or (
        path[0] == "/"
        and "//" not in path
        and "\0" not in path
        and not path.endswith("/")
        and not any(part in (".", "..") for part in path[1:].split("/"))
    )


def _components(path: str) -> list[str]:
    """The names in a path, the first last."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]
