"""The purges whose files are still being removed, kept in the cache directory so that a restart honours them.

One small file for all workers of an edge. Each entry says in which shards the files are still to be removed, so workers
may be any number, and another one after a restart; whoever has gone through a shard crosses it out. The file is
replaced as a whole, under a lock.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cdn.errors import DocumentError, StorageError, UsageError
from cdn.telemetry import event, fault_point
from edge.cache.disk_room import storage_error
from edge.cache.purging import RULES_MAX, Rule
from edge.cache.shards import SHARDS

LEDGER_BYTES_MAX: Final = 4 << 20
_ALL_SHARDS: Final = (1 << SHARDS) - 1


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A purge under way.

    Args:
        rule: what it covers.
        shards: a bit for each shard whose files are still to be removed.
    """

    rule: Rule
    shards: int = _ALL_SHARDS

    def to_document(self) -> dict[str, object]:
        """As plain values."""
        return {**self.rule.to_document(), "shards": f"{self.shards:x}"}

    @classmethod
    def parse(cls, document: dict[str, Any]) -> LedgerEntry:
        """Reads what `to_document` wrote.

        Raises:
            DocumentError: it is something else.
        """
        try:
            shards = int(str(document["shards"]), 16) & _ALL_SHARDS
        except (KeyError, TypeError, ValueError) as error:
            raise DocumentError("list of purges", "an entry of it is malformed") from error
        return cls(Rule.parse(document), shards)


class PurgeLedger:
    """The file.

    Args:
        directory: of the cache.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "purges.json"
        self._lock_path = directory / "purges.lock"

    def entries(self) -> tuple[LedgerEntry, ...]:
        """All purges under way. A damaged list is told of and counts as empty."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as error:
            event("edge.purges.unreadable", level="error", file=str(self._path), reason=str(error))
            return ()
        try:
            if len(data) > LEDGER_BYTES_MAX:
                raise DocumentError("list of purges", "it is too long")
            return tuple(LedgerEntry.parse(each) for each in json.loads(data)["purges"])
        except (DocumentError, ValueError, KeyError, TypeError, RecursionError) as error:
            event("edge.purges.unreadable", level="error", file=str(self._path), reason=str(error))
            return ()

    def add(self, rule: Rule) -> None:
        """Takes a purge in; one that means the same takes the place of the earlier one.

        Raises:
            UsageError: too many are under way.
            StorageError: it cannot be written down.
        """

        def with_it(entries: tuple[LedgerEntry, ...]) -> Iterable[LedgerEntry]:
            others = [each for each in entries if not each.rule.is_same(rule)]
            if len(others) >= RULES_MAX:
                raise UsageError(f"{RULES_MAX} purges are still being carried out: wait for one to end")
            return (*others, LedgerEntry(rule))

        self._change(with_it, is_durable=True)

    def cross_out(self, rules: Iterable[Rule], shards: Iterable[int]) -> None:
        """Notes that shards were gone through.

        Raises:
            StorageError: it cannot be written down.
        """
        done, gone_through = set(rules), sum(1 << shard for shard in set(shards))

        def crossed(entry: LedgerEntry) -> LedgerEntry:
            return replace(entry, shards=entry.shards & ~gone_through) if entry.rule in done else entry

        self._change(lambda entries: [new for new in map(crossed, entries) if new.shards], is_durable=False)

    def _change(self, change: Callable[[tuple[LedgerEntry, ...]], Iterable[LedgerEntry]], *, is_durable: bool) -> None:
        with self._locked():
            before = self.entries()
            after = tuple(change(before))
            if after != before:
                self._write(after, is_durable=is_durable)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise storage_error(error, str(self._lock_path)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, entries: tuple[LedgerEntry, ...], *, is_durable: bool) -> None:
        data = json.dumps({"purges": [each.to_document() for each in entries]}).encode()
        if len(data) > LEDGER_BYTES_MAX:
            raise StorageError(f"{self._path} would be longer than {LEDGER_BYTES_MAX} bytes")
        new = self._path.with_suffix(".new")
        try:
            with new.open("wb") as file:
                file.write(data)
                file.flush()
                if is_durable:
                    os.fsync(file.fileno())
            fault_point("edge.purges.written")
            new.replace(self._path)
        except OSError as error:
            raise storage_error(error, str(self._path)) from error
