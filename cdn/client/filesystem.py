"""One revision of a repository as a file system that can be read: stat, listings, links, content, walks.

Everything is asynchronous and none of it writes. Errors carry the meaning of an errno by their class (`cdn.errors`):
`PathMissingError` is ENOENT, `PathKindError` ENOTDIR, EISDIR or EINVAL, `SymlinkLoopError` ELOOP, and whatever comes
from sources, storage or damaged documents is EIO.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from cdn.catalog.entries import Entry
from cdn.catalog.paths import PATH_BYTES_MAX
from cdn.client.catalogs import Tree
from cdn.client.files import PIECE_BYTES, OpenFile, open_file, pieces_of
from cdn.client.objects import ObjectReader
from cdn.client.resolver import Resolved, Resolver
from cdn.errors import DocumentError, PathKindError, PathMissingError


class FileSystem:
    """The tree of one revision.

    Args:
        tree: its catalogs.
        objects: gives content.
        fqrn: the repository's name.
        revision: its number.
        variables: for ``$(VAR)`` in link targets.
        check: raises once the revision must not be read any more, because it was blacklisted (spec §2.5).
    """

    def __init__(
        self,
        tree: Tree,
        objects: ObjectReader,
        *,
        fqrn: str,
        revision: int,
        variables: Mapping[str, str],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.tree = tree
        self.fqrn = fqrn
        self.revision = revision
        self._objects = objects
        self._check = check
        self._resolver = Resolver(tree.find, fqrn, variables)

    async def resolve(self, path: str, *, follow: bool = True) -> Resolved:
        """The entry at a path and the path it really has.

        Args:
            path: with or without a slash at its beginning.
            follow: whether a symlink at its end is followed.

        Raises:
            PathMissingError, PathKindError, SymlinkLoopError: there is no such entry.
            RollbackError: the revision was blacklisted meanwhile; so for all that follow.
        """
        self._check()
        return await self._resolver.resolve(path, follow=follow)

    async def stat(self, path: str, *, follow: bool = True) -> Entry:
        """The entry at a path; as `resolve`."""
        return (await self.resolve(path, follow=follow)).entry

    async def exists(self, path: str) -> bool:
        """Whether there is something at a path, links followed."""
        try:
            await self.resolve(path)
        except (PathMissingError, PathKindError):
            return False
        return True

    async def readlink(self, path: str) -> str:
        """The target of a symlink, its variables replaced.

        Raises:
            PathKindError: it is no symlink.
        """
        found = await self.resolve(path, follow=False)
        if not found.entry.is_symlink:
            raise PathKindError(f"not a symlink: {found.path or '/'}")
        return self.target_of(found.entry)

    def target_of(self, entry: Entry) -> str:
        """The target of a symlink's entry, its variables replaced."""
        return self._resolver.target_of(entry)

    async def listdir(self, path: str = "") -> AsyncIterator[Entry]:
        """The entries of a directory in byte order of their names, hidden ones left out.

        Raises:
            PathKindError: it is no directory.
        """
        found = await self.resolve(path)
        if not found.entry.is_directory:
            raise PathKindError(f"not a directory: {found.path or '/'}")
        async for entry in self.tree.listing(found.path):
            if not entry.is_hidden:
                yield entry

    async def walk(
        self, path: str = "", *, depth_max: int | None = None, into_binds: bool = False
    ) -> AsyncIterator[tuple[str, Entry]]:
        """Everything at and below a path: parents before children, siblings in byte order of their names.

        Links are not followed, hidden entries left out.

        Args:
            path: where to begin.
            depth_max: how many levels below it; 0 for the path alone.
            into_binds: whether other revisions mounted in this one are entered, which have everything once more.
        """
        top = await self.resolve(path, follow=path.endswith("/"))
        yield top.path, top.entry
        if not top.entry.is_directory or depth_max == 0:
            return
        async with AsyncExitStack() as listings:  # who stops early leaves no catalog in use
            pending = [(top.path, await self._listing(top.path, listings))]
            while pending:
                directory, entries = pending[-1]
                entry = await anext(entries, None)
                if entry is None:
                    pending.pop()
                    continue
                if entry.is_hidden:
                    continue
                child = f"{directory}/{entry.name}"
                yield child, entry
                is_entered = entry.is_directory and (into_binds or not entry.is_bind_mountpoint)
                if is_entered and (depth_max is None or len(pending) < depth_max):
                    pending.append((child, await self._listing(child, listings)))

    async def _listing(self, path: str, listings: AsyncExitStack) -> AsyncGenerator[Entry, None]:
        self._check()
        if len(path) > PATH_BYTES_MAX:
            raise DocumentError(f"the directory {path[:200]}", f"its path is longer than {PATH_BYTES_MAX} bytes")
        listing = self.tree.listing(path)
        listings.push_async_callback(listing.aclose)
        return listing

    @asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[OpenFile]:
        """A regular file, open as long as the block runs.

        Raises:
            PathMissingError, PathKindError, SymlinkLoopError: there is no such file.
            ExternalContentError: its content is not in the repository, and nobody said where else.
            AllSourcesFailedError: no source has the content, or none has it right.
        """
        found = await self.resolve(path)
        async with self.open_entry(found.path, found.entry) as file:
            yield file

    @asynccontextmanager
    async def open_entry(self, path: str, entry: Entry) -> AsyncIterator[OpenFile]:
        """As `open`, of an entry that is known already."""
        self._check()
        file = await open_file(self._objects, path, entry)
        try:
            yield file
        finally:
            await file.close()

    async def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        """Bytes of a file.

        Args:
            path: of the file.
            offset: where to begin.
            size: how many; to the end if omitted.
        """
        async with self.open(path) as file:
            return await file.read(offset, file.size - offset if size is None else size)

    async def pieces(self, path: str, size: int = PIECE_BYTES) -> AsyncIterator[bytes]:
        """The whole content of a file in bounded memory; each piece is verified before it is given."""
        async with self.open(path) as file:
            async for piece in pieces_of(file, size):
                yield piece
