"""The software that the demonstration publishes: a copy of this Python's libraries, with the digest of every file.

A copy, because what is published is changed later, and nothing of the machine's own may be. The digests are taken by
`hashlib` from the bytes as they are read at their original place, before any part of Stratocast sees them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Final

from cdn.demo.report import DemoFailedError
from cdn.reporting import size_text

FILES_MAX: Final = 5_000
BYTES_MAX: Final = 192 << 20
"""More than this would take longer than a demonstration should."""
_WANTED: Final = ((256 << 10, 4 << 20), (4 << 20, 16 << 20))
"""A file of these sizes must be in every sample: one that is a large object, and one that is cut into chunks."""
_COPIES: Final = 10
"""How often the bytes come to lie somewhere: tree, stratum 0, replicas, edges, clients."""
_BYTES_MIN: Final = 24 << 20
_LEFT_OUT: Final = frozenset({"__pycache__", "site-packages", "dist-packages"})


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file must be.

    Args:
        size: in bytes.
        sha256: of its content, in hex.
    """

    size: int
    sha256: str


@dataclass(slots=True)
class Expected:
    """What a reader must find, by path in the repository.

    Args:
        files: regular files.
        links: targets of symlinks.
    """

    files: dict[str, Facts] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(facts.size for facts in self.files.values())

    def save(self, path: Path) -> None:
        """Writes it for the readers."""
        files = {name: [facts.size, facts.sha256] for name, facts in self.files.items()}
        path.write_text(json.dumps({"files": files, "links": self.links}))

    @classmethod
    def load(cls, path: Path) -> Expected:
        """Reads what `save` wrote."""
        document = json.loads(path.read_text())
        return cls({name: Facts(*facts) for name, facts in document["files"].items()}, document["links"])


@dataclass(frozen=True, slots=True)
class _Found:
    """A file of the machine, and where it goes."""

    source: str
    path: str
    size: int
    mode: int


def libraries() -> list[tuple[str, str]]:
    """Where this Python's libraries are, and where each goes in the repository."""
    version = f"/lib/python{sys.version_info[0]}.{sys.version_info[1]}"
    places: dict[str, str] = {}
    for name, target in (
        ("stdlib", version),
        ("platstdlib", version),
        ("purelib", f"{version}/site-packages"),
        ("platlib", f"{version}/site-packages"),
    ):
        places.setdefault(os.path.realpath(sysconfig.get_path(name)), target)
    return [(place, target) for place, target in places.items() if os.path.isdir(place)]


def size_limit(folder: Path) -> int:
    """How many bytes can be published, given the room there is.

    Raises:
        DemoFailedError: there is too little room for anything.
    """
    free = shutil.disk_usage(folder).free
    if free < _BYTES_MIN * _COPIES:
        raise DemoFailedError(
            f"{folder} has {size_text(free)} left, and at least {size_text(_BYTES_MIN * _COPIES)} are needed: "
            "name another folder with --workdir"
        )
    return min(BYTES_MAX, free // _COPIES)


def copy_libraries(
    target: Path,
    *,
    places: Sequence[tuple[str, str]] | None = None,
    files_max: int = FILES_MAX,
    bytes_max: int = BYTES_MAX,
    is_stopped: Callable[[], bool] = lambda: False,
) -> tuple[Expected, int]:
    """Copies the libraries.

    Args:
        target: a folder that does not exist.
        places: folders to copy, and where each goes.
        files_max: how many files at most.
        bytes_max: how many bytes at most.
        is_stopped: asked before each file whether to give up.

    Returns:
        what was copied, and how many files there are in all.

    Raises:
        DemoFailedError: there is nothing to copy.
    """
    found: dict[str, _Found] = {}
    for source, where in places if places is not None else libraries():
        for each in _walk(source, where):
            found.setdefault(each.path, each)
    every = [found[path] for path in sorted(found)]
    expected = Expected()
    for each in _chosen(every, files_max, bytes_max):
        if is_stopped():
            break
        with suppress(OSError):  # gone meanwhile, or not for us to read
            _copy(each, target, expected)
    if not expected.files:
        raise DemoFailedError("no file of this Python's libraries can be read")
    return expected, len(every)


def _walk(source: str, where: str) -> Iterator[_Found]:
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
        relative = os.path.relpath(folder, source)
        base = where if relative == "." else f"{where}/{relative}"
        for name in names:
            path = f"{folder}/{name}"
            status = os.lstat(path)
            is_wanted = stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)
            if is_wanted and not name.endswith(".pyc") and name.isprintable():
                yield _Found(path, f"{base}/{name}", status.st_size, status.st_mode)


def _chosen(every: list[_Found], files_max: int, bytes_max: int) -> list[_Found]:
    """All, or if there are too many a sample from everywhere, in which some are large."""
    size = sum(each.size for each in every)
    if len(every) <= files_max and size <= bytes_max:
        return every
    step = max(len(every) / max(files_max, len(_WANTED)), size / bytes_max)
    sample = [every[int(number * step)] for number in range(int(len(every) / step))]
    for number, (smallest, largest) in enumerate(_WANTED):
        fitting = [each for each in every if smallest < each.size <= largest]
        if fitting and not any(smallest < each.size <= largest for each in sample):
            sample[number] = max(fitting, key=lambda each: each.size)
    sizes = accumulate(each.size for each in sample)
    return [each for each, total in zip(sample, sizes, strict=True) if total <= bytes_max] or sample[:1]


def _copy(each: _Found, target: Path, expected: Expected) -> None:
    copy = f"{target}{each.path}"
    if stat.S_ISLNK(each.mode):
        link = os.readlink(each.source)
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        os.symlink(link, copy)
        expected.links[each.path] = link
        return
    with open(each.source, "rb") as stream:
        content = stream.read()
    os.makedirs(os.path.dirname(copy), exist_ok=True)
    write(expected, target, each.path, content)
    os.chmod(copy, 0o755 if each.mode & 0o111 else 0o644)


def write(expected: Expected, target: Path, path: str, content: bytes) -> None:
    """Writes a file of the copy and notes what it must be."""
    os.makedirs(os.path.dirname(f"{target}{path}"), exist_ok=True)
    with open(f"{target}{path}", "wb") as stream:
        stream.write(content)
    expected.files[path] = Facts(len(content), hashlib.sha256(content).hexdigest())


def remove(expected: Expected, target: Path, path: str) -> None:
    """Removes a file of the copy."""
    os.unlink(f"{target}{path}")
    del expected.files[path]


@dataclass(frozen=True, slots=True)
class Edit:
    """What the second revision changes.

    Args:
        added, changed, removed: paths.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]


def edit(expected: Expected, target: Path) -> Edit:
    """Adds, changes and removes files of the copy, and notes what they must be now."""
    sources = sorted(path for path in expected.files if path.endswith(".py")) or sorted(expected.files)
    changed = tuple(dict.fromkeys((sources[0], sources[len(sources) // 2])))
    removed = sources[-1] if sources[-1] not in changed else None
    added = "/etc/motd"
    write(expected, target, added, b"The second revision is here.\n")
    for path in changed:
        content = Path(f"{target}{path}").read_bytes()
        write(expected, target, path, content + b"\n# changed in the second revision\n")
    if removed is not None:
        remove(expected, target, removed)
    return Edit((added,), changed, (removed,) if removed is not None else ())
