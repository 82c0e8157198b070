"""What is worth keeping in a cache: the policy of both its tiers, by size and use, without files or clocks.

What an object is worth is what it saves for the room that it takes: its uses, times what a request for it costs, by its
size. A request costs its bytes and a round trip, which counts as much as `REQUEST_COST_BYTES`; so small objects are
worth more than large ones, and nothing large pushes out many small ones without being asked for as often. An object
that was used only once counts for a fraction of a use, so that a scan goes as it came.

An object's place is its worth above a level. What goes after more than one use raises the level towards its own place;
so what was worth much once and is used no more is overtaken in time, but by no scan, however long. A hit only counts;
the place is found again when it is an object's turn to go. Of what is gone, the number of uses is remembered for a
while, in fixed memory, so that it comes back as what it was. This is GreedyDual-Size-Frequency with these changes;
docs/decisions/0014-eviction.md has the figures.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Mapping
from typing import Final, Generic, Protocol, TypeVar

REQUEST_COST_BYTES: Final = 64 << 10
"""How many bytes a round trip is worth: what a link of 50 Mbit/s carries in 10 ms."""
FIRST_USE: Final = 0.2
"""What the only use of an object counts for."""
USES_MAX: Final = 63
"""Up to which number uses are counted, so that nothing stays for what it was long ago."""
LEVEL_STEP: Final = 0.5
"""Which part of the way to the place of what goes the level rises: see `risen`."""
GHOST_BYTES: Final = 16 << 10
"""For so many bytes of a cache the uses of one that is gone are remembered: with more, what is used in turns takes the
place of its like over and over."""

_KEPT: Final = 1e6
"""How far above the level what stays has its place: above all that may go."""


def worth(size: int, uses: int) -> float:
    """What an object is worth: see the module."""
    size = max(size, 1)
    return (uses if uses > 1 else FIRST_USE) * (REQUEST_COST_BYTES + size) / size


def risen(level: float, place: float) -> float:
    """The level after something with this place went."""
    return level + max(0.0, place - level) * LEVEL_STEP


class Ghosts:
    """How often what is gone was used; a table of fixed size, in which the newer takes the place of the older.

    Args:
        slots: for how many objects there is place.
    """

    def __init__(self, slots: int) -> None:
        self._slots = max(1, slots)
        self._marks = array("I", bytes(4 * self._slots))
        self._uses = bytearray(self._slots)

    def note(self, code: int, uses: int) -> None:
        """Remembers the uses of what is gone, by a hash of its name."""
        slot = code % self._slots
        self._marks[slot], self._uses[slot] = (code >> 16) & 0xFFFFFFFF, min(uses, USES_MAX)

    def take(self, code: int) -> int:
        """The uses of what comes back; zero if they are not known."""
        slot = code % self._slots
        if self._marks[slot] != (code >> 16) & 0xFFFFFFFF:
            return 0
        uses, self._uses[slot] = self._uses[slot], 0
        return uses


class Evictable(Protocol):
    """What a queue orders; the owner of the cache counts `uses` up at each hit and touches nothing else."""

    key: str
    uses: int
    """Hits since the queue looked last."""
    known_uses: int
    """Uses that the queue has seen."""
    ticket: int
    """Which of the queue's notes is the valid one; zero for none."""

    @property
    def size(self) -> int:
        """How much room it takes."""


E = TypeVar("E", bound=Evictable)


class EvictionQueue(Generic[E]):
    """Says what comes into a full cache, and what goes for it. A hit costs it nothing.

    Args:
        entries: what is in the cache, kept by its owner.
        ghosts_max: of how many that are gone it remembers the uses.
        keeps: whether an entry stays, whatever others are worth.
    """

    def __init__(self, entries: Mapping[str, E], ghosts_max: int, keeps: Callable[[E], bool]) -> None:
        self._entries = entries
        self._ghosts = Ghosts(ghosts_max)
        self._keeps = keeps
        self._notes: list[tuple[float, int, str]] = []
        self._ticket = 0
        self.level = 0.0

    def victims(self, entry: E, room: int) -> list[E] | None:
        """What must go for an entry; None if that is worth more than the entry, which then stays outside.

        Args:
            entry: it wants to come in.
            room: how many bytes must be freed for it.
        """
        entry.known_uses = min(USES_MAX, max(1, entry.known_uses) + self._ghosts.take(hash(entry.key)))
        place = self.level + worth(entry.size, entry.known_uses)
        chosen: list[tuple[float, E]] = []
        while room > 0 and (lowest := self._pop()) is not None:
            chosen.append(lowest)
            room -= lowest[1].size
            if lowest[0] > place and not self._keeps(entry):
                room = 1
                break
        if room > 0:
            for known, stays in chosen:
                self._note(stays, known)
            self._leave(entry, place)
            return None
        for known, goes in chosen:
            self._leave(goes, known)
        return [goes for _, goes in chosen]

    def add(self, entry: E) -> None:
        """Takes an entry that came in."""
        self._note(entry, self.level + worth(entry.size, entry.known_uses))

    def discard(self, entry: E) -> None:
        """Forgets an entry that was removed."""
        entry.ticket = 0
        if len(self._notes) > 2 * len(self._entries) + 64:
            self._notes = [note for note in self._notes if self._entry_of(note) is not None]
            heapq.heapify(self._notes)

    def _note(self, entry: E, place: float) -> None:
        self._ticket += 1
        entry.ticket = self._ticket
        heapq.heappush(self._notes, (place, self._ticket, entry.key))

    def _entry_of(self, note: tuple[float, int, str]) -> E | None:
        entry = self._entries.get(note[2])
        return entry if entry is not None and entry.ticket == note[1] else None

    def _pop(self) -> tuple[float, E] | None:
        """The entry with the lowest place; those with new hits are given their new place on the way."""
        while self._notes:
            note = heapq.heappop(self._notes)
            entry = self._entry_of(note)
            if entry is None:
                continue
            if self._keeps(entry):
                if note[0] > self.level + _KEPT / 2:  # it had its turn: nothing is left but what stays
                    heapq.heappush(self._notes, note)
                    return None
                self._note(entry, self.level + _KEPT)
            elif entry.uses:
                entry.known_uses, entry.uses = min(USES_MAX, entry.known_uses + entry.uses), 0
                self._note(entry, max(self.level, note[0]) + worth(entry.size, entry.known_uses))
            else:
                return note[0], entry
        return None

    def _leave(self, entry: E, place: float) -> None:
        if entry.known_uses > 1:
            self.level = risen(self.level, place)
        self._ghosts.note(hash(entry.key), entry.known_uses)
