"""`cdn gc` and `cdn check`: removing what is not needed, verifying what is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdn.reporting import Cell, Output, Table, size_text
from stratum0.commands.opening import opened, root_option

if TYPE_CHECKING:
    from stratum0.garbage import Collection, Retention
    from stratum0.repository import Repository


@click.command()
@click.argument("name", metavar="REPO")
@click.option("--dry-run", "-n", is_flag=True, help="Only show what would be removed.")
@click.option("--keep-revisions", type=click.IntRange(1), metavar="N", help="Keep the newest N revisions.")
@click.option("--keep-days", type=click.FloatRange(0), metavar="D", help="Keep what was current within D days.")
@click.option("--all-untagged", is_flag=True, help="Keep only the current revision and those with tags.")
@root_option
@click.pass_obj
def gc(
    out: Output,
    root: Path | None,
    name: str,
    keep_revisions: int | None,
    keep_days: float | None,
    *,
    dry_run: bool,
    all_untagged: bool,
) -> None:
    """Remove objects that no kept revision needs.

    The current revision and all with tags are always kept. Of the others, those stay that were current within three
    days, unless an option or the settings say otherwise. Nobody waits for it but for moments.
    """
    from cdn.errors import UsageError
    from stratum0.garbage import collect

    if all_untagged and (keep_revisions is not None or keep_days is not None):
        raise UsageError("--all-untagged keeps no untagged revision: leave out --keep-revisions and --keep-days")
    with opened(out, root, name) as repository:
        retention = _retention(repository, keep_revisions, keep_days, all_untagged=all_untagged)
        with out.progress("Collecting garbage") as progress:
            done = collect(repository, retention, dry_run=dry_run, progress=progress)
        _report(out, repository, retention, done)


def _retention(
    repository: Repository, keep_revisions: int | None, keep_days: float | None, *, all_untagged: bool
) -> Retention:
    from stratum0.garbage import Retention

    if all_untagged:
        return Retention(revisions=1, days=0)
    if keep_revisions is None and keep_days is None:
        settings = repository.settings
        return Retention(settings.gc_keep_revisions, settings.gc_keep_days)
    return Retention(keep_revisions or 1, keep_days or 0)


def _report(out: Output, repository: Repository, retention: Retention, done: Collection) -> None:
    from dataclasses import asdict

    document = {"repository": repository.name, "retention": asdict(retention), **asdict(done)}
    verb = "would remove" if done.is_dry_run else "removed"
    rows: list[tuple[Cell, ...]] = [
        ("revisions kept", done.revisions_kept),
        (
            f"revisions that {verb.split(maxsplit=1)[0]} go" if done.is_dry_run else "revisions removed",
            done.revisions_removed,
        ),
        ("objects kept", done.objects_kept),
        ("objects left for later, too young", done.objects_spared),
        ("stored bytes kept", size_text(done.bytes_kept)),
        ("unfinished files removed", done.staged_removed),
    ]
    said = f"{verb} {done.objects_removed} objects, {size_text(done.bytes_freed)}"
    parts: list[str | Table] = [said, Table(("", ""), rows)]
    if not done.objects_removed and retention.days > 0:
        parts.append(
            f"every revision of the last {retention.days:g} days is kept: --keep-days or --all-untagged says otherwise"
        )
    out.result(document, *parts)


@click.command()
@click.argument("name", metavar="REPO")
@click.option("--quick", is_flag=True, help="Only the current revision, and only whether its objects are there.")
@click.option("--no-content", is_flag=True, help="Only whether objects are there, not what is in them.")
@click.option("--resume", is_flag=True, help="Go on with a check that was interrupted.")
@click.option("--repair-from", metavar="URL", help="Fetch what is missing or damaged from this copy of the repository.")
@root_option
@click.pass_obj
def check(
    out: Output,
    root: Path | None,
    name: str,
    repair_from: str | None,
    *,
    quick: bool,
    no_content: bool,
    resume: bool,
) -> None:
    """Verify a whole repository, and repair it from a good copy.

    Signatures, whitelist, tags and reflog; every catalog of the current revision and of all tags; the presence and the
    digest of every object they need. Exit code 10 means that something is wrong.
    """
    from dataclasses import asdict

    from cdn.errors import CheckFailedError
    from stratum0.check import Check, Extent
    from stratum0.repair import Repairer

    with opened(out, root, name) as repository:
        repairer = Repairer(repository, repair_from) if repair_from else None
        extent = Extent(all_revisions=not quick, content=not (quick or no_content))
        with out.progress(f"Checking {name}") as progress:
            check_ = Check(repository, extent, resume=resume, repairer=repairer, progress=progress)
            summary = check_.run()
        with out.listing("findings", {"repository": name}) as listing:
            for finding in check_.findings():
                listing.add(finding.document, finding.line)
            outcome = "failed" if summary.findings else "succeeded"
            counts = f"{summary.revisions} revisions, {summary.catalogs} catalogs, {summary.objects} objects"
            said = f"checked {counts} ({size_text(summary.bytes)}): "
            said += f"{summary.findings} findings" if summary.findings else "no damage"
            said += f", {summary.repaired} repaired" if summary.repaired else ""
            listing.end({"outcome": outcome, "summary": asdict(summary)}, said)
        check_.close()
    if summary.findings:
        remedy = "" if repair_from else "; --repair-from URL fetches damaged objects from a good copy"
        raise CheckFailedError(f"{name} is damaged: {summary.findings} findings{remedy}")
