"""The history: names for revisions, kept in a database that is itself an object (spec §7.1).

A `History` is a value: every change gives a new one, and `write` makes the file that is then compressed, stored and
named by the manifest. Names in a history from elsewhere may hold any characters; show them escaped.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from cdn import database
from cdn.compression import decompress
from cdn.errors import DocumentError, RepositoryError
from cdn.hashing import Digest

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Buffer  # type: ignore[attr-defined]  # typeshed has it from 3.12 on

TRUNK: Final = "trunk"
TRUNK_PREVIOUS: Final = "trunk-previous"
DEFAULT_BRANCH: Final = ""
HISTORY_BYTES_MAX: Final = 1 << 30
"""Of the uncompressed file: some millions of tags."""

_DOCUMENT: Final = "history"
_NO_DIGEST: Final = "0" * 40
_SCHEMA: Final = 1.0
_SCHEMA_REVISION: Final = 3
_REVISION_WITH_SIZE: Final = 1
_REVISION_WITH_BRANCH: Final = 3
_TAG_NAME: Final = re.compile(r"[A-Za-z0-9_./:-]{1,255}", re.ASCII)
_BRANCH_NAME: Final = re.compile(r"[A-Za-z0-9_.@/-]{0,255}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Tag:
    """A name for a revision.

    Args:
        name: unique in the history.
        root_catalog: digest of the revision's root catalog.
        revision: its number.
        timestamp: seconds since the epoch of its publication.
        description: free text.
        root_catalog_bytes: size of the uncompressed root catalog.
        branch: the line of development it lies on; the empty string is the default branch.
        channel: an obsolete number, 0.
    """

    name: str
    root_catalog: Digest
    revision: int
    timestamp: int
    description: str = ""
    root_catalog_bytes: int = 0
    branch: str = DEFAULT_BRANCH
    channel: int = 0


@dataclass(frozen=True, slots=True)
class Branch:
    """A line of development.

    Args:
        name: the empty string is the default branch.
        parent: the branch it left; None for the default branch alone.
        initial_revision: where it left.
    """

    name: str
    parent: str | None
    initial_revision: int


_DEFAULT_BRANCHES: Final = (Branch(DEFAULT_BRANCH, None, 0),)


@dataclass(frozen=True, slots=True)
class History:
    """All tags of a repository.

    Args:
        fqrn: the repository's name.
        tags: each name once.
        branches: each name once; the default branch is always there.
        previous: digest of the history object before this one.
    """

    fqrn: str
    tags: tuple[Tag, ...] = ()
    branches: tuple[Branch, ...] = _DEFAULT_BRANCHES
    previous: Digest | None = None
    _by_name: dict[str, Tag] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name = {tag.name: tag for tag in self.tags}
        if len(by_name) != len(self.tags):
            raise ValueError("two tags have the same name")
        names = {branch.name for branch in self.branches}
        if len(names) != len(self.branches) or DEFAULT_BRANCH not in names:
            raise ValueError("two branches have the same name, or the default branch is missing")
        object.__setattr__(self, "_by_name", by_name)

    def tag(self, name: str) -> Tag:
        """The tag of this name.

        Raises:
            RepositoryError: there is none.
        """
        tag = self._by_name.get(name)
        if tag is None:
            raise RepositoryError(f"{self.fqrn} has no tag {name!r}")
        return tag

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def at(self, timestamp: float) -> Tag | None:
        """What was published at this time: the newest revision on the default branch whose tag is not younger."""
        candidates = (tag for tag in self.tags if tag.branch == DEFAULT_BRANCH and tag.timestamp <= timestamp)
        return max(candidates, key=lambda tag: tag.revision, default=None)

    def with_tag(self, tag: Tag) -> History:
        """With this tag added, or put in place of the one of its name.

        Raises:
            RepositoryError: the name has characters that tools of the format refuse, or there is no such branch.
        """
        if not is_tag_name(tag.name):
            raise RepositoryError(f"{tag.name[:100]!r} is no tag name: use letters, digits and -_./:")
        if tag.branch not in {branch.name for branch in self.branches}:
            raise RepositoryError(f"{self.fqrn} has no branch {tag.branch!r}")
        others = tuple(other for other in self.tags if other.name != tag.name)
        return replace(self, tags=(*others, tag))

    def without_tag(self, name: str) -> History:
        """With the tag of this name removed.

        Raises:
            RepositoryError: there is none.
        """
        gone = self.tag(name)
        return replace(self, tags=tuple(tag for tag in self.tags if tag is not gone))

    def with_branch(self, branch: Branch) -> History:
        """With this branch added.

        Raises:
            RepositoryError: its name is taken or has other characters than may be, or its parent is not there.
        """
        names = {known.name for known in self.branches}
        if branch.name in names or not is_branch_name(branch.name):
            raise RepositoryError(f"{branch.name[:100]!r} is taken or no branch name: use letters, digits and -_.@/")
        if branch.parent not in names:
            raise RepositoryError(f"{self.fqrn} has no branch {branch.parent!r} to leave from")
        return replace(self, branches=(*self.branches, branch))

    def with_head(self, root_catalog: Digest, *, revision: int, timestamp: int, root_catalog_bytes: int) -> History:
        """After a publication: `trunk` is the new revision, and `trunk-previous` what it was, for undoing."""
        history = self
        if TRUNK in self:
            history = self.with_tag(replace(self.tag(TRUNK), name=TRUNK_PREVIOUS, description="default undo target"))
        return history.with_tag(Tag(TRUNK, root_catalog, revision, timestamp, "current HEAD", root_catalog_bytes))

    def rolled_back(self, name: str, root_catalog: Digest, *, revision: int, timestamp: int) -> History:
        """After a rollback: the target's tag names the new revision, and tags of later ones are gone (spec §7.3).

        Args:
            name: the tag that was gone back to.
            root_catalog: the target's root catalog as it was published again.
            revision: its new number.
            timestamp: when, in seconds since the epoch.

        Raises:
            RepositoryError: there is no such tag.
        """
        target = self.tag(name)
        kept = tuple(
            tag
            for tag in self.tags
            if tag.branch != DEFAULT_BRANCH or (tag.revision <= target.revision and tag is not target)
        )
        moved = replace(target, root_catalog=root_catalog, revision=revision, timestamp=timestamp)
        return replace(self, tags=kept).with_tag(moved)

    def following(self, previous: Digest) -> History:
        """As the successor of the history object with this digest."""
        return replace(self, previous=previous)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> History:
        """Reads a history file.

        Raises:
            DocumentError: it is none, or of a schema nobody knows.
            OSError: it cannot be read.
        """
        connection = database.open_readonly(path, _DOCUMENT)
        try:
            with database.guard(_DOCUMENT):
                return _read(connection, os.stat(path).st_size)
        finally:
            connection.close()

    @classmethod
    def from_object(cls, stored: Buffer) -> History:
        """Reads a history as it lies in a store: compressed.

        Raises:
            DocumentError: as `read`, or it does not inflate.
        """
        plain = decompress(stored, size_max=HISTORY_BYTES_MAX, document=_DOCUMENT)
        with tempfile.NamedTemporaryFile(prefix="history-") as file:
            file.write(plain)
            file.flush()
            return cls.read(file.name)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes a new history file.

        Raises:
            OSError: the file exists already or cannot be written.
        """
        connection = database.create(path)
        try:
            _write(connection, self)
            connection.commit()
        finally:
            connection.close()


def is_tag_name(name: str) -> bool:
    """Whether tools of the format let a tag have this name."""
    return _TAG_NAME.fullmatch(name) is not None


def is_branch_name(name: str) -> bool:
    """Whether tools of the format let a branch have this name."""
    return _BRANCH_NAME.fullmatch(name) is not None


# ------------------------------------------------------------------------------------------------------------------
# reading


def _read(connection: sqlite3.Connection, size_bytes: int) -> History:
    properties = database.properties(connection, _DOCUMENT)
    version, revision = database.schema_of(properties, _DOCUMENT)
    if abs(version - _SCHEMA) > 0.0005 or revision < 0:
        raise DocumentError(_DOCUMENT, f"its schema {version} revision {revision} is not 1.0")
    if "fqrn" not in properties:
        raise DocumentError(_DOCUMENT, "it does not name its repository (property fqrn)")
    previous = Digest.parse(properties.get("previous_revision") or _NO_DIGEST)
    return History(
        fqrn=properties["fqrn"],
        tags=tuple(_tags(connection, revision, size_bytes)),
        branches=tuple(_branches(connection)) if revision >= _REVISION_WITH_BRANCH else _DEFAULT_BRANCHES,
        previous=None if previous.is_null else previous,
    )


def _tags(connection: sqlite3.Connection, revision: int, size_bytes: int) -> Iterator[Tag]:
    size = "size" if revision >= _REVISION_WITH_SIZE else "0"
    branch = "branch" if revision >= _REVISION_WITH_BRANCH else "''"
    left = size_bytes
    columns = f"name, hash, revision, timestamp, channel, description, {size}, {branch}"
    for row in connection.execute(f"SELECT {columns} FROM tags"):  # noqa: S608  # nothing but the names above
        tag = _tag(row)
        left -= len(tag.name) + len(tag.description) + len(tag.branch)
        if left < 0:  # rows that share the pages of a long text
            raise DocumentError(_DOCUMENT, "its tags have more text than the file has bytes")
        yield tag


def _tag(row: tuple[Any, ...]) -> Tag:
    name, root_catalog, revision, timestamp, channel, description, size, branch = row
    return Tag(
        name=database.text(name, _DOCUMENT, "a tag's name"),
        root_catalog=Digest.parse(database.text(root_catalog, _DOCUMENT, "a tag's hash")),
        revision=database.integer(revision, _DOCUMENT, "a tag's revision"),
        timestamp=database.integer(timestamp, _DOCUMENT, "a tag's timestamp"),
        description=database.text(description or "", _DOCUMENT, "a tag's description"),
        root_catalog_bytes=database.integer(size or 0, _DOCUMENT, "a tag's size"),
        branch=database.text(branch or "", _DOCUMENT, "a tag's branch"),
        channel=database.integer(channel or 0, _DOCUMENT, "a tag's channel"),
    )


def _branches(connection: sqlite3.Connection) -> Iterator[Branch]:
    for name, parent, initial_revision in connection.execute("SELECT branch, parent, initial_revision FROM branches"):
        yield Branch(
            name=database.text(name, _DOCUMENT, "a branch's name"),
            parent=None if parent is None else database.text(parent, _DOCUMENT, "a branch's parent"),
            initial_revision=database.integer(initial_revision, _DOCUMENT, "a branch's initial revision"),
        )


# ------------------------------------------------------------------------------------------------------------------
# writing

_TABLES: Final = (
    "CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key))",
    """CREATE TABLE branches (
        branch TEXT, parent TEXT, initial_revision INTEGER,
        CONSTRAINT pk_branch PRIMARY KEY (branch),
        FOREIGN KEY (parent) REFERENCES branches (branch),
        CHECK ((branch <> '') OR (parent IS NULL)),
        CHECK ((branch = '') OR (parent IS NOT NULL)))""",
    """CREATE TABLE tags (
        name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER, description TEXT, size INTEGER,
        branch TEXT,
        CONSTRAINT pk_tags PRIMARY KEY (name),
        FOREIGN KEY (branch) REFERENCES branches (branch))""",
    "CREATE TABLE recycle_bin (hash TEXT, flags INTEGER, CONSTRAINT pk_hash PRIMARY KEY (hash))",
)
"""`recycle_bin` is obsolete and stays empty, but readers of revision 2 and later expect to find it."""


def _write(connection: sqlite3.Connection, history: History) -> None:
    for statement in _TABLES:
        connection.execute(statement)
    properties = {
        "schema": "1.0",
        "schema_revision": str(_SCHEMA_REVISION),
        "fqrn": history.fqrn,
        "previous_revision": history.previous.text if history.previous else _NO_DIGEST,  # readers insist on it
    }
    connection.executemany("INSERT INTO properties VALUES (?, ?)", properties.items())
    connection.executemany(
        "INSERT INTO branches VALUES (?, ?, ?)",
        ((branch.name, branch.parent, branch.initial_revision) for branch in history.branches),
    )
    connection.executemany("INSERT INTO tags VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (_row(tag) for tag in history.tags))


def _row(tag: Tag) -> tuple[object, ...]:
    return (
        tag.name,
        tag.root_catalog.text,
        tag.revision,
        tag.timestamp,
        tag.channel,
        tag.description,
        tag.root_catalog_bytes,
        tag.branch,
    )
