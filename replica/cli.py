"""The commands ``cdn replica …``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdn.reporting import Output, Table, duration_text, size_text

if TYPE_CHECKING:
    from cdn.reporting import Listing
    from replica.check import Problem, ReplicaCheck
    from replica.config import ReplicaHome
    from replica.mirror import Mirror
    from replica.plan import SyncReport

_ROOT = click.option(
    "--root",
    envvar="CDN_ROOT",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where replicas lie.  [default: $CDN_ROOT, else /var/lib/stratocast for root, ~/.local/share/stratocast]",
)


@click.group()
def replica() -> None:
    """Keep full copies of repositories (stratum 1).

    Copies lie in FOLDER/srv/NAME, as any web server can serve them; `cdn serve` does.
    """


@replica.command()
@click.argument("name")
@click.option("--server", "servers", multiple=True, required=True, metavar="URL", help="A source; repeatable.")
@click.option("--proxy", default="", metavar="LIST", help="Proxies to the sources, such as 'http://p:3128;DIRECT'.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="FILE",
    help="The repository's master public key; repeatable.",
)
@click.option("--workers", type=click.IntRange(1, 256), default=16, show_default=True, help="Objects fetched at once.")
@click.option("--interval", default="1m", show_default=True, metavar="TIME", help="Between two looks by `run`.")
@click.option("--no-tags", is_flag=True, help="Copy the newest revision alone, not those with tags.")
@click.option("--any-source", is_flag=True, help="Also copy from servers without .cvmfs_master_replica.")
@_ROOT
@click.pass_obj
def add(
    out: Output,
    *,
    name: str,
    servers: tuple[str, ...],
    proxy: str,
    keys: tuple[Path, ...],
    workers: int,
    interval: str,
    no_tags: bool,
    any_source: bool,
    root: Path | None,
) -> None:
    """Say that NAME is to be replicated, from where, and with which key.

    Nothing is copied yet: `cdn replica sync NAME` does that, and `cdn replica run` keeps it current.
    """
    from cdn.client.keys import key_files
    from cdn.errors import RepositoryError, UsageError
    from cdn.keyfiles import PUBLIC_MODE, read_public_key, write_file
    from replica.config import CONFIG_NAME, ReplicaConfig, config_text

    home = _home(root)
    folder = home.folder(name)
    if (folder / CONFIG_NAME).exists():
        raise RepositoryError(f"there is a replica of {name} already: edit {folder / CONFIG_NAME}, or remove it first")
    try:
        config = ReplicaConfig(
            ";".join(servers),
            proxy,
            workers=workers,
            interval=_interval(interval),
            check_master_replica=not any_source,
            tags=not no_tags,
        )
    except ValueError as error:
        raise UsageError("; ".join(map(str, error.args))) from error
    home.keys(name).mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(file for key in keys for file in key_files(key, name)):
        read_public_key(file)  # a file that is no key is refused before anything is written
        target = home.keys(name) / (f"{name}.pub" if not number else f"{name}-{number}.pub")
        write_file(target, file.read_bytes(), PUBLIC_MODE, replace=True)
    write_file(folder / CONFIG_NAME, config_text(config).encode(), PUBLIC_MODE, replace=False)
    out.result(
        {"repository": name, "storage": str(home.storage(name)), "config": str(folder / CONFIG_NAME)},
        f"{name} will be kept in {home.storage(name)}: run `cdn replica sync {name}` for the first copy",
    )


@replica.command()
@click.argument("names", nargs=-1)
@_ROOT
@click.pass_obj
def sync(out: Output, names: tuple[str, ...], root: Path | None) -> None:
    """Make replicas equal to their sources: those of NAMES, or all.

    Readers see the old revision until the new one is there completely. A run that is interrupted goes on where it was
    when it is started again.
    """
    from cdn.transport.loop import run

    home = _home(root)
    reports: list[SyncReport] = []
    for name in names or _all_names(home):
        with out.progress(f"Replicating {name}") as progress:
            report = run(_sync(home, name, progress))
        reports.append(report)
        _warn_of_expiry(out, report)
    out.result(
        {"replicas": [_report_document(report) for report in reports]}, *(_report_text(report) for report in reports)
    )


@replica.command()
@click.argument("names", nargs=-1)
@_ROOT
@click.pass_obj
def status(out: Output, names: tuple[str, ...], root: Path | None) -> None:
    """Show what replicas hold and when they were last synchronized."""
    home = _home(root)
    documents = [_status_of(home, name) for name in names or home.names()]
    if not documents:
        out.result({"replicas": []}, f"there is no replica in {home.root}: make one with `cdn replica add`")
        return
    rows = [(d["repository"], d["revision"], d["last_snapshot"] or "never", d["state"]) for d in documents]
    out.result({"replicas": documents}, Table(("replica", "revision", "last synchronized", "state"), rows))


@replica.command()
@click.argument("name")
@click.option("--repair", is_flag=True, help="Fetch from its sources what is missing or damaged.")
@click.option("--quick", is_flag=True, help="Do not read the objects: find only what is missing.")
@_ROOT
@click.pass_obj
def check(out: Output, *, name: str, repair: bool, quick: bool, root: Path | None) -> None:
    """Prove that a replica is complete and every object in it is right.

    Everything its newest and its tagged revisions need is looked for, and every object read. The exit status is 10 if
    something is wrong and was not repaired.
    """
    from cdn.clock import SystemClock
    from cdn.errors import CheckFailedError
    from cdn.transport.loop import run
    from replica.check import ReplicaCheck
    from replica.running import open_mirror

    home = _home(root)
    mirror = open_mirror(home, name)
    with out.progress(f"Checking {name}") as progress:
        checked = ReplicaCheck(
            mirror,
            home.folder(name),
            now=SystemClock().now(),
            repairs=repair,
            reads_content=not quick,
            progress=progress,
        )
        problems = run(_problems(mirror, checked))
    bad = sum(not problem.is_repaired for problem in problems)
    with out.listing("problems", {"repository": name}) as listing:
        for problem in problems:
            _list_problem(listing, problem)
        listing.end({"ok": not bad, **_counts(checked)}, _check_text(name, checked, bad))
    _note_check(home, name, is_good=not bad)
    if bad:
        advice = "no source has it right" if repair else f"run `cdn replica check {name} --repair`"
        raise CheckFailedError(f"the replica of {name} has {bad} problem(s): {advice}")


@replica.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--keep-data", is_flag=True, help="Forget the replica but leave what it holds.")
@_ROOT
@click.pass_obj
def remove(out: Output, *, name: str, yes: bool, keep_data: bool, root: Path | None) -> None:
    """Stop replicating NAME and delete the copy."""
    import shutil
    import sys

    from cdn.errors import UsageError
    from replica.folders import exclusive, note_in_info

    home = _home(root)
    home.config(name)
    storage, folder = home.storage(name), home.folder(name)
    if not (yes or keep_data):
        if out.json or not sys.stdin.isatty():
            raise UsageError(f"deleting {storage} cannot be undone: say --yes if that is meant")
        click.confirm(f"Delete {storage} with everything in it?", abort=True, err=True)
    with exclusive(folder, name):
        note_in_info(home.served, folder.parent, name, present=False)
        if not keep_data and storage.exists():
            shutil.rmtree(storage)
        shutil.rmtree(folder)
    out.result(
        {"repository": name, "data_kept": keep_data},
        f"{name} is no longer replicated" + (f"; its copy is still in {storage}" if keep_data else ""),
    )


@replica.command()
@click.argument("names", nargs=-1)
@click.option("--metrics", "listen", metavar="HOST:PORT", help="Answer /metrics and /status there.")
@click.option("--together", type=click.IntRange(1, 64), default=4, show_default=True, help="Replicas synced at once.")
@_ROOT
@click.pass_obj
def run(out: Output, names: tuple[str, ...], listen: str | None, together: int, root: Path | None) -> None:
    """Keep replicas current until told to stop: those of NAMES, or all.

    SIGHUP looks again which replicas there are and what they are told. SIGTERM and SIGINT stop; a copy under way is
    given up and its old revision stays served.
    """
    from replica.running import ReplicaDaemon, run_until_stopped

    home = _home(root)
    for name in names:
        home.config(name)
    out.serving()
    run_until_stopped(lambda: ReplicaDaemon(home, names=names, together=together), listen, on_ready=out.note)


# -------------------------------------------------------------------------------------------------------- behind them


async def _problems(mirror: Mirror, checked: ReplicaCheck) -> list[Problem]:
    async with mirror:
        return [problem async for problem in checked.run()]


def _list_problem(listing: Listing, problem: Problem) -> None:
    document = {
        "path": problem.path,
        "kind": problem.kind.value,
        "detail": problem.detail,
        "repaired": problem.is_repaired,
    }
    ending = " (repaired)" if problem.is_repaired else ""
    listing.add(document, f"{problem.kind.value}: {problem.path}: {problem.detail}{ending}")


def _interval(text: str) -> float:
    from cdn.config import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise ValueError(f"--interval: {error}") from error


def _home(root: Path | None) -> ReplicaHome:
    from replica.config import ReplicaHome

    return ReplicaHome(root) if root is not None else ReplicaHome.usual()


def _all_names(home: ReplicaHome) -> list[str]:
    from cdn.errors import RepositoryMissingError

    names = home.names()
    if not names:
        raise RepositoryMissingError(f"there is no replica in {home.root}: make one with `cdn replica add`")
    return names


async def _sync(home: ReplicaHome, name: str, progress: Any) -> SyncReport:
    from replica.running import open_mirror

    async with open_mirror(home, name) as mirror:
        return await mirror.sync(progress)


def _warn_of_expiry(out: Output, report: SyncReport) -> None:
    from cdn.clock import SystemClock

    left = report.whitelist_expires_at - SystemClock().now()
    if left < 10 * 86_400:
        out.warning(
            f"the whitelist of {report.fqrn} expires in {duration_text(max(left, 0))}: its publisher must sign a new "
            "one, or nobody can open it any more"
        )


def _report_document(report: SyncReport) -> dict[str, object]:
    return {
        "repository": report.fqrn,
        "revision": report.revision,
        "revision_before": report.revision_before,
        "objects": report.objects,
        "catalogs": report.catalogs,
        "bytes": report.bytes,
        "skipped": list(report.skipped),
        "seconds": round(report.seconds, 3),
        "source": report.source,
        "whitelist_expires_at": report.whitelist_expires_at,
    }


def _report_text(report: SyncReport) -> str:
    took = duration_text(report.seconds)
    if not report.is_new and not report.objects:
        return f"{report.fqrn} is current at revision {report.revision} ({took})"
    before = "" if report.revision_before is None else f", was {report.revision_before}"
    skipped = f"; {len(report.skipped)} old revision(s) are no longer at the source" if report.skipped else ""
    return (
        f"{report.fqrn} is at revision {report.revision}{before}: {report.objects:,} objects, "
        f"{size_text(report.bytes)} in {took}{skipped}"
    )


def _status_of(home: ReplicaHome, name: str) -> dict[str, Any]:
    from cdn.errors import DocumentError
    from cdn.manifest import Manifest
    from cdn.signing import body_of
    from replica.plan import status_values

    home.config(name)
    storage = home.storage(name)
    manifest, state = None, "empty"
    if (storage / ".cvmfspublished").is_file():
        try:
            manifest = Manifest.parse(body_of((storage / ".cvmfspublished").read_bytes()))
            state = "current as of the last run"
        except DocumentError:
            state = "damaged"
    values: dict[str, str] = {}
    if (storage / ".cvmfs_status.json").is_file():
        values = status_values((storage / ".cvmfs_status.json").read_bytes())
    return {
        "repository": name,
        "revision": None if manifest is None else manifest.revision,
        "root_catalog": None if manifest is None else manifest.root_catalog.text,
        "published_at": None if manifest is None else manifest.timestamp,
        "last_snapshot": values.get("last_snapshot"),
        "last_check": values.get("last_check"),
        "check_status": values.get("check_status"),
        "state": "synchronizing" if _is_locked(home, name) else state,
        "storage": str(storage),
    }


def _is_locked(home: ReplicaHome, name: str) -> bool:
    from cdn.errors import LeaseHeldError
    from replica.folders import exclusive

    try:
        with exclusive(home.folder(name), name):
            return False
    except LeaseHeldError:
        return True


def _counts(checked: ReplicaCheck) -> dict[str, object]:
    counts = checked.counts
    return {
        "objects": counts.objects,
        "bytes": counts.bytes,
        "catalogs": counts.catalogs,
        "references": counts.references,
        "revisions": counts.revisions,
    }


def _check_text(name: str, checked: ReplicaCheck, bad: int) -> str:
    counts = checked.counts
    looked = (
        f"{counts.objects:,} objects ({size_text(counts.bytes)}) read, {counts.references:,} references of "
        f"{counts.catalogs} catalogs in {counts.revisions} revision(s) followed"
    )
    return f"{name}: {looked}: " + (f"{bad} problem(s)" if bad else "all is there and right")


def _note_check(home: ReplicaHome, name: str, *, is_good: bool) -> None:
    """Writes into the replica's status what the check found."""
    from cdn.clock import SystemClock
    from cdn.objects import STATUS_PATH
    from cdn.storage.local import LocalStore
    from replica.plan import date_text, status_json

    store = LocalStore(home.storage(name))
    before = store.read(STATUS_PATH, size_max=1 << 20) if store.exists(STATUS_PATH) else b""
    result = "succeeded" if is_good else "failed"
    store.replace(STATUS_PATH, status_json(before, last_check=date_text(SystemClock().now()), check_status=result))
