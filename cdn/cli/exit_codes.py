"""What the exit status of `cdn` means; the same table is in ``cdn --help`` and in docs/operations/exit-codes.md."""

from __future__ import annotations

from typing import Final

INTERNAL_ERROR: Final = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells report it
OUTPUT_CLOSED: Final = 141  # 128 + SIGPIPE, as shells report it

EXIT_CODES: Final = {
    0: "done",
    1: "failed for a reason that has no code of its own, such as a file that may not be read",
    2: "the command line or a configuration file makes no sense; nothing was tried",
    3: "a document or object is damaged",
    4: "a document or object is well formed but must not be trusted",
    5: "storage failed, is full, or lacks an object",
    6: "a server could not be reached or did not answer properly",
    7: "the repository's present state does not allow it, or no such repository or path exists",
    8: "somebody else is changing the same subtree; try again later",
    9: "the subtree changed since the transaction began",
    10: "a check found damage",
    INTERNAL_ERROR: "a mistake in this program",
    INTERRUPTED: "interrupted from the keyboard",
    OUTPUT_CLOSED: "whoever read the output stopped reading",
}
