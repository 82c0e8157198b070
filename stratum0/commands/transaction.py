"""`cdn transaction`: changes staged one by one, committed as one revision."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdn.reporting import Output, Table, size_text
from stratum0.commands.opening import Function, opened, repository_path, root_option

if TYPE_CHECKING:
    from cdn.catalog.entries import Entry
    from stratum0.changes import Change
    from stratum0.repository import Repository
    from stratum0.transaction import Transaction

_REPOSITORY = click.argument("name", metavar="REPO")


def id_option(function: Function) -> Function:
    """Adds ``--id``."""
    return click.option(
        "--id",
        "transaction_id",
        envvar="CDN_TRANSACTION",
        show_envvar=True,
        help="Which transaction; not needed where there is only one.",
    )(function)


@click.group()
def transaction() -> None:
    """Stage changes step by step, then commit them as one revision.

    A transaction survives restarts of the machine. It holds a lease on its subtree, so that nobody else changes that;
    an expired lease is taken up again by the next command, unless somebody else has taken the subtree.
    """


@transaction.command()
@_REPOSITORY
@click.argument("subtree", metavar="[PATH]", default="/")
@click.option(
    "--lease", "lease_seconds", type=click.FloatRange(1, 30 * 86_400), help="Seconds until the lease expires."
)
@click.option("--holder", help="Who is changing it, for messages to others.")
@root_option
@click.pass_obj
def begin(
    out: Output, root: Path | None, name: str, subtree: str, lease_seconds: float | None, holder: str | None
) -> None:
    """Begin a transaction on the subtree at PATH, by default on everything."""
    with opened(out, root, name) as repository:
        began = repository.transaction(repository_path(subtree), lease_seconds=lease_seconds, holder=holder)
        try:
            document = {
                "repository": name,
                "id": began.id,
                "subtree": began.subtree or "/",
                "base_revision": began.record.base_revision,
                "lease_expires": began.lease.expires,
            }
            out.result(document, began.id)
            out.note(f"began on {began.subtree or '/'}: stage changes, then `cdn transaction commit {name}`")
        finally:
            began.close()


@transaction.command()
@_REPOSITORY
@click.argument("source", type=click.Path(allow_dash=True))
@click.argument("path")
@click.option("--mode", metavar="OCTAL", help="Permission bits.  [default: those of the source]")
@click.option("--parents", "-p", is_flag=True, help="Make missing directories above.")
@click.option("--recursive", "-r", is_flag=True, help="SOURCE is a directory: put everything in it.")
@id_option
@root_option
@click.pass_obj
def put(
    out: Output,
    root: Path | None,
    name: str,
    transaction_id: str | None,
    source: str,
    path: str,
    mode: str | None,
    *,
    parents: bool,
    recursive: bool,
) -> None:
    """Put the file SOURCE at PATH; - is standard input.

    A PATH that ends with / is a directory the file goes into under its own name.
    """
    from cdn.errors import UsageError

    target = repository_path(path)
    if path.endswith("/") and source != "-":
        target = f"{target}/{os.path.basename(os.path.normpath(source))}"
    bits = _mode(mode)
    with _editing(out, root, name, transaction_id) as staged, staged.batch():
        if source == "-":
            count = 1
            staged.put_file(target, sys.stdin.buffer, mode=bits, parents=parents)
        elif os.path.isdir(source) and not os.path.islink(source):
            if not recursive:
                raise UsageError(f"{source} is a directory: say --recursive to put everything in it")
            count = sum(1 for _ in _put_tree(staged, source, target, parents=parents))
        else:
            _put_one(staged, source, target, bits, parents=parents)
            count = 1
        out.result({"id": staged.id, "path": target or "/", "entries": count}, f"staged {target or '/'}")


def _put_tree(staged: Transaction, source: str, target: str, *, parents: bool) -> Iterator[str]:
    if target:
        staged.mkdir(target, mode=stat.S_IMODE(os.stat(source).st_mode), parents=True) if parents or staged.find(
            target
        ) is not None else staged.mkdir(target, mode=stat.S_IMODE(os.stat(source).st_mode))
        yield target
    with os.scandir(source) as entries:
        ordered = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    for entry in ordered:
        path = f"{target}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _put_tree(staged, entry.path, path, parents=parents)
        else:
            _put_one(staged, entry.path, path, None, parents=parents)
            yield path


def _put_one(staged: Transaction, source: str, path: str, mode: int | None, *, parents: bool) -> None:
    from cdn.errors import UsageError

    try:
        status = os.lstat(source)
        if stat.S_ISLNK(status.st_mode):
            staged.symlink(path, os.readlink(source), parents=parents)
        elif stat.S_ISREG(status.st_mode):
            staged.put_file(path, source, mode=mode, parents=parents)
        else:
            raise UsageError(f"{source} is neither a file, a directory nor a symbolic link")
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}") from error


@transaction.command()
@_REPOSITORY
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--recursive", "-r", is_flag=True, help="Directories and everything below them.")
@id_option
@root_option
@click.pass_obj
def rm(
    out: Output, root: Path | None, name: str, transaction_id: str | None, paths: tuple[str, ...], *, recursive: bool
) -> None:
    """Remove paths."""
    with _editing(out, root, name, transaction_id) as staged, staged.batch():
        targets = [repository_path(path) for path in paths]
        for target in targets:
            staged.remove(target, recursive=recursive)
        out.result({"id": staged.id, "removed": targets}, *(f"removed {target}" for target in targets))


@transaction.command()
@_REPOSITORY
@click.argument("source")
@click.argument("destination")
@id_option
@root_option
@click.pass_obj
def mv(out: Output, root: Path | None, name: str, transaction_id: str | None, source: str, destination: str) -> None:
    """Give a path, and everything below it, another name.

    If DESTINATION is a directory, SOURCE goes into it.
    """
    with _editing(out, root, name, transaction_id) as staged, staged.batch():
        before, after = repository_path(source), repository_path(destination)
        there = staged.find(after)
        if there is not None and there.is_directory:
            after = f"{after}/{before.rpartition('/')[2]}"
        staged.move(before, after)
        out.result({"id": staged.id, "from": before, "to": after}, f"moved {before} to {after}")


@transaction.command()
@_REPOSITORY
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--mode", metavar="OCTAL", default="755", show_default=True, help="Permission bits.")
@click.option("--parents", "-p", is_flag=True, help="Make missing directories above; one that is there is no error.")
@id_option
@root_option
@click.pass_obj
def mkdir(
    out: Output,
    root: Path | None,
    name: str,
    transaction_id: str | None,
    paths: tuple[str, ...],
    mode: str,
    *,
    parents: bool,
) -> None:
    """Make directories."""
    bits = _mode(mode)
    assert bits is not None
    with _editing(out, root, name, transaction_id) as staged, staged.batch():
        targets = [repository_path(path) for path in paths]
        for target in targets:
            staged.mkdir(target, mode=bits, parents=parents)
        out.result({"id": staged.id, "made": targets}, *(f"made {target}" for target in targets))


@transaction.command()
@_REPOSITORY
@click.argument("mode", metavar="OCTAL")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@id_option
@root_option
@click.pass_obj
def chmod(
    out: Output, root: Path | None, name: str, transaction_id: str | None, mode: str, paths: tuple[str, ...]
) -> None:
    """Change permission bits."""
    bits = _mode(mode)
    assert bits is not None
    with _editing(out, root, name, transaction_id) as staged, staged.batch():
        targets = [repository_path(path) for path in paths]
        for target in targets:
            staged.chmod(target, bits)
        out.result({"id": staged.id, "changed": targets, "mode": f"{bits:o}"}, *targets)


@transaction.command()
@_REPOSITORY
@click.argument("target")
@click.argument("path")
@click.option("--parents", "-p", is_flag=True, help="Make missing directories above.")
@id_option
@root_option
@click.pass_obj
def symlink(
    out: Output, root: Path | None, name: str, transaction_id: str | None, target: str, path: str, *, parents: bool
) -> None:
    """Make a symbolic link at PATH that leads to TARGET."""
    with _editing(out, root, name, transaction_id) as staged, staged.batch():
        where = repository_path(path)
        staged.symlink(where, target, parents=parents)
        out.result({"id": staged.id, "path": where, "target": target}, f"linked {where} to {target}")


@transaction.command("list")
@_REPOSITORY
@root_option
@click.pass_obj
def list_(out: Output, root: Path | None, name: str) -> None:
    """List the transactions that are not finished."""
    from stratum0.expiry import date_text
    from stratum0.transaction import records

    with opened(out, root, name) as repository:
        leases = _leases(repository)
        items, rows = [], []
        for record in records(repository):
            expires = leases.get(record.lease)
            items.append({**_record_document(record), "lease_expires": expires})
            lease = date_text(expires) if expires else "expired"
            began = date_text(record.began)
            rows.append((record.id, record.state.value, record.subtree or "/", record.holder, began, lease))
        columns = ("transaction", "state", "subtree", "holder", "began", "lease until")
        parts = [Table(columns, rows)] if rows else [f"{name} has no open transaction"]
        out.result({"repository": name, "transactions": items}, *parts)


@transaction.command()
@_REPOSITORY
@id_option
@root_option
@click.pass_obj
def status(out: Output, root: Path | None, name: str, transaction_id: str | None) -> None:
    """Show where a transaction stands and how much it changes."""
    from stratum0.expiry import date_text

    with _editing(out, root, name, transaction_id) as staged:
        counts = {"put": 0, "clear": 0, "remove": 0}
        for change in staged.changes():
            counts[change.kind.value] += 1
        head = staged.repository.head()
        document = {
            **_record_document(staged.record),
            "lease_expires": staged.lease.expires,
            "current_revision": head.revision,
            "changes": counts,
        }
        rows = [
            ("transaction", staged.id),
            ("subtree", staged.subtree or "/"),
            ("holder", staged.record.holder),
            ("began", date_text(staged.record.began)),
            ("lease until", date_text(staged.lease.expires)),
            ("based on revision", str(staged.record.base_revision)),
            ("current revision", str(head.revision)),
            ("paths put", str(counts["put"] + counts["clear"])),
            ("paths removed", str(counts["remove"])),
        ]
        out.result(document, Table(("", ""), rows))


@transaction.command()
@_REPOSITORY
@id_option
@root_option
@click.pass_obj
def diff(out: Output, root: Path | None, name: str, transaction_id: str | None) -> None:
    """Show what a transaction changes."""
    with _editing(out, root, name, transaction_id) as staged, out.listing("changes", {"id": staged.id}) as listing:
        for change in staged.changes():
            before = staged.base_tree.find(change.path)
            listing.add(_change_document(change, before), _change_line(change, before))


@transaction.command()
@_REPOSITORY
@click.option("--tag", help="A name for the new revision.")
@click.option("--message", "-m", default="", help="What to say about it.")
@id_option
@root_option
@click.pass_obj
def commit(
    out: Output, root: Path | None, name: str, transaction_id: str | None, tag: str | None, message: str
) -> None:
    """Publish what was staged as one revision."""
    from stratum0.expiry import require_publishable

    with _editing(out, root, name, transaction_id) as staged:
        repository = staged.repository
        require_publishable(repository)
        with out.progress(f"Committing {staged.id}") as progress:
            revision = staged.commit(tag=tag, message=message, progress=progress)
        if revision is None:
            number = repository.head().revision
            document: dict[str, object] = {"repository": name, "id": staged.id, "changed": False, "revision": number}
            out.result(document, f"nothing changed: {name} stays at revision {number}")
            return
        for text in revision.warnings:
            out.warning(text)
        document = {
            "repository": name,
            "id": staged.id,
            "changed": True,
            "revision": revision.number,
            "root_catalog": revision.root.text,
            "tags": list(revision.tags),
            "catalogs_written": revision.catalogs_written,
        }
        out.result(document, f"{name} is now at revision {revision.number}")


@transaction.command()
@_REPOSITORY
@id_option
@root_option
@click.pass_obj
def abort(out: Output, root: Path | None, name: str, transaction_id: str | None) -> None:
    """Forget a transaction and everything it staged."""
    with _editing(out, root, name, transaction_id) as staged:
        staged.abort()
        out.result({"repository": name, "id": staged.id, "aborted": True}, f"aborted {staged.id}")


# --------------------------------------------------------------------------------------------------------------- shared


@contextmanager
def _editing(out: Output, root: Path | None, name: str, transaction_id: str | None) -> Iterator[Transaction]:
    """Opens a transaction for one command and lets go of it afterwards, whatever happened."""
    from stratum0.transaction import Transaction

    with opened(out, root, name) as repository:
        staged = Transaction.open(repository, transaction_id or _only_one(repository))
        try:
            yield staged
        finally:
            staged.close()


def _only_one(repository: Repository) -> str:
    from cdn.errors import RepositoryError
    from stratum0.transaction import records

    staged = [record.id for record in records(repository) if not record.is_ephemeral]
    if len(staged) == 1:
        return staged[0]
    name = repository.name
    if not staged:
        raise RepositoryError(f"{name} has no open transaction: `cdn transaction begin {name}` begins one")
    raise RepositoryError(f"{name} has {len(staged)} open transactions: say which with --id ({', '.join(staged[:5])})")


def _leases(repository: Repository) -> dict[str, float]:
    with repository.state.reading() as connection:
        now = repository.clock.now()
        return dict(connection.execute("SELECT token, expires FROM leases WHERE expires > ?", (now,)))


def _mode(text: str | None) -> int | None:
    from cdn.errors import UsageError

    if text is None:
        return None
    try:
        bits = int(text, 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o7777:
        raise UsageError(f"{text!r} is no mode: write permission bits in octal, such as 755")
    return bits


def _record_document(record: Any) -> dict[str, object]:
    return {
        "id": record.id,
        "state": record.state.value,
        "subtree": record.subtree or "/",
        "holder": record.holder,
        "began": record.began,
        "base_revision": record.base_revision,
    }


def _change_document(change: Change, before: Entry | None) -> dict[str, object]:
    from stratum0.commands.entries import entry_document

    return {
        "path": change.path or "/",
        "kind": _kind(change, before),
        "before": entry_document(before) if before is not None else None,
        "after": entry_document(change.entry) if change.entry is not None else None,
    }


def _change_line(change: Change, before: Entry | None) -> str:
    mark = {"added": "+", "removed": "-"}.get(_kind(change, before), "M")
    size = f"  {size_text(change.entry.size)}" if change.entry is not None and change.entry.is_file else ""
    return f"{mark} {change.path or '/'}{size}"


def _kind(change: Change, before: Entry | None) -> str:
    if change.entry is None:
        return "removed"
    return "added" if before is None else "changed"
