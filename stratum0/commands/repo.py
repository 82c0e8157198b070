"""`cdn repo`: making repositories, looking at them, settling things, removing them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdn.reporting import Cell, Output, Table, size_text
from stratum0.commands.keys import keys
from stratum0.commands.opening import FILE, home_at, opened, peeked, root_option, warn

if TYPE_CHECKING:
    from cdn.catalog.schema import Counters
    from stratum0.repository import Repository


@click.group()
def repo() -> None:
    """Create repositories, look after their keys, list what there is."""


repo.add_command(keys)


@repo.command()
@click.argument("name", metavar="FQRN")
@click.option(
    "--hash",
    "algorithm",
    type=click.Choice(["shake128", "sha1", "rmd160"]),
    default="shake128",
    show_default=True,
    help="The hash of all objects; cannot be changed later.",
)
@click.option(
    "--compression",
    type=click.Choice(["zlib", "none"]),
    default="zlib",
    show_default=True,
    help="How files are stored.",
)
@click.option("--ttl", type=int, default=240, show_default=True, help="Seconds until clients look for a new revision.")
@click.option("--owner", metavar="UID:GID|USER", help="Who owns the files here and the root directory.  [default: you]")
@click.option("--storage", type=FILE, help="The folder to serve it from.  [default: ROOT/srv/FQRN]")
@click.option("--no-gc", is_flag=True, help="Keep every revision for ever, here and on replicas.")
@click.option("--no-auto-tag", is_flag=True, help="Give revisions no tags of their own.")
@click.option("--xattrs", is_flag=True, help="Publish extended attributes.")
@click.option("--masterkey", "master_key", type=FILE, help="Use this private master key instead of a new one.")
@click.option("--master-pub", type=FILE, help="The master key is elsewhere; this is its public half.")
@click.option("--description", default="", help="What the repository holds, for people.")
@click.option("--administrator", default="", help="Who runs it.")
@click.option("--email", default="", help="Where to write to.")
@root_option
@click.pass_obj
def create(out: Output, /, root: Path | None, name: str, **options: Any) -> None:
    """Make a new repository with its keys and an empty first revision.

    FQRN is its fully qualified name, such as sw.example.org: at most 60 letters, digits, '-', '_' and dots.
    """
    from stratum0.creation import MasterKeys, create

    home = home_at(root)
    storage = options["storage"]
    settings = _settings_of(name, storage or home.storage_of(name), options)
    master = MasterKeys.from_files(private=options["master_key"], public=options["master_pub"])
    from cdn.metainfo import Metainfo

    about = Metainfo(options["administrator"], options["email"], description=options["description"])
    with create(name, home, settings=settings, storage=storage, master=master, metainfo=about) as repository:
        document = {
            "repository": name,
            "revision": 1,
            "storage": str(repository.settings.storage),
            "public_key_file": str(repository.keys.public_key_file),
            "master_key_file": str(repository.keys.master_key_file) if master.private else None,
        }
        out.result(document, f"created {name}, served from {repository.settings.storage}", *_next_steps(repository))


def _settings_of(name: str, storage: Path, options: dict[str, Any]) -> Any:
    from cdn.errors import UsageError
    from stratum0.config import TTL_SECONDS_MAX, TTL_SECONDS_MIN, RepositorySettings, checked_name, owner_from_option

    checked_name(name)
    if not TTL_SECONDS_MIN <= options["ttl"] <= TTL_SECONDS_MAX:
        raise UsageError(
            f"a TTL of {options['ttl']} s cannot be: it must be from {TTL_SECONDS_MIN} to {TTL_SECONDS_MAX} seconds"
        )
    return RepositorySettings(
        name,
        storage,
        hash=options["algorithm"],
        compress=options["compression"],
        ttl_seconds=options["ttl"],
        owner=owner_from_option(options["owner"]) if options["owner"] else None,
        garbage_collectable=not options["no_gc"],
        auto_tag=not options["no_auto_tag"],
        include_xattrs=options["xattrs"],
    )


def _next_steps(repository: Repository) -> list[str]:
    name, keys_ = repository.name, repository.keys
    commands = {
        f"cdn publish {name} FOLDER": "makes it equal to a folder",
        "cdn serve": "serves it over HTTP",
    }
    advice = [f"give {keys_.public_key_file} to every client and replica"]
    if keys_.has_master_key:
        advice.append(f"keep a copy of {keys_.master_key_file} in a safe place: whoever has it can sign for {name}")
    else:
        commands = {f"cdn repo keys export {name} FILE": "then sign FILE elsewhere and import it"} | commands
    width = max(map(len, commands))
    return [
        "next:",
        *(f"  {command.ljust(width)}   {what}" for command, what in commands.items()),
        *(f"  {each}" for each in advice),
    ]


@repo.command("list")
@root_option
@click.pass_obj
def list_(out: Output, root: Path | None) -> None:
    """List the repositories of this machine."""
    from cdn.errors import CdnError
    from stratum0.expiry import date_text
    from stratum0.repository import Repository

    home = home_at(root)
    rows: list[tuple[Cell, ...]] = []
    items: list[dict[str, object]] = []
    for name in home.names():
        try:
            repository = Repository.peek(name, home)
            head, whitelist = repository.head(), repository.whitelist()
        except CdnError as error:
            out.warning(f"{name}: {error}")
            rows.append((name, None, None, "cannot be read"))
            items.append({"repository": name, "error": str(error)})
            continue
        warn(out, repository)
        expires = date_text(whitelist.expires_at) if whitelist else "no whitelist yet"
        rows.append((name, head.revision, date_text(head.manifest.timestamp), expires))
        items.append(
            {
                "repository": name,
                "revision": head.revision,
                "published": head.manifest.timestamp,
                "whitelist_expires": whitelist.expires_at if whitelist else None,
                "storage": str(repository.settings.storage),
            }
        )
    table = Table(("repository", "revision", "published", "whitelist expires"), rows)
    parts = [table] if rows else [f"there is no repository in {home.root}: `cdn repo create FQRN` makes one"]
    out.result({"root": str(home.root), "repositories": items}, *parts)


@repo.command()
@click.argument("name", metavar="REPO")
@click.option("--sizes", is_flag=True, help="Also add up what is stored, which looks at every object.")
@root_option
@click.pass_obj
def info(out: Output, root: Path | None, name: str, *, sizes: bool) -> None:
    """Show all about a repository."""
    with peeked(out, root, name) as repository:
        document = _information(repository, sizes=sizes)
        counters: dict[str, int] = document["counters"]
        rows = [(key.replace("_", " "), _shown(key, value)) for key, value in document.items() if _is_plain(value)]
        rows += [(key.replace("_", " "), _shown(key, value)) for key, value in counters.items()]
        parts = [Table(("", ""), rows)]
        if document["transactions"]:
            columns = ("transaction", "state", "subtree", "holder")
            cells = [(each["id"], each["state"], each["subtree"], each["holder"]) for each in document["transactions"]]
            parts.append(Table(columns, cells))
        out.result(document, *parts)


def _information(repository: Repository, *, sizes: bool) -> dict[str, Any]:
    from stratum0.expiry import expiries
    from stratum0.information import read_status
    from stratum0.revisions import tags_of
    from stratum0.transaction import records

    head, settings = repository.head(), repository.settings
    with repository.catalogs.load(head.root, size=head.root_size) as catalog:
        counters = catalog.total_counters
    document: dict[str, Any] = {
        "repository": repository.name,
        "revision": head.revision,
        "root_catalog": head.root.text,
        "published": head.manifest.timestamp,
        "ttl_seconds": head.manifest.ttl_seconds,
        "hash": settings.hash,
        "compression": settings.compress,
        "garbage_collectable": head.manifest.garbage_collectable,
        "storage": str(settings.storage),
        "public_key_file": str(repository.keys.public_key_file),
        "tags": len(tags_of(head).tags),
        "counters": _counters(counters),
        "expires": {expiry.thing: expiry.at for expiry in expiries(repository)},
        "status": read_status(repository),
        "transactions": [_transaction(record) for record in records(repository)],
    }
    document |= {f"{thing}_expires": at for thing, at in document["expires"].items()}
    if sizes:
        stored = [each.size for each in repository.store.list("data/")]
        document |= {"stored_objects": len(stored), "stored_bytes": sum(stored)}
    return document


def _counters(counters: Counters) -> dict[str, int]:
    return {
        "files": counters.regular,
        "directories": counters.dir,
        "symlinks": counters.symlink,
        "special_files": counters.special,
        "chunked_files": counters.chunked,
        "content_bytes": counters.file_size,
        "catalogs": counters.nested + 1,
    }


def _transaction(record: Any) -> dict[str, Any]:
    return {
        "id": record.id,
        "state": record.state.value,
        "subtree": record.subtree or "/",
        "holder": record.holder,
        "began": record.began,
        "base_revision": record.base_revision,
    }


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float)


def _shown(key: str, value: Any) -> str:
    from stratum0.expiry import date_text

    if key == "published" or key.endswith("_expires"):
        return date_text(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return size_text(value) if key.endswith("_bytes") else str(value)


@repo.command()
@click.argument("name", metavar="REPO")
@click.argument("assignments", metavar="[KEY=VALUE]...", nargs=-1)
@root_option
@click.pass_obj
def settings(out: Output, root: Path | None, name: str, assignments: tuple[str, ...]) -> None:
    """Show the settings of a repository, or change some of them.

    What concerns the published tree, such as ttl_seconds, takes effect with the next revision.
    """
    from dataclasses import asdict

    from cdn.errors import UsageError
    from stratum0.config import changed

    changes = dict(each.partition("=")[::2] for each in assignments)
    if any("=" not in each for each in assignments):
        raise UsageError("write settings as KEY=VALUE, such as ttl_seconds=600")
    if not changes:
        with peeked(out, root, name) as repository:
            current = {
                key: str(value) if isinstance(value, Path) else value
                for key, value in asdict(repository.settings).items()
            }
            out.result(current, Table(("setting", "value"), [(key, _setting(value)) for key, value in current.items()]))
        return
    with opened(out, root, name) as repository:
        new = changed(repository.settings, changes)
        new.save(repository.folder)
        if new.garbage_collectable != repository.settings.garbage_collectable:
            _republish(repository)
        out.result({"repository": name, "changed": changes}, f"changed {', '.join(changes)} of {name}")


def _republish(repository: Repository) -> None:
    """Signs the manifest with the new settings."""
    from stratum0.documents import republish
    from stratum0.repository import Repository

    with Repository.peek(repository.name, repository.home) as changed, changed.publishing():
        republish(changed)


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


@repo.command()
@click.argument("name", metavar="REPO")
@click.option("--administrator", help="Who runs it.")
@click.option("--email", help="Where to write to.")
@click.option("--organisation", help="Who stands behind it.")
@click.option("--description", help="What it holds.")
@click.option("--url", help="Where to read more.")
@click.option("--stratum0", "recommended_stratum0", help="URL of the publisher.")
@click.option("--stratum1", "recommended_stratum1s", multiple=True, help="URL of a replica; several times for several.")
@root_option
@click.pass_obj
def describe(out: Output, /, root: Path | None, name: str, **values: Any) -> None:
    """Show or change what a repository says about itself to people."""
    import json
    from dataclasses import replace

    from cdn.metainfo import METAINFO_BYTES_MAX, Metainfo
    from cdn.objects import Kind, ObjectName
    from stratum0.documents import republish

    with opened(out, root, name) as repository:
        stored = repository.head().manifest.metainfo
        current = Metainfo()
        if stored is not None:
            data = repository.read_object(ObjectName(stored, Kind.METAINFO), size_max=METAINFO_BYTES_MAX)
            current = Metainfo.from_object(data)
        given = {key: value for key, value in values.items() if value not in {None, ()}}
        if given:
            current = replace(current, **given)
            with repository.publishing():
                republish(repository, metainfo=current)
        document = json.loads(current.to_bytes())
        rows = [
            (key, ", ".join(value) if isinstance(value, list) else str(value or "")) for key, value in document.items()
        ]
        out.result(document, Table(("", ""), rows))


@repo.command()
@click.argument("names", metavar="[REPO]...", nargs=-1)
@root_option
@click.pass_obj
def metrics(out: Output, root: Path | None, names: tuple[str, ...]) -> None:
    """Print revisions and expiries in the text format of Prometheus."""
    from stratum0.metrics import gauges, gauges_of, text_of
    from stratum0.repository import Repository

    home = home_at(root)
    found = [gauge for name in names for gauge in gauges(Repository.peek(name, home))] if names else gauges_of(home)
    items = [{"name": gauge.name, "repository": gauge.repository, "value": gauge.value} for gauge in found]
    out.result({"metrics": items}, *text_of(found).splitlines())


@repo.command()
@click.argument("name", metavar="REPO")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--keep-storage", is_flag=True, help="Leave what is served where it is.")
@root_option
@click.pass_obj
def remove(out: Output, root: Path | None, name: str, *, yes: bool, keep_storage: bool) -> None:
    """Remove a repository with its keys and everything it serves."""
    import sys

    from cdn.errors import UsageError
    from stratum0.removal import remove as remove_repository
    from stratum0.repository import Repository

    repository = Repository.peek(name, home_at(root))
    if not yes:
        if out.json or not sys.stdin.isatty():
            raise UsageError(f"removing {name} cannot be undone: say --yes if that is meant")
        lost = "its keys" if keep_storage else f"its keys and everything in {repository.settings.storage}"
        click.confirm(f"This removes {name}, {lost}, for good. Go on?", abort=True, err=True)
    remove_repository(repository, keep_storage=keep_storage)
    out.result({"repository": name, "removed": True}, f"removed {name}")
