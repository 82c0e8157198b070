"""`cdn tag`, `cdn rollback`, `cdn diff`: revisions by name, going back, and comparing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdn.reporting import Output, Table, size_text
from stratum0.commands.opening import opened, peeked, repository_path, root_option

if TYPE_CHECKING:
    from cdn.catalog.diff import Change
    from cdn.history import Tag
    from cdn.reporting import Listing

_REVISION_HELP = "A revision is a tag's name, a number, `trunk` (the current one) or `trunk-previous`."


@click.group()
def tag() -> None:
    """Give revisions names, and list or remove the names."""


@tag.command("list")
@click.argument("name", metavar="REPO")
@click.option("--managed", is_flag=True, help="Also those that move by themselves.")
@root_option
@click.pass_obj
def list_(out: Output, root: Path | None, name: str, *, managed: bool) -> None:
    """List the tags, the newest revision first."""
    from stratum0.expiry import date_text
    from stratum0.revisions import MANAGED_TAGS, tags_of

    with peeked(out, root, name) as repository:
        tags = sorted(tags_of(repository.head()).tags, key=lambda each: (-each.revision, each.name))
        shown = [each for each in tags if managed or out.json or each.name not in MANAGED_TAGS]
        rows = [(each.name, each.revision, date_text(each.timestamp), each.description) for each in shown]
        table = Table(("tag", "revision", "published", "message"), rows)
        parts = [table] if rows else [f"{name} has no tags: `cdn tag add {name} TAG` names the current revision"]
        out.result({"repository": name, "tags": [_tag_document(each) for each in shown]}, *parts)


@tag.command()
@click.argument("name", metavar="REPO")
@click.argument("tag_name", metavar="TAG")
@click.argument("revision", default="trunk")
@click.option("--message", "-m", default="", help="What to say about it.")
@click.option("--move", is_flag=True, help="Take the name from another revision if it has it.")
@root_option
@click.pass_obj
def add(out: Output, root: Path | None, name: str, tag_name: str, revision: str, message: str, *, move: bool) -> None:
    """Give REVISION, by default the current one, the name TAG.

    A revision is a tag's name, a number, `trunk` or `trunk-previous`.
    """
    from stratum0.tags import add_tag

    with opened(out, root, name) as repository:
        added = add_tag(repository, tag_name, revision=revision, message=message, move=move)
        document = {"repository": name, **_tag_document(added)}
        out.result(document, f"{added.name} is now revision {added.revision} of {name}")


@tag.command()
@click.argument("name", metavar="REPO")
@click.argument("tag_names", metavar="TAG...", nargs=-1, required=True)
@root_option
@click.pass_obj
def rm(out: Output, root: Path | None, name: str, tag_names: tuple[str, ...]) -> None:
    """Remove tags; the revisions stay until garbage collection."""
    from stratum0.tags import remove_tags

    with opened(out, root, name) as repository:
        gone = remove_tags(repository, tag_names)
        lines = [f"removed {each.name} (revision {each.revision})" for each in gone]
        out.result({"repository": name, "removed": [_tag_document(each) for each in gone]}, *lines)


def _tag_document(each: Tag) -> dict[str, object]:
    return {
        "tag": each.name,
        "revision": each.revision,
        "root_catalog": each.root_catalog.text,
        "published": each.timestamp,
        "message": each.description,
        "branch": each.branch,
    }


@click.command()
@click.argument("name", metavar="REPO")
@click.option("--to", metavar="REVISION", default="trunk-previous", help="Where to.  [default: the one before]")
@root_option
@click.pass_obj
def rollback(out: Output, root: Path | None, name: str, to: str) -> None:
    """Publish an earlier revision again as the newest one.

    Tags of later revisions are removed. A revision is a tag's name, a number, or `trunk-previous`.
    """
    from stratum0.rollback import rollback as roll_back

    with opened(out, root, name) as repository:
        done = roll_back(repository, to)
        document = {
            "repository": name,
            "target": done.target.number,
            "before": done.before,
            "revision": done.number,
            "removed_tags": list(done.removed_tags),
        }
        said = [f"{name} is now at revision {done.number}, with the tree of {done.target.title}"]
        if done.removed_tags:
            said.append(f"removed the tags of later revisions: {', '.join(done.removed_tags)}")
        said.append(f"to undo it: `cdn rollback {name} --to {done.before}`, until garbage is collected")
        out.result(document, *said)


@click.command()
@click.argument("name", metavar="REPO")
@click.argument("before", default="trunk-previous")
@click.argument("after", default="trunk")
@click.option("--below", metavar="PATH", default="/", help="Only this path and what is below it.")
@click.option("--flat", is_flag=True, help="One whole path on each line instead of a tree.")
@click.option("--summary", is_flag=True, help="Only count.")
@root_option
@click.pass_obj
def diff(
    out: Output, root: Path | None, name: str, before: str, after: str, below: str, *, flat: bool, summary: bool
) -> None:
    """Show what changed from revision BEFORE to revision AFTER.

    Without them, what the current revision changed. A revision is a tag's name, a number, `trunk` or `trunk-previous`.
    Marks: + new, - removed, M other content, m other metadata.
    """
    from cdn.catalog.diff import diff as differences
    from stratum0.revisions import resolve

    with peeked(out, root, name) as repository:
        old, new = resolve(repository, before), resolve(repository, after)
        document = {
            "repository": name,
            "from": {"revision": old.number, "root_catalog": old.root.text, "published": old.timestamp},
            "to": {"revision": new.number, "root_catalog": new.root.text, "published": new.timestamp},
        }
        totals = _Totals()
        with out.listing("changes", document) as listing:
            shown = _Shown(listing, flat=flat)
            for change in differences(repository.catalogs, old.root, new.root, below=repository_path(below)):
                totals.add(change)
                if not summary:
                    shown.add(change)
            listing.end({"summary": totals.document}, totals.text(old.title, new.title))


_MARKS = {"added": "+", "removed": "-", "content": "M", "metadata": "m"}


class _Totals:
    """How much changed."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(_MARKS, 0)
        self.bytes_added = self.bytes_removed = 0

    def add(self, change: Change) -> None:
        self.counts[change.kind.value] += 1
        if change.kind.value == "metadata":
            return
        if change.after is not None and change.after.is_file:
            self.bytes_added += change.after.size
        if change.before is not None and change.before.is_file:
            self.bytes_removed += change.before.size

    @property
    def document(self) -> dict[str, int]:
        return {**self.counts, "bytes_added": self.bytes_added, "bytes_removed": self.bytes_removed}

    def text(self, old: str, new: str) -> str:
        if not any(self.counts.values()):
            return f"{old} and {new} have the same tree"
        counts = self.counts
        return (
            f"{counts['added']} new, {counts['removed']} removed, {counts['content']} with other content, "
            f"{counts['metadata']} with other metadata; {size_text(self.bytes_added)} of files came, "
            f"{size_text(self.bytes_removed)} went"
        )


class _Shown:
    """Changes as lines; in a tree, directories on the way are shown once, before what changed in them."""

    def __init__(self, listing: Listing, *, flat: bool) -> None:
        self._listing = listing
        self._flat = flat
        self._open: list[str] = []

    def add(self, change: Change) -> None:
        from stratum0.commands.entries import difference_text, entry_document

        document = {
            "path": change.path or "/",
            "kind": change.kind.value,
            "before": entry_document(change.before) if change.before is not None else None,
            "after": entry_document(change.after) if change.after is not None else None,
        }
        mark = _MARKS[change.kind.value]
        said = difference_text(change.before, change.after)
        text = self._flat_line(change, mark) if self._flat else self._tree_lines(change, mark)
        self._listing.add(document, f"{text}  {said}" if said else text)

    def _flat_line(self, change: Change, mark: str) -> str:
        return f"{mark} {change.path or '/'}{_slash(change)}"

    def _tree_lines(self, change: Change, mark: str) -> str:
        parts = change.path.split("/")[1:]
        above, name = parts[:-1], parts[-1] if parts else "/"
        common = 0
        while common < min(len(above), len(self._open)) and above[common] == self._open[common]:
            common += 1
        lines = [f"  {'  ' * depth}{above[depth]}/" for depth in range(common, len(above))]
        lines.append(f"{mark} {'  ' * len(above)}{name}{_slash(change) if parts else ''}")
        self._open = parts if (change.after or change.before).is_directory else above  # type: ignore[union-attr]
        return "\n".join(lines)


def _slash(change: Change) -> str:
    entry = change.after or change.before
    return "/" if entry is not None and entry.is_directory and change.path else ""
