"""Starts a program that ends when the demonstration does, even if that is killed.

Run as a file, not as a module, and with nothing but the standard library, since it comes before everything:

    python -S -E child.py PID-OF-THE-DEMONSTRATION PROGRAM ARGUMENT…

On Linux the kernel kills the program when its parent dies (`PR_SET_PDEATHSIG`); elsewhere there is no such thing, and
only a demonstration that ends by itself or by a signal it can catch ends its programs.
"""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Becomes the program."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(parent):  # it died before the line above
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    main()
