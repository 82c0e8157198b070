"""`cdn publish` and `cdn ingest`: a folder or a tarball becomes a revision."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdn.reporting import Cell, Output, Table, duration_text, size_text
from stratum0.commands.opening import FILE, opened, repository_path, root_option

if TYPE_CHECKING:
    from stratum0.publish import PublishResult
    from stratum0.repository import Repository


@click.command()
@click.argument("name", metavar="REPO")
@click.argument("source", metavar="FOLDER", type=FILE)
@click.option(
    "--to", "to", metavar="PATH", default="/", show_default=True, help="The subtree that becomes equal to it."
)
@click.option("--tag", help="A name for the new revision.")
@click.option("--message", "-m", default="", help="What to say about it.")
@click.option("--dry-run", "-n", is_flag=True, help="Only show what would change.")
@click.option("--checksum", is_flag=True, help="Read every file, whatever its size and times say.")
@click.option("--workers", type=click.IntRange(0, 256), help="Processes to use.  [default: one for each core]")
@root_option
@click.pass_obj
def publish(out: Output, /, root: Path | None, name: str, source: Path, to: str, **options: Any) -> None:
    """Make a subtree equal to a folder and publish it.

    What is not in FOLDER is removed from the subtree. Files that look unchanged since the last time are not opened.
    """
    from stratum0.publish import publish_tree

    path = repository_path(to)
    with opened(out, root, name) as repository:
        if options["dry_run"]:
            _preview(out, repository, source, path, checksum=options["checksum"])
            return
        with out.progress(f"Publishing {source}") as progress:
            result = publish_tree(
                repository, source, path, options=_options(options), progress=progress, warn=out.warning
            )
        report(out, repository, result)


@click.command()
@click.argument("name", metavar="REPO")
@click.argument("tarball", metavar="TARBALL")
@click.option("--to", "to", metavar="PATH", default="/", show_default=True, help="The subtree it goes to.")
@click.option("--strip-components", type=click.IntRange(0, 1000), default=0, help="Leading parts of names to take off.")
@click.option("--tag", help="A name for the new revision.")
@click.option("--message", "-m", default="", help="What to say about it.")
@click.option("--workers", type=click.IntRange(0, 256), help="Processes to use.  [default: one for each core]")
@root_option
@click.pass_obj
def ingest(
    out: Output, /, root: Path | None, name: str, tarball: str, to: str, strip_components: int, **options: Any
) -> None:
    """Publish the content of a tarball: plain, gzip, xz or zstandard.

    It is read as a stream and never unpacked; - is standard input. What is in the subtree and not in the tarball stays.
    """
    from cdn.errors import DocumentError
    from stratum0.publish import ingest_tarball

    source: Any = sys.stdin.buffer if tarball == "-" else tarball
    called = "standard input" if tarball == "-" else tarball
    with opened(out, root, name) as repository:
        try:
            with out.progress(f"Ingesting {called}") as progress:
                result = ingest_tarball(
                    repository,
                    source,
                    repository_path(to),
                    strip_components=strip_components,
                    options=_options(options),
                    progress=progress,
                    warn=out.warning,
                )
        except DocumentError as error:
            if error.document != "tarball":
                raise
            raise DocumentError(f"tarball {called}", error.reason) from error
        report(out, repository, result)


def _options(options: dict[str, Any]) -> Any:
    from stratum0.publish import PublishOptions

    return PublishOptions(
        tag=options["tag"],
        message=options["message"],
        verify_content=options.get("checksum", False),
        workers=options["workers"],
    )


def report(out: Output, repository: Repository, result: PublishResult) -> None:
    """Says what publishing did."""
    revision, counts = result.revision, result.counts
    for text in revision.warnings if revision is not None else ():
        out.warning(text)
    document = {
        "repository": repository.name,
        "changed": revision is not None,
        "revision": revision.number if revision is not None else repository.head().revision,
        "root_catalog": revision.root.text if revision is not None else repository.head().root.text,
        "tags": list(revision.tags) if revision is not None else [],
        "catalogs_written": revision.catalogs_written if revision is not None else 0,
        "folders": counts.folders,
        "files": counts.files,
        "files_read": counts.files_read,
        "bytes_read": counts.bytes_read,
        "objects_new": counts.objects_new,
        "bytes_stored": counts.bytes_stored,
        "entries_put": counts.put,
        "entries_removed": counts.removed,
        "seconds": round(result.seconds, 3),
    }
    took = duration_text(result.seconds)
    if revision is None:
        out.result(document, f"nothing changed: {repository.name} stays at revision {document['revision']} ({took})")
        return
    rows: list[tuple[Cell, ...]] = [
        ("files seen", counts.files),
        ("files read", counts.files_read),
        ("bytes read", size_text(counts.bytes_read)),
        ("entries new or changed", counts.put),
        ("entries removed", counts.removed),
        ("objects new", counts.objects_new),
        ("bytes stored", size_text(counts.bytes_stored)),
        ("catalogs written", revision.catalogs_written),
        ("tags", ", ".join(revision.tags) or None),
        ("time", took),
    ]
    out.result(document, f"{repository.name} is now at revision {revision.number}", Table(("", ""), rows))


def _preview(out: Output, repository: Repository, source: Path, to: str, *, checksum: bool) -> None:
    from stratum0.preview import preview

    document = {"repository": repository.name, "dry_run": True}
    totals = {"added": 0, "changed": 0, "removed": 0}
    marks = {"added": "+", "changed": "M", "removed": "-"}
    with ExitStack() as opened_:
        with out.progress(f"Comparing {source}") as progress:
            found = opened_.enter_context(
                preview(repository, source, to, verify_content=checksum, progress=progress, warn=out.warning)
            )
        listing = opened_.enter_context(out.listing("changes", document))
        for change in found:
            totals[change.kind] += 1
            path = change.path or "/"
            listing.add({"path": path, "kind": change.kind}, f"{marks[change.kind]} {path}")
        said = f"would add {totals['added']}, change {totals['changed']}, remove {totals['removed']}"
        listing.end(totals, f"{said}; nothing was published")
