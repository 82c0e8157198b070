"""Running the demonstration as a process: its folder, its signals, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdn.clock import SystemClock
from cdn.demo.network import Network, Workspace
from cdn.demo.places import EDGES, REPLICAS, REPOSITORY
from cdn.demo.processes import Processes, end_processes
from cdn.demo.report import DemoFailedError, DemoView, Recorder
from cdn.demo.scenario import STEPS, Scenario
from cdn.demo.tree import FILES_MAX
from cdn.errors import UsageError

NOTE_NAME: Final = "running.json"
_PREFIX: Final = "stratocast-demo-"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """How to run it.

    Args:
        keep: whether the servers go on afterwards.
        files_max: how many files are published at most.
        workdir: where its folder is made; the usual place for temporary files if None.
    """

    keep: bool = False
    files_max: int = FILES_MAX
    workdir: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is left of it.

    Args:
        record: the report.
        folder: what was kept: everything, the logs alone after a failure, or None for nothing.
        urls: where the servers that go on answer.
        key: the repository's public key, if they do.
    """

    record: Recorder
    folder: Path | None = None
    urls: dict[str, str] | None = None
    key: Path | None = None


def run_demo(options: DemoOptions, view: DemoView) -> Outcome:
    """Runs the demonstration; whatever happens, every process it started is ended, unless it was asked to keep them.

    Raises:
        KeyboardInterrupt: it was told to stop, and has cleaned up.
        UsageError: its folder cannot be made.
    """
    return asyncio.run(_run_until_told(options, view))


async def _run_until_told(options: DemoOptions, view: DemoView) -> Outcome:
    loop = asyncio.get_running_loop()
    work = asyncio.current_task()
    assert work is not None
    told: list[int] = []

    def stop(number: int) -> None:
        if not told:  # once: what cleans up is not to be interrupted by impatience
            work.cancel()
        told.append(number)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, stop, number)
    try:
        return await _run(options, view)
    except asyncio.CancelledError:
        if not told:
            raise
        raise KeyboardInterrupt from None
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def _run(options: DemoOptions, view: DemoView) -> Outcome:
    workspace = _new_workspace(options.workdir)
    processes = Processes(workspace.logs, outlives=options.keep)
    network = Network(workspace, processes)
    record = Recorder(len(STEPS), view, SystemClock())
    is_kept = keeps_logs = False
    try:
        with suppress(DemoFailedError):  # it is in the report
            await Scenario(network, record, files_max=options.files_max).run()
        is_kept = options.keep and len(record.steps) == len(STEPS)
        keeps_logs = not record.is_good
        if is_kept:
            await processes.stop(*(name for name in processes.pids if name.startswith("client-")))
            _note(workspace, processes)
            return Outcome(record, workspace.root, _urls(network), workspace.key)
        return Outcome(record, workspace.logs if keeps_logs else None)
    finally:
        await network.close()
        if not is_kept:
            await processes.stop_all()
            await _clean(workspace, keeps_logs=keeps_logs)


def _new_workspace(parent: Path | None) -> Workspace:
    try:
        # A folder of one's own for all the secrets in it: 0700.
        workspace = Workspace(Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)).resolve())
        workspace.create()
    except OSError as error:
        raise UsageError(f"{parent or tempfile.gettempdir()} cannot be worked in: {error.strerror or error}") from error
    return workspace


async def _clean(workspace: Workspace, *, keeps_logs: bool) -> None:
    """Removes the folder, or all in it but the logs; several parts at a time, for there are many files."""
    parts = [each for each in workspace.root.iterdir() if not (keeps_logs and each == workspace.logs)]
    await asyncio.gather(*(asyncio.to_thread(_remove, part) for part in parts))
    if not keeps_logs:
        _remove(workspace.root)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _urls(network: Network) -> dict[str, str]:
    path = f"/cvmfs/{REPOSITORY}"
    dns_host, dns_port = network.dns
    return {
        "stratum0": f"{network.stratum0_url}{path}",
        **{f"replica-{name}": f"{network.replica_url(name)}{path}" for name in REPLICAS},
        **{f"edge-{place.name}": f"{network.edge_url(place.name)}{path}" for place in EDGES},
        **{f"edge-{place.name}-admin": f"{network.edge_admin_url(place.name)}/status" for place in EDGES},
        "geodns": f"dns://{dns_host}:{dns_port}",
        "geodns-admin": f"http://{dns_host}:{network.ports.dns_admin}/status",
    }


def _note(workspace: Workspace, processes: Processes) -> None:
    """Writes down what goes on, for `stop_kept`."""
    (workspace.root / NOTE_NAME).write_text(json.dumps(processes.pids, indent=2) + "\n")


def stop_kept(folder: Path) -> int:
    """Ends what a demonstration left running and removes its folder.

    Args:
        folder: as it was printed.

    Returns:
        how many processes were ended.

    Raises:
        UsageError: nothing was left running there.
    """
    folder = Path(os.path.realpath(folder))
    try:
        pids: dict[str, int] = json.loads((folder / NOTE_NAME).read_text())
    except (OSError, ValueError):
        raise UsageError(f"{folder} is no folder that `cdn demo --keep` left: give the one it printed") from None
    ended = end_processes(pids.values(), str(folder))
    shutil.rmtree(folder, ignore_errors=True)
    return ended
