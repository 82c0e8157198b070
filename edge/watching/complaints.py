"""How often the same is warned of, so that no storm of failures fills the log. Pure."""

from __future__ import annotations

from typing import Final

AT_ONCE_MAX: Final = 10
"""How many warnings about one subject are told at once."""
INTERVAL_SECONDS: Final = 1.0
"""After how long one more is."""
SUBJECTS_MAX: Final = 1024


class Complaints:
    """Decides which warnings are told: the first ones about a subject, and one each second from then on."""

    def __init__(self) -> None:
        self._subjects: dict[str, _Subject] = {}

    def turn(self, subject: str, now: float) -> dict[str, int] | None:
        """None if this one is not told; else what is to be said with it of those that were not.

        Args:
            subject: what is warned of, such as a server.
            now: in seconds of a monotonic clock.
        """
        known = self._subjects.get(subject)
        if known is None:
            if len(self._subjects) >= SUBJECTS_MAX:
                self._subjects.clear()
            known = self._subjects[subject] = _Subject(now)
        return known.turn(now)


class _Subject:
    __slots__ = ("_credit", "_looked_at", "_untold")

    def __init__(self, now: float) -> None:
        self._credit = float(AT_ONCE_MAX)
        self._looked_at = now
        self._untold = 0

    def turn(self, now: float) -> dict[str, int] | None:
        self._credit = min(AT_ONCE_MAX, self._credit + (now - self._looked_at) / INTERVAL_SECONDS)
        self._looked_at = now
        if self._credit < 1.0:
            self._untold += 1
            return None
        self._credit -= 1.0
        untold, self._untold = self._untold, 0
        return {"untold": untold} if untold else {}
