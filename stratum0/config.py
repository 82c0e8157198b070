"""Where repositories are kept on this machine, and what is settled for each of them.

ROOT/srv/<name>/            served: objects, manifest, whitelist (or another folder, chosen when it is created)
ROOT/srv/info/v1/           served: what repositories there are
ROOT/repositories/<name>/   never served: settings, keys, transactions, locks
ROOT/metrics/               for the textfile collector of a node exporter
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Final, Literal

from cdn.compression import LEVEL_FASTEST, Compression
from cdn.config import Between, load_config
from cdn.errors import ConfigError, UsageError
from cdn.hashing import Algorithm
from cdn.keyfiles import write_file

NAME_LENGTH_MAX: Final = 60
"""Of a repository's name (spec §8.9)."""
TTL_SECONDS_MIN: Final = 1
TTL_SECONDS_MAX: Final = 30 * 86_400
ROOT_VARIABLE: Final = "CDN_ROOT"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_OWNER: Final = re.compile(r"([0-9]{1,10}):([0-9]{1,10})", re.ASCII)
_ID_MAX: Final = 2**32 - 2
_RESERVED_NAMES: Final = frozenset({"info", "data", "api", "stats"})
_SYSTEM_ROOT: Final = Path("/var/lib/stratocast")
_USER_ROOT: Final = Path("~/.local/share/stratocast")


def checked_name(name: str) -> str:
    """A repository's name itself.

    Raises:
        UsageError: it cannot be one.
    """
    if len(name) > NAME_LENGTH_MAX:
        raise UsageError(f"the name {name[:80]!r} has {len(name)} characters; at most {NAME_LENGTH_MAX} are possible")
    if not _NAME.fullmatch(name) or ".." in name or name.endswith("."):
        raise UsageError(
            f"{name!r} is no repository name: use letters, digits, '-', '_' and single dots, as in sw.example.org"
        )
    if name in _RESERVED_NAMES:
        raise UsageError(f"a repository cannot be called {name!r}: web servers answer something else there")
    return name


@dataclass(frozen=True, slots=True)
class Home:
    """The folder that holds all repositories of this machine.

    Args:
        root: its path.
    """

    root: Path

    @classmethod
    def default(cls) -> Home:
        """The folder named by ``CDN_ROOT``, else the system's for root and one in the home directory for others."""
        if named := os.environ.get(ROOT_VARIABLE):
            return cls(Path(os.path.abspath(Path(named).expanduser())))
        return cls(_SYSTEM_ROOT if os.geteuid() == 0 else _USER_ROOT.expanduser())

    @classmethod
    def at(cls, root: str | os.PathLike[str] | None) -> Home:
        """This folder, or the default one for None."""
        return cls.default() if root is None else cls(Path(os.path.abspath(Path(root).expanduser())))

    @property
    def served(self) -> Path:
        """What a web server serves as ``/cvmfs``."""
        return self.root / "srv"

    @property
    def info(self) -> Path:
        """What a web server serves as ``/cvmfs/info/v1``."""
        return self.served / "info" / "v1"

    @property
    def repositories(self) -> Path:
        """Settings, keys and state of all repositories."""
        return self.root / "repositories"

    @property
    def metrics(self) -> Path:
        """Files for the textfile collector of a node exporter."""
        return self.root / "metrics"

    def folder_of(self, name: str) -> Path:
        """Settings, keys and state of one repository."""
        return self.repositories / name

    def storage_of(self, name: str) -> Path:
        """Where a repository's objects are served from, unless it was created elsewhere."""
        return self.served / name

    def names(self) -> list[str]:
        """The repositories there are, in alphabetical order."""
        try:
            found = [entry.name for entry in os.scandir(self.repositories) if not entry.name.startswith(".")]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in found if os.path.lexists(self.folder_of(name) / SETTINGS_FILE))


SETTINGS_FILE: Final = "repository.toml"


@dataclass(frozen=True, slots=True)
class RepositorySettings:
    """What is settled for one repository, as its ``repository.toml`` says; `cdn repo settings` changes it.

    Args:
        fqrn: the repository's fully qualified name.
        storage: the folder its objects are served from.
        hash: of all its objects; cannot be changed later.
        compress: how new files are stored.
        compression_level: from 1, fast, to 9, small.
        ttl_seconds: how long clients go without looking for a new revision.
        owner: ``UID:GID`` of who owns the repository's files on this machine and its root directory; None is whoever
            created it.
        garbage_collectable: whether old revisions may be removed, here and on replicas.
        catalog_entries_min: nested catalogs made by balancing that have fewer entries are merged into their parents.
        catalog_entries_max: catalogs with more entries are split; 0 switches balancing off.
        auto_tag: whether each publication gets a tag of its own.
        auto_tag_keep_days: for how many days such tags are kept; 0 for ever.
        auto_tag_keep_count: how many of them are kept, the newest ones; 0 is no limit.
        include_xattrs: whether extended attributes are published.
        lease_seconds: how long a lease lasts unless it is renewed.
        whitelist_days: how long a newly signed whitelist is valid.
        gc_keep_days: garbage collection keeps every revision that was current within so many days.
        gc_keep_revisions: and so many of the newest revisions.
        catalog_cache_bytes: size of the cache of uncompressed catalogs.
    """

    fqrn: str
    storage: Path
    hash: Literal["shake128", "sha1", "rmd160"] = "shake128"
    compress: Literal["zlib", "none"] = "zlib"
    compression_level: Annotated[int, Between(1, 9)] = LEVEL_FASTEST
    ttl_seconds: Annotated[int, Between(TTL_SECONDS_MIN, TTL_SECONDS_MAX)] = 240
    owner: str | None = None
    garbage_collectable: bool = True
    catalog_entries_min: Annotated[int, Between(1, 1_000_000)] = 1_000
    catalog_entries_max: Annotated[int, Between(0, 10_000_000)] = 50_000
    auto_tag: bool = True
    auto_tag_keep_days: Annotated[float, Between(0, 36_500)] = 30.0
    auto_tag_keep_count: Annotated[int, Between(0, 1_000_000)] = 0
    include_xattrs: bool = False
    lease_seconds: Annotated[float, Between(1, 30 * 86_400)] = 3_600.0
    whitelist_days: Annotated[int, Between(1, 3_650)] = 30
    gc_keep_days: Annotated[float, Between(0, 36_500)] = 3.0
    gc_keep_revisions: Annotated[int, Between(1, 1_000_000_000)] = 1
    catalog_cache_bytes: Annotated[int, Between(1 << 20, 1 << 50)] = 4 << 30

    def __post_init__(self) -> None:
        mistakes = []
        try:
            checked_name(self.fqrn)
        except UsageError as error:
            mistakes.append(f"fqrn: {error}")
        if self.owner is not None and _ids(self.owner) is None:
            mistakes.append(f"owner: {self.owner!r} is not like 1000:1000")
        if 0 < self.catalog_entries_max < self.catalog_entries_min * 2:
            mistakes.append("catalog_entries_max: must be at least twice catalog_entries_min")
        if mistakes:
            raise ValueError(*mistakes)

    @property
    def algorithm(self) -> Algorithm:
        """The hash algorithm of all its objects."""
        return Algorithm.from_option(self.hash)

    @property
    def compression(self) -> Compression:
        """How new files are stored."""
        return Compression[self.compress.upper()]

    @property
    def owner_ids(self) -> tuple[int, int] | None:
        """User and group that own the repository; None is whoever created it."""
        return None if self.owner is None else _ids(self.owner)

    @property
    def auto_tag_keep_seconds(self) -> float:
        """For how long automatic tags are kept; 0 for ever."""
        return self.auto_tag_keep_days * 86_400

    @classmethod
    def load(cls, folder: Path) -> RepositorySettings:
        """Reads the settings of the repository in this folder.

        Raises:
            ConfigError: they cannot be read or have mistakes.
        """
        return load_config(cls, folder / SETTINGS_FILE)

    def save(self, folder: Path) -> None:
        """Writes the settings, whole or not at all.

        Raises:
            OSError: they could not be written.
        """
        write_file(folder / SETTINGS_FILE, self.to_toml().encode(), 0o644, replace=True)

    def to_toml(self) -> str:
        """The settings as a TOML document."""
        values = ((each.name, getattr(self, each.name)) for each in fields(self))
        lines = [f"{name} = {_toml(value)}\n" for name, value in values if value is not None]
        return "# Settings of a repository; `cdn repo settings` changes them, and so does an editor.\n" + "".join(lines)


def owner_from_option(text: str) -> str:
    """``UID:GID`` from what a user writes: those numbers, a user's name, ``USER:GROUP``, or a user's number.

    Raises:
        UsageError: there is no such user or group on this machine.
    """
    import grp
    import pwd

    user, colon, group = text.partition(":")
    try:
        account = None if user.isascii() and user.isdigit() else pwd.getpwnam(user)
        uid = int(user) if account is None else account.pw_uid
        if colon:
            gid = int(group) if group.isascii() and group.isdigit() else grp.getgrnam(group).gr_gid
        else:
            gid = (account or pwd.getpwuid(uid)).pw_gid
    except (KeyError, OverflowError, ValueError) as error:
        raise UsageError(f"{text!r} names no owner: use UID:GID, or a user of this machine") from error
    if max(uid, gid) > _ID_MAX:
        raise UsageError(f"{text!r} names no owner: a number is too large")
    return f"{uid}:{gid}"


def changed(settings: RepositorySettings, assignments: dict[str, str]) -> RepositorySettings:
    """The settings with some of them changed, as `cdn repo settings` does.

    Args:
        settings: as they are.
        assignments: new values by name, written as a user writes them.

    Raises:
        ConfigError: a value is none that the setting can have.
        UsageError: the setting cannot be changed, or there is none of that name.
    """
    import difflib
    import tomllib

    from cdn.config import parse_config

    known = {each.name for each in fields(RepositorySettings)}
    for name in assignments:
        if name not in known:
            nearest = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise UsageError(f"there is no setting {name!r}{hint}")
        if name in _FIXED:
            raise UsageError(f"{name} is fixed when a repository is created")
    for name, text in assignments.items():
        current = getattr(settings, name)
        value = owner_from_option(text) if name == "owner" else text
        quoted = isinstance(current, str | Path) or (current is None)
        line = f"{name} = {_toml(value) if quoted else value}\n"
        kept = [old for old in settings.to_toml().splitlines(keepends=True) if old.partition(" ")[0] != name]
        try:
            tomllib.loads(line)
        except tomllib.TOMLDecodeError:
            raise ConfigError(f"{text!r} is no value of {name}, which is {_toml(current)} now") from None
        try:
            # The new one is the first line, which is of no interest to who typed no file.
            settings = parse_config(RepositorySettings, "".join((line, *kept)), "")
        except ConfigError as error:
            raise ConfigError(str(error).removeprefix(":1: ")) from error
    return settings


_FIXED: Final = frozenset({"fqrn", "storage", "hash"})


def _ids(owner: str) -> tuple[int, int] | None:
    match = _OWNER.fullmatch(owner)
    if match is None or max(int(match[1]), int(match[2])) > _ID_MAX:
        return None
    return int(match[1]), int(match[2])


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise ConfigError(f"{text!a} cannot be kept in a settings file: use a path that is valid UTF-8")
    escaped = "".join(_ESCAPES.get(character, character) for character in text)
    return f'"{escaped}"'


_ESCAPES: Final = {
    **{chr(code): f"\\u{code:04x}" for code in (*range(0x20), 0x7F)},
    '"': '\\"',
    "\\": "\\\\",
}
