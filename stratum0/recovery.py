"""What a process that died left behind, put right when the repository is opened next."""

from __future__ import annotations

from dataclasses import dataclass

from stratum0.parts import RepositoryParts


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was found and done.

    Args:
        committed: ids of transactions whose revision is published but which did not live to say so.
        reopened: ids of staged transactions whose commit did not happen; they can be committed again.
        aborted: ids of transactions that died with their process.
        swept: files removed from the store's staging folder.
    """

    committed: tuple[str, ...] = ()
    reopened: tuple[str, ...] = ()
    aborted: tuple[str, ...] = ()
    swept: int = 0


def recover(repository: RepositoryParts) -> Recovery:
    """Finishes or undoes what dead processes began; what living ones do is left alone.

    Never waits for a lock, so it is cheap to call whenever a repository is opened.
    """
    raise NotImplementedError
