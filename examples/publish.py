"""Publishes a repository from Python: whole folders, single changes, tags, going back.

    python examples/publish.py ROOT SOURCE

ROOT is a new folder for repositories, SOURCE the folder to publish.
"""

import sys
from pathlib import Path

from stratum0 import Home, Repository
from stratum0.publish import PublishOptions, publish_tree
from stratum0.rollback import rollback
from stratum0.tags import add_tag

NAME = "sw.example.org"


def main(root: str, source: str) -> None:
    """Makes a repository, changes it in several ways, and goes back to the first."""
    home = Home(Path(root))
    Repository.create(NAME, home).close()

    with Repository.open(NAME, home) as repository:
        # Makes a subtree equal to a folder; calling it again costs next to nothing while nothing changes.
        result = publish_tree(repository, source, "/software", options=PublishOptions(tag="v1"))
        print(f"revision {repository.head().revision}: {result.counts.files} files")

        # Several changes become one revision when the block is left, or nothing if an error leaves it.
        with repository.transaction("/notes") as transaction:
            transaction.mkdir("/notes")
            transaction.put_file("/notes/readme", b"Read me first.\n")
            transaction.symlink("/notes/software", "../software")
        print(f"revision {repository.head().revision}: notes")

        add_tag(repository, "with-notes", message="the first notes")
        done = rollback(repository, "v1")
        print(f"revision {done.number}: the tree of revision {done.target.number} again")


if __name__ == "__main__":
    main(*sys.argv[1:])
