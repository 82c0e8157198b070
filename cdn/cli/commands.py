"""Which commands there are: the one table behind ``cdn --help``, completion and the lazy imports.

The table holds every command's one-line help, so that listing the commands imports none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Entry:
    """One command.

    Args:
        name: what the user types.
        target: ``module:attribute`` of the click command.
        summary: the line shown beside the name.
    """

    name: str
    target: str
    summary: str

    @property
    def module(self) -> str:
        """The module to import when the command is used."""
        return self.target.partition(":")[0]

    @property
    def attribute(self) -> str:
        """The command's name in its module."""
        return self.target.partition(":")[2]


SECTIONS: Final[dict[str, tuple[Entry, ...]]] = {
    "Publishing": (
        Entry("repo", "stratum0.cli:repo", "Create repositories, look after their keys, list what there is."),
        Entry("publish", "stratum0.cli:publish", "Make a subtree equal to a directory and publish it."),
        Entry("ingest", "stratum0.cli:ingest", "Publish the content of a tarball."),
        Entry(
            "transaction", "stratum0.cli:transaction", "Stage changes step by step, then commit them as one revision."
        ),
        Entry("tag", "stratum0.cli:tag", "Give revisions names, and list or remove the names."),
        Entry("rollback", "stratum0.cli:rollback", "Publish an earlier revision again as the newest one."),
        Entry("diff", "stratum0.cli:diff", "Show what changed between two revisions."),
        Entry("gc", "stratum0.cli:gc", "Remove objects that no kept revision needs."),
        Entry("check", "stratum0.cli:check", "Verify a whole repository, and repair it from a good copy."),
    ),
    "Reading": (
        Entry("ls", "cdn.cli.reading:ls", "List a directory of a repository."),
        Entry("cat", "cdn.cli.reading:cat", "Write the content of files to standard output."),
        Entry("stat", "cdn.cli.reading:stat", "Show everything known about a path."),
        Entry("find", "cdn.cli.reading:find", "List the paths below a directory that match."),
        Entry("cp", "cdn.cli.reading:cp", "Copy files or directories out of a repository."),
        Entry("tree", "cdn.cli.reading:tree", "Draw a directory and what is below it."),
    ),
    "Serving and operating": (
        Entry("serve", "stratum0.cli:serve", "Serve a storage folder over HTTP."),
        Entry("replica", "replica.cli:replica", "Keep full copies of repositories (stratum 1)."),
        Entry("edge", "edge.cli:edge", "Run a caching proxy near its users."),
        Entry("geodns", "geodns.cli:geodns", "Answer DNS queries with the nearest healthy site."),
    ),
    "Demonstration and shell": (
        Entry("demo", "cdn.cli.demo:demo", "Run a whole network on this machine and put it to the test."),
        Entry("completion", "cdn.cli.completion:completion", "Print the script that completes `cdn` in your shell."),
    ),
}
"""The commands in the order and under the headings in which help shows them."""

ENTRIES: Final = {entry.name: entry for entries in SECTIONS.values() for entry in entries}
"""The same commands by name."""
