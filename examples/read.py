"""Reads a file of a repository, and lists the directory it is in.

    python examples/read.py sw.example.org http://host/cvmfs/sw.example.org sw.example.org.pub /README

The key is what everything is verified against; get it from the publisher by a way you trust.
"""

import os
import sys

import cdn.client


def main(name: str, server: str, key: str, path: str) -> None:
    """Shows the directory of a file, and the file's first line."""
    with cdn.client.open(name, servers=server, keys=[key], variables=os.environ) as repository:
        print(f"{repository.fqrn}, revision {repository.revision}")
        for entry in repository.listdir(os.path.dirname(path)):
            print(f"{entry.size:>12} {entry.name}")
        with repository.open(path) as file:
            print(file.readline().decode("utf-8", "backslashreplace"), end="")


if __name__ == "__main__":
    main(*sys.argv[1:])
