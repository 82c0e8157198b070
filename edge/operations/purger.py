"""Carries purges out: at once in memory and for whoever asks, then file by file on disk.

Nothing that was purged comes back: fetches under way that are meant are outdated first, so that nobody joins them and
nothing of them is kept; what is just being written is waited for; and what comes from disk meanwhile is held against
the rules in force.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

from cdn.errors import CdnError, StorageError, UsageError
from cdn.telemetry import event
from edge.cache.purging import RULES_MAX, Rule, StandingRules, Verdict, judge
from edge.cache.stored_variants import Purged
from edge.content import Content
from edge.fetch.collapsing import Flights
from edge.fetch.supplies import Supplies
from edge.http.request import RequestError
from edge.operations.purge_ledger import PurgeLedger
from edge.operations.purge_orders import PurgeOrder, rule_of
from edge.routing import Destination
from edge.settings.checks import url_target
from edge.settings.upstreams import REPOSITORIES_PATH, UpstreamSettings

_KEYS_AT_ONCE: Final = 2000
_FILES_AT_ONCE: Final = 64
"""How many are looked at before requests get their turn."""
_SHARDS_AT_ONCE: Final = 16
"""How many are gone through before that is written down."""
_PAUSE_SECONDS: Final = 0.001


class Purger:
    """Forgets what an operator wants forgotten.

    Args:
        supplies: the caches.
        flights: fetches under way.
        directory: of the cache.
        locate: says of a URL, as clients ask for it, what that is.
        upstreams: those configured now.
    """

    def __init__(
        self,
        supplies: Supplies,
        flights: Flights,
        directory: Path,
        locate: Callable[[str], Destination],
        upstreams: tuple[UpstreamSettings, ...],
    ) -> None:
        self._with = supplies
        self._locate = locate
        self.upstreams = upstreams
        self._flights = flights
        self._ledger = PurgeLedger(directory)
        self._left: list[tuple[Rule, set[int]]] = []
        self._new: list[Rule] = []
        """In force, but not yet written down."""
        self._wake = asyncio.Event()
        self._prepared: tuple[PurgeOrder, Sequence[str]] | None = None

    @property
    def _standing(self) -> StandingRules:
        return self._with.purges

    def open(self) -> None:
        """Takes over what an earlier run left to be done."""
        own = self._with.disk.room.shards
        self._left = []
        for entry in self._ledger.entries():
            shards = {shard for shard in own if entry.shards >> shard & 1}
            if shards:
                self._left.append((entry.rule, shards))
        self._stand()
        self._wake.set()

    def _stand(self) -> None:
        self._standing.rules = (*(rule for rule, _ in self._left), *self._new)

    # ------------------------------------------------------------------------------------------------ orders

    async def prepare(self, document: Mapping[str, object]) -> dict[str, object]:
        """Finds out what a revision consists of, before any worker removes that by which others find it out.

        Returns:
            whether that is known here, as ``known``; if not, `purge` with the same order does nothing.

        Raises:
            UsageError: the order is not sound.
        """
        order = PurgeOrder.parse(document)
        try:
            self._prepared = (order, await self._keys_of(order))
        except UsageError:
            self._prepared = (order, ())
        return {"known": bool(self._prepared[1])}

    async def purge(self, document: Mapping[str, object]) -> dict[str, object]:
        """Carries an order out; see `PurgeOrder`.

        Returns:
            what it was about, and how many responses in each tier and fetches under way it met. Files that a prefix, a
            repository or everything covers are removed afterwards: see `under_way`.

        Raises:
            UsageError: the order is not sound.
            StorageError: it is carried out, but would be forgotten by a restart before its end.
        """
        order = PurgeOrder.parse(document)
        if order.url or order.revision is not None:
            prepared, self._prepared = self._prepared, None
            keys = prepared[1] if prepared is not None and prepared[0] == order else await self._keys_of(order)
            purged, flights = await self._purge_keys(keys, is_soft=order.is_soft)
        else:
            rule = rule_of(order, self.upstreams, self._with.clock.now())
            purged, flights = await self._purge_covered(rule)
        self._with.statistics.purges += 1
        self._with.statistics.purged_files += purged.on_disk
        event("edge.purge.ordered", what=order.text, soft=order.is_soft, memory=purged.in_memory, disk=purged.on_disk)
        return {
            "what": order.text,
            "soft": order.is_soft,
            "memory": purged.in_memory,
            "disk": purged.on_disk,
            "fetches": flights,
        }

    async def _keys_of(self, order: PurgeOrder) -> Sequence[str]:
        if order.revision is None:
            try:
                return (self._locate(order.url).key,)
            except RequestError as error:
                raise UsageError(f"{order.url[:200]!r} cannot be asked for here: {error.reason}") from error
        held = (
            base for each in self.upstreams if each.holds(order.repository) for base in each.bases(order.repository)
        )
        bases = [f"{REPOSITORIES_PATH}{order.repository}", *(url_target(base).url for base in held)]
        from edge.documents.revision_objects import RevisionObjects

        found = RevisionObjects(order.repository, bases, self._read)
        return await asyncio.to_thread(found.keys, order.revision)

    def _read(self, key: str, content: Content) -> bytes | None:
        """What is cached under a key; called in threads."""
        entry = self._with.memory.peek(key)
        if entry is not None:
            return entry.body
        file = self._with.disk.load(key, content.digest, pinned=content.is_pinned)
        if file is None:
            return None
        try:
            return file.body if file.body is not None else file.read(0, file.facts.size)
        finally:
            file.close()

    async def _purge_keys(self, keys: Sequence[str], *, is_soft: bool) -> tuple[Purged, int]:
        """Forgets or outdates what is stored under these keys; gives also how many fetches were outdated."""
        self._standing.generation += 1
        meant = set(keys)
        outdated = self._flights.outdate_where(meant.__contains__)
        act = self._with.variants.outdate if is_soft else self._with.variants.forget
        purged = Purged()
        for key in dict.fromkeys(keys):
            async with self._with.storing.hold(key):
                purged += await act(key)
        return purged, len(outdated)

    async def _purge_covered(self, rule: Rule) -> tuple[Purged, int]:
        """Puts a rule in force. What it covers in memory is gone at the end; files are removed by `work`.

        Raises:
            UsageError: too many are in force.
            StorageError: it is in force, but could not be written down.
        """
        kept = [(each, left) for each, left in self._left if not each.is_same(rule)]
        if len(kept) + len(self._new) >= RULES_MAX:
            raise UsageError(f"{RULES_MAX} purges are still being carried out: wait for one to end")
        self._left = kept
        self._new.append(rule)
        self._stand()
        self._standing.generation += 1
        outdated = self._flights.outdate_where(rule.covers)
        try:
            failure = await asyncio.to_thread(self._written_down, rule)
            purged = await self._purge_memory(rule)
            for resource in outdated:
                async with self._with.storing.hold(resource):
                    pass  # what was being written when the rule came is on disk now, and will be found there
        finally:  # files come last: what was gone through is crossed out, so it must have been written down
            self._new.remove(rule)
            self._left.append((rule, set(self._with.disk.room.shards)))
            self._wake.set()
        if failure is not None:
            raise StorageError(f"carried out, but a restart before its files are gone forgets it: {failure}")
        return purged, len(outdated)

    def _written_down(self, rule: Rule) -> CdnError | None:
        """Puts a rule on the list that outlives this process; what kept it from that."""
        try:
            self._ledger.add(rule)
        except CdnError as error:
            return error
        return None

    async def _purge_memory(self, rule: Rule) -> Purged:
        memory, count, keys = self._with.memory, 0, self._with.memory.keys()
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            now = self._with.clock.now()
            for key in keys[start : start + _KEYS_AT_ONCE]:
                entry = memory.peek(key) or memory.negative(key)
                verdict = judge((rule,), key, entry.head.answered_at, now) if entry is not None else Verdict.KEPT
                if verdict is Verdict.GONE or (verdict is Verdict.STALE and memory.negative(key) is not None):
                    count += memory.forget(key)
                elif verdict is Verdict.STALE and entry is not None:
                    entry.outdate()
                    count += 1
            await asyncio.sleep(0)  # clients have their turn
        return Purged(count)

    # ------------------------------------------------------------------------------------------------ files

    async def work(self) -> None:
        """Removes the files that rules in force cover, shard by shard, and then the rules; never ends."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._left:
                await self._sweep(sorted({shard for _, left in self._left for shard in left})[:_SHARDS_AT_ONCE])

    async def _sweep(self, shards: Sequence[int]) -> None:
        rules = [rule for rule, left in self._left if not left.isdisjoint(shards)]
        disk, now = self._with.disk, self._with.clock.now

        def verdict(key: str, answered_at: float) -> Verdict:
            return judge(rules, key, answered_at, now())

        files = (each for shard in shards for each in disk.purge_shard(shard, verdict))
        while (verdicts := await asyncio.to_thread(_some_of, files)) is not None:
            self._with.statistics.purged_files += sum(each is not Verdict.KEPT for each in verdicts)
            await asyncio.sleep(_PAUSE_SECONDS)
        with suppress(CdnError):
            await asyncio.to_thread(self._ledger.cross_out, rules, shards)
        for rule, left in self._left:
            if rule in rules:
                left.difference_update(shards)
                if not left:
                    event("edge.purge.completed", what=rule.text, soft=rule.is_soft)
        self._left = [(rule, left) for rule, left in self._left if left]
        self._stand()

    def under_way(self) -> list[dict[str, object]]:
        """The purges whose files are still being removed."""
        return [
            {"what": rule.text, "soft": rule.is_soft, "at": rule.at, "shards_left": len(left)}
            for rule, left in (*self._left, *((rule, self._with.disk.room.shards) for rule in self._new))
        ]


def _some_of(verdicts: Iterator[Verdict]) -> list[Verdict] | None:
    return list(islice(verdicts, _FILES_AT_ONCE)) or None
