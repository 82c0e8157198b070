"""A publisher to be killed: a program of its own, started by the tests.

publisher_program.py HOME one SUBTREE CONTENT [staged]   publishes one file, says `published REVISION`
publisher_program.py HOME many SUBTREE COUNT             publishes as many revisions, saying so each time
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cdn.telemetry import Fault, install_fault_hook
from stratum0.config import Home
from stratum0.repository import Repository

NAME = "sw.example.org"


def publish(repository: Repository, subtree: str, content: str, *, staged: bool) -> int:
    with repository.transaction(subtree, ephemeral=not staged) as transaction:
        print(f"began {transaction.id}", flush=True)
        transaction.mkdir(f"{subtree}/folder", parents=True)
        transaction.put_file(f"{subtree}/folder/file", content.encode())
        transaction.put_file(f"{subtree}/nested/.cvmfscatalog", b"", parents=True)
        transaction.put_file(f"{subtree}/nested/file", f"{content} nested".encode())
        return transaction.commit().number


def main() -> None:
    home, what, subtree, text, *rest = sys.argv[1:]
    if "CDN_FAULT" in os.environ:
        install_fault_hook(Fault.parse(os.environ["CDN_FAULT"]).hook())
    repository = Repository.open(NAME, Home(Path(home)))
    if what == "one":
        print(f"published {publish(repository, subtree, text, staged=bool(rest))}", flush=True)
        return
    for number in range(int(text)):
        print(f"published {publish(repository, subtree, str(number), staged=False)} {number}", flush=True)


if __name__ == "__main__":
    main()
