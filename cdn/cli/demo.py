"""The command ``cdn demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdn.reporting import Output

if TYPE_CHECKING:
    from cdn.demo.running import Outcome


@click.command()
@click.option("--keep", is_flag=True, help="Leave the servers running and say where they are.")
@click.option(
    "--files",
    "files_max",
    type=click.IntRange(min=20),
    metavar="N",
    help="Publish at most so many files, for a quick look.",
)
@click.option(
    "--workdir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="A folder in which to make its own.  [default: where temporary files are]",
)
@click.option(
    "--stop",
    "kept",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="End what an earlier --keep left running, and do nothing else.",
)
@click.pass_obj
def demo(out: Output, *, keep: bool, files_max: int | None, workdir: Path | None, kept: Path | None) -> None:
    """Run a whole network on this machine and put it to the test.

    Everything happens on loopback, with a copy of this Python's own libraries as the software: it is published on
    stratum 0, copied to two replicas, cached at three edges, and read by three clients whom GeoDNS sends to the nearest
    edge. Then an edge is killed while it is being read from, a second revision is published, and a cached object is
    damaged. Every file is compared with its source. The exit status is 0 only if every check held.
    """
    from cdn.cli.demo_view import view_for
    from cdn.demo.report import DemoFailedError
    from cdn.demo.running import DemoOptions, run_demo, stop_kept
    from cdn.demo.tree import FILES_MAX

    if kept is not None:
        ended = stop_kept(kept)
        out.result({"folder": str(kept), "processes_ended": ended}, f"ended {ended} process(es) and removed {kept}")
        return
    with view_for(out) as view:
        outcome = run_demo(DemoOptions(keep, files_max or FILES_MAX, workdir), view)
    _tell(out, outcome)
    failures = outcome.record.failures
    if not outcome.record.is_good:
        first = f"{failures[0].name}: {failures[0].seen}" if failures else "it was not finished"
        where = f"; the logs are in {outcome.folder}" if outcome.folder else ""
        raise DemoFailedError(f"the demonstration failed ({first}){where}")


def _tell(out: Output, outcome: Outcome) -> None:
    document = dict(outcome.record.document())
    kept: list[str] = []
    if outcome.urls is not None:
        document |= {"urls": outcome.urls, "folder": str(outcome.folder), "public_key_file": str(outcome.key)}
        edge = outcome.urls["edge-geneva"]
        kept = [
            "Still running:",
            *(f"  {name.ljust(20)} {url}" for name, url in outcome.urls.items()),
            f"Read it:  cdn ls {edge}/lib --key {outcome.key}",
            f"End it:   cdn demo --stop {outcome.folder}",
            "",
        ]
    elif outcome.folder is not None:
        document["logs"] = str(outcome.folder)
    out.result(document, *kept, *outcome.record.summary())
