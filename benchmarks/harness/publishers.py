"""The commands that put a file tree into a store: ours, and four that people use today, each as its users run it.

Every one of them leaves its store durable before it says that it is done: ours and ostree sync the file system once,
restic and borg sync what they write file by file, and the archive of tar, which does not, is synced by a second command
whose time counts.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.harness.machine import said_by
from benchmarks.harness.processes import CommandFailedError, Usage, measured
from benchmarks.harness.trees import TreeSize

_REPOSITORY: Final = "bench.example.org"
_PASSWORD: Final = "of a store that is thrown away"
_BORG_DONE: Final = (0, 1)  # 1 is a warning


class Publisher(ABC):
    """A command, and a folder of its own for its store.

    Args:
        folder: it may do in there what it likes.
    """

    name: str
    program: str
    package: str
    compares: bool = True
    """Whether it also compresses and deduplicates, so that being faster is an aim."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "home"),
        }
        self._runs = 0
        self._kept: list[int] = []

    @classmethod
    def is_here(cls) -> bool:
        """Whether the program is installed."""
        return shutil.which(cls.program) is not None

    @classmethod
    def version(cls) -> str:
        """What the program says it is."""
        return said_by([cls.program, "--version"])

    def prepare(self) -> None:
        """Makes an empty store, which is not measured."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "home").mkdir(parents=True)
        self.initialize()

    @abstractmethod
    def initialize(self) -> None:
        """Makes the store itself."""

    @abstractmethod
    def publish(self, tree: Path, size: TreeSize) -> Usage:
        """Puts the tree into the store; `size` is what must be there afterwards."""

    @property
    def store(self) -> Path:
        """What counts as stored."""
        return self.folder / "store"

    def set_aside(self, number: int) -> None:
        """Keeps the store out of the way until `remove`.

        For minutes after files were deleted ext4 avoids their inodes, and whoever creates files then pays for the
        search. So stores of many files are not deleted while others are still to be measured.
        """
        self.folder.rename(self._aside(number))
        self._kept.append(number)

    def remove(self) -> None:
        """Removes the stores and all that belongs to them."""
        for folder in (self.folder, *map(self._aside, self._kept)):
            shutil.rmtree(folder, ignore_errors=True)
        self._kept.clear()

    def _aside(self, number: int) -> Path:
        return self.folder.with_name(f"{self.folder.name}-round-{number}")

    def run(self, *command: str | os.PathLike[str], accepted: Sequence[int] = (0,)) -> Usage:
        """Runs a command of this publisher's."""
        self._runs += 1
        return measured(command, environment=self.environment, output=self.output, accepted=accepted)

    @property
    def output(self) -> Path:
        """What the last command wrote."""
        return self.folder / f"output-{self._runs}"


class Cdn(Publisher):
    """`cdn publish` of the project that this program belongs to."""

    name = "cdn publish"
    program = sys.executable
    package = "this project"

    def __init__(self, folder: Path, level: int | None = None) -> None:
        super().__init__(folder)
        self._level = level
        if level is not None:
            self.name = f"cdn publish, level {level}"
        self.environment["CDN_ROOT"] = str(self.folder / "root")

    @classmethod
    def version(cls) -> str:
        return said_by([sys.executable, "-P", "-m", "cdn", "--version"])

    @property
    def store(self) -> Path:
        return self.folder / "root" / "srv" / _REPOSITORY

    def initialize(self) -> None:
        self.cdn("repo", "create", _REPOSITORY)
        if self._level is not None:
            self.cdn("repo", "settings", _REPOSITORY, f"compression_level={self._level}")

    def publish(self, tree: Path, size: TreeSize) -> Usage:
        usage = self.cdn("publish", _REPOSITORY, str(tree), "--json")
        said: dict[str, Any] = json.loads(self.output.read_bytes())
        if said["files"] < size.files:
            raise CommandFailedError(f"cdn publish saw {said['files']} files of {size.files}")
        return usage

    def cdn(self, *arguments: str) -> Usage:
        """Runs the command of the same interpreter."""
        return self.run(sys.executable, "-P", "-m", "cdn", *arguments)


class Restic(Publisher):
    """`restic backup`: zstd (its default since format 2), content-defined chunks in packs, encrypted, all cores."""

    name = "restic backup"
    program = "restic"
    package = "restic"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.environment |= {
            "RESTIC_REPOSITORY": str(self.store),
            "RESTIC_PASSWORD": _PASSWORD,
            "RESTIC_CACHE_DIR": str(folder / "cache"),
        }

    @classmethod
    def version(cls) -> str:
        return said_by(["restic", "version"])

    def initialize(self) -> None:
        self.run("restic", "init")

    def publish(self, tree: Path, size: TreeSize) -> Usage:
        return self.run("restic", "backup", "--quiet", tree)


class Borg(Publisher):
    """`borg create` without encryption: content-defined chunks in segments, lz4, one core."""

    name = "borg create, lz4"
    program = "borg"
    package = "borgbackup"
    compression = "lz4"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.environment |= {
            "BORG_REPO": str(self.store),
            "BORG_BASE_DIR": str(folder / "home"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }

    def initialize(self) -> None:
        self.run("borg", "init", "--encryption", "none")

    def publish(self, tree: Path, size: TreeSize) -> Usage:
        archive = f"::archive-{self._runs}"
        return self.run("borg", "create", "--compression", self.compression, archive, tree, accepted=_BORG_DONE)


class BorgZstd(Borg):
    """`borg create` as before, with zstd at its default level."""

    name = "borg create, zstd 3"
    compression = "zstd,3"


class Ostree(Publisher):
    """`ostree commit` into an archive, the form that is served over HTTP: whole files, each deflated, one core."""

    name = "ostree commit"
    program = "ostree"
    package = "ostree"

    @classmethod
    def version(cls) -> str:
        return "ostree " + said_by(["ostree", "--version"], "^Version").partition(": ")[2].strip("'")

    def initialize(self) -> None:
        self.run("ostree", f"--repo={self.store}", "init", "--mode=archive")

    def publish(self, tree: Path, size: TreeSize) -> Usage:
        return self.run("ostree", f"--repo={self.store}", "commit", "--branch=bench", f"--tree=dir={tree}")


class TarZstd(Publisher):
    """`tar` through `zstd -3 -T0`: a new archive each time; the yardstick of plain speed."""

    name = "tar, zstd -3 -T0"
    program = "zstd"
    package = "zstd"
    compares = False

    @classmethod
    def is_here(cls) -> bool:
        return all(map(shutil.which, ("tar", "zstd", "sync")))

    @classmethod
    def version(cls) -> str:
        zstd = said_by(["zstd", "--version"], "v[0-9]").strip("* ").partition(", by")[0]
        return f"{said_by(['tar', '--version'])}, {zstd}"

    def initialize(self) -> None:
        self.store.mkdir()

    def publish(self, tree: Path, size: TreeSize) -> Usage:
        archive = self.store / "archive.tar.zst"
        compressor = "--use-compress-program=zstd -q -3 -T0"
        written = self.run("tar", "--create", compressor, f"--file={archive}", f"--directory={tree}", ".")
        return written.then(self.run("sync", archive))


PEERS: Final[dict[str, type[Publisher]]] = {
    "restic": Restic,
    "borg": Borg,
    "borg-zstd": BorgZstd,
    "ostree": Ostree,
    "tar": TarZstd,
}
