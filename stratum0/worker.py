"""A worker process of the content pipeline: ``python -m stratum0.worker FD``.

Compression holds the interpreter's lock, so only processes use all cores. A worker is talked to over a socket that its
parent opened before starting it, so what arrives is as trusted as the parent itself. It ends when that socket does,
whatever became of the parent. What the messages are is known to `stratum0.jobs`.
"""

from __future__ import annotations

import gc
import signal
import sys
from typing import TYPE_CHECKING

from stratum0.jobs import answer, open_content

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def serve(connection: Connection) -> None:
    """Answers requests until the parent closes the connection."""
    content = open_content(connection.recv())
    gc.freeze()  # what is imported stays, and the rest has no cycles
    while True:
        try:
            message = connection.recv()
        except EOFError:
            return
        connection.send(answer(message, content))


def main() -> None:
    """Runs a worker on the socket whose descriptor is the first argument."""
    from contextlib import suppress
    from multiprocessing.connection import Connection

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    with Connection(int(sys.argv[1])) as connection, suppress(EOFError, BrokenPipeError, ConnectionResetError):
        serve(connection)


if __name__ == "__main__":
    main()
