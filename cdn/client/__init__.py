"""The embedded client: open a repository by name, read verified files by path.

`open` is for ordinary programs; `cdn.client.repository.open_repository` is the same for asynchronous ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdn.client.blocking import BlockingRepository


def open(fqrn: str, **options: Any) -> BlockingRepository:  # noqa: A001  # what a file system calls it
    """Opens a repository for reading.

    Args:
        fqrn: its name.
        options: `servers` and `keys`, and what else `cdn.client.repository.open_repository` takes.

    Raises:
        CdnError: it cannot be had or must not be believed.
    """
    from cdn.client.blocking import BlockingRepository

    return BlockingRepository(fqrn, **options)
