"""The commands that read a repository: ls, cat, stat, find, cp, tree.

All of them take addresses (see `cdn.client.addresses`) and open them the same way; nothing is shown that was not
verified.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from cdn.cli.drawing import draw
from cdn.reporting import Listing, Output, Table, size_text

if TYPE_CHECKING:
    from cdn.catalog.entries import Entry
    from cdn.client.addresses import Address
    from cdn.client.filesystem import FileSystem
    from cdn.client.finding import Filter
    from cdn.client.repository import MountedRepository
    from cdn.hashing import Digest

_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS: Final = (
    click.option(
        "--server",
        "servers",
        multiple=True,
        envvar="CDN_SERVERS",
        metavar="URL",
        help="A server of the repository; repeatable, or several with ';'.  [env: CDN_SERVERS]",
    ),
    click.option("--proxy", "proxies", default="", envvar="CDN_PROXIES", metavar="LIST", help="'p1|p2;p3;DIRECT'."),
    click.option(
        "--key",
        "keys",
        multiple=True,
        envvar="CDN_KEYS",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="A master public key, or a folder of them; repeatable.  [env: CDN_KEYS]",
    ),
    click.option(
        "--external-url",
        "external_urls",
        multiple=True,
        envvar="CDN_EXTERNAL_URLS",
        metavar="URL",
        help="Where the content of external files lies; as --server.  [env: CDN_EXTERNAL_URLS]",
    ),
    click.option("--repository", "fqrn", metavar="NAME", help="Its name, where a URL does not tell it."),
    click.option("--tag", metavar="TAG", help="Read the revision with this tag."),
    click.option("--revision", type=click.IntRange(min=0), metavar="N", help="Read the revision of this number."),
    click.option("--at", metavar="TIME", help="Read what was published at this time, such as 2026-01-31T12:00:00Z."),
    click.option("--root-catalog", metavar="DIGEST", help="Read the revision with this root catalog."),
    click.option(
        "--root",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="CDN_ROOT",
        metavar="FOLDER",
        help="Where repositories of this machine lie.",
    ),
    click.option(
        "--cache",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="CDN_CACHE",
        metavar="FOLDER",
        help="Where to keep what was read.  [default: ~/.cache/stratocast]",
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        envvar="CDN_CLIENT_CONFIG",
        metavar="FILE",
        help="Configuration.  [default: ~/.config/stratocast/client.toml]",
    ),
)


def _opening_options(command: _Command) -> _Command:
    """Adds the options that say which repository is meant and how it is reached."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


# ------------------------------------------------------------------------------------------------------------ commands


@click.command()
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@click.option("-l", "--long", "is_long", is_flag=True, help="Modes, owners, sizes, times and link targets.")
@click.option("-a", "--all", "shows_all", is_flag=True, help="Also names that begin with a dot.")
@click.option("-d", "--directory", "itself", is_flag=True, help="Directories themselves, not what is in them.")
@click.option("-H", "--human", is_flag=True, help="Sizes with units.")
@_opening_options
@click.pass_obj
def ls(
    out: Output, /, *, addresses: tuple[str, ...], is_long: bool, shows_all: bool, itself: bool, human: bool, **how: Any
) -> None:
    """List a directory of a repository.

    ADDRESS is NAME:/path, http://host/cvmfs/NAME/path, or URL:/path.
    """

    async def work(opened: _Opened) -> None:
        from cdn.client.describing import entry_document, long_line

        with out.listing("entries") as listing:
            for number, (address, files) in enumerate(opened.each):
                found = await files.resolve(address.path, follow=not (is_long and not address.path.endswith("/")))
                is_listed = found.entry.is_directory and not itself

                def show(path: str, entry: Entry, name: str, files: FileSystem = files) -> None:
                    target = files.target_of(entry) if entry.is_symlink else ""
                    line = long_line(entry, name, target, human=human) if is_long else name
                    listing.add(entry_document(path, entry, target), line)

                if not is_listed:
                    show(found.path, found.entry, address.path)
                    continue
                if len(addresses) > 1 and not out.json:
                    listing.add({}, f"{'' if not number else chr(10)}{addresses[number]}:")
                async for entry in files.listdir(found.path):
                    if shows_all or not entry.name.startswith("."):
                        show(f"{found.path}/{entry.name}", entry, entry.name)

    _run(out, addresses, how, work)


@click.command()
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@_opening_options
@click.pass_obj
def cat(out: Output, /, *, addresses: tuple[str, ...], **how: Any) -> None:
    """Write the content of files to standard output.

    Each piece is verified before it is written.
    """

    async def work(opened: _Opened) -> None:
        stream = sys.stdout.buffer
        for address, files in opened.each:
            async for piece in files.pieces(address.path):
                stream.write(piece)
        stream.flush()

    _run(out, addresses, how, work)


@click.command()
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@click.option("-L", "--dereference", "follow", is_flag=True, help="What a symlink leads to, not the link itself.")
@_opening_options
@click.pass_obj
def stat(out: Output, /, *, addresses: tuple[str, ...], follow: bool, **how: Any) -> None:
    """Show everything known about a path."""

    async def work(opened: _Opened) -> None:
        from cdn.client.describing import full_document, time_text

        documents = []
        for address, files in opened.each:
            found = await files.resolve(address.path, follow=follow or address.path in ("", "/"))
            target = files.target_of(found.entry) if found.entry.is_symlink else ""
            mount = await files.tree.mount_of(found.path)
            document = full_document(found.path, found.entry, target)
            document |= {
                "repository": address.fqrn,
                "revision": files.revision,
                "catalog": {"path": mount.path or "/", "digest": mount.digest.text},
            }
            documents.append(document)
        tables = []
        for document in documents:
            shown = {**document, "mtime": f"{document['mtime']} ({time_text(int(str(document['mtime'])))} UTC)"}
            rows = [
                (key.replace("_", " "), _value_text(value))
                for key, value in shown.items()
                if value not in (None, "", [], {})
            ]
            tables.append(Table(("field", "value"), rows))
        out.result({"paths": documents}, *tables)

    _run(out, addresses, how, work)


@click.command()
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@click.option("--name", "-name", metavar="GLOB", help="The last component matches.")
@click.option("--iname", "-iname", metavar="GLOB", help="The same without regard to case.")
@click.option("--path", "-path", "path_glob", metavar="GLOB", help="The whole path matches.")
@click.option("--type", "-type", "types", metavar="LETTERS", help="f, d, l, p, s, c or b; several with commas.")
@click.option("--size", "-size", "sizes", multiple=True, metavar="[+-]SIZE", help="+10MiB is more, -4096 less.")
@click.option("--newer", metavar="TIME", help="Modified after this time.")
@click.option("--older", metavar="TIME", help="Modified before this time.")
@click.option("--max-depth", "-maxdepth", "depth_max", type=click.IntRange(min=0), help="At most so many levels down.")
@click.option("--min-depth", "-mindepth", "depth_min", type=click.IntRange(min=0), default=0, help="At least so many.")
@click.option("-l", "--long", "is_long", is_flag=True, help="As `cdn ls -l`.")
@click.option("-0", "--print0", "-print0", "ends_with_nul", is_flag=True, help="End each path with a NUL.")
@_opening_options
@click.pass_obj
def find(
    out: Output,
    /,
    *,
    addresses: tuple[str, ...],
    name: str | None,
    iname: str | None,
    path_glob: str | None,
    types: str | None,
    sizes: tuple[str, ...],
    newer: str | None,
    older: str | None,
    depth_max: int | None,
    depth_min: int,
    is_long: bool,
    ends_with_nul: bool,
    **how: Any,
) -> None:
    """List the paths below a directory that match.

    Every condition given must hold. Symlinks are listed, not followed.
    """
    from cdn.client.finding import Filter, SizeTest

    wanted = Filter(
        name=iname if iname is not None else name,
        path=path_glob,
        ignores_case=iname is not None,
        types=_types(types),
        sizes=tuple(SizeTest.parse(size) for size in sizes),
        newer_than=_time(newer),
        older_than=_time(older),
        depth_min=depth_min,
    )

    async def work(opened: _Opened) -> None:
        if ends_with_nul and not out.json:
            await _find_raw(opened, wanted, depth_max)
            return
        with out.listing("entries") as listing:
            for address, files in opened.each:
                await _find(address, files, wanted, depth_max, listing, is_long=is_long)

    _run(out, addresses, how, work)


@click.command()
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("-r", "-R", "--recursive", is_flag=True, help="Directories with everything in them.")
@_opening_options
@click.pass_obj
def cp(out: Output, /, *, addresses: tuple[str, ...], target: Path, recursive: bool, **how: Any) -> None:
    """Copy files or directories out of a repository.

    Modes, times and symlinks are kept; owners, setuid bits and devices are not. A file that exists is replaced when the
    new content is complete.
    """
    is_folder = target.is_dir()

    async def work(opened: _Opened) -> None:
        from cdn.catalog.paths import name_of
        from cdn.client.copying import copy_out
        from cdn.errors import RepositoryError, UsageError

        if len(addresses) > 1 and not is_folder:
            raise UsageError(f"{target} is no directory, and several things cannot become one")
        reports = []
        with out.progress("Copying") as progress:
            for address, files in opened.each:
                name = name_of((await files.resolve(address.path)).path) or address.fqrn
                name = name_of(address.path.rstrip("/")) or name
                place = target / name if is_folder else target
                if name in (".", ".."):
                    raise UsageError(f"{address.path!r} has no name to copy it to: name a new directory")
                reports.append(
                    await copy_out(
                        files,
                        address.path,
                        str(place),
                        recursive=recursive,
                        progress=progress,
                        complain=out.warning,
                    )
                )
        total = {
            key: sum(getattr(report, key) for report in reports)
            for key in ("files", "directories", "symlinks", "bytes", "skipped", "failed")
        }
        out.result(
            {**total, "target": str(target)},
            f"{total['files']:,} file(s), {total['directories']:,} director(ies), {total['symlinks']:,} symlink(s): "
            f"{size_text(total['bytes'])} copied to {target}",
        )
        if total["failed"]:
            raise RepositoryError(f"{total['failed']} file(s) could not be copied; the warnings above say why")

    _run(out, addresses, how, work)


@click.command()
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@click.option("--depth", "depth_max", type=click.IntRange(min=1), help="At most so many levels.")
@click.option("-a", "--all", "shows_all", is_flag=True, help="Also names that begin with a dot.")
@click.option("-D", "--directories", "only_directories", is_flag=True, help="Directories only.")
@_opening_options
@click.pass_obj
def tree(
    out: Output,
    /,
    *,
    addresses: tuple[str, ...],
    depth_max: int | None,
    shows_all: bool,
    only_directories: bool,
    **how: Any,
) -> None:
    """Draw a directory and what is below it."""

    def is_shown(entry: Entry) -> bool:
        return (shows_all or not entry.name.startswith(".")) and (entry.is_directory or not only_directories)

    async def work(opened: _Opened) -> None:
        drawn = {"directories": 0, "files": 0}
        with out.listing("entries") as listing:
            for address, files in opened.each:
                found = await files.resolve(address.path)
                listing.add({"path": found.path or "/", "depth": 0}, address.path)
                await draw(files, found.path, depth_max, is_shown, listing, drawn)
            listing.end(drawn, f"\n{drawn['directories']:,} directories, {drawn['files']:,} files")

    _run(out, addresses, how, work)


# -------------------------------------------------------------------------------------------------------- behind them


class _Opened:
    """The repositories that addresses name, each opened once."""

    def __init__(self, each: list[tuple[Address, FileSystem]]) -> None:
        self.each = each


def _run(out: Output, addresses: tuple[str, ...], how: dict[str, Any], work: Callable[[_Opened], Any]) -> None:
    """Opens what the addresses name and does the work in an event loop."""
    from cdn.client.addresses import parse_address
    from cdn.client.locating import Places, Wishes, locate
    from cdn.client.pins import Pin
    from cdn.transport.loop import run

    digest = _digest(how["root_catalog"])
    pin = Pin(how["tag"], how["revision"], digest, _time(how["at"]))
    names = ("servers", "proxies", "keys", "root", "cache", "config", "external_urls")
    wishes = Wishes(**{name: how[name] for name in names})
    places = Places.of(os.environ, is_root=os.geteuid() == 0)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            each: list[tuple[Address, FileSystem]] = []
            repositories: dict[tuple[str, str | None], MountedRepository] = {}
            for text in addresses:
                address = parse_address(text, fqrn=how["fqrn"])
                key = address.fqrn, address.server
                if key not in repositories:
                    located = locate(address, wishes, places, os.environ)
                    repositories[key] = await stack.enter_async_context(await located.open(pin))
                    _tell_if_offline(out, repositories[key])
                    for line in repositories[key].authority.blacklist.unread:
                        out.warning(f"the blacklist says {line[:200]!r}, which forbids nothing")
                each.append((address, repositories[key].files))
            await work(_Opened(each))

    run(main())


def _tell_if_offline(out: Output, repository: MountedRepository) -> None:
    if repository.offline_reason is not None:
        out.warning(
            f"no server of {repository.fqrn} could be used ({repository.offline_reason}): this is revision "
            f"{repository.revision}, as far as it is cached"
        )


async def _find(
    address: Address, files: FileSystem, wanted: Filter, depth_max: int | None, listing: Listing, *, is_long: bool
) -> None:
    from cdn.client.describing import entry_document, long_line

    top: str | None = None
    async for path, entry in files.walk(address.path, depth_max=depth_max):
        top = path if top is None else top
        if wanted.matches(path, entry, path.count("/") - top.count("/")):
            target = files.target_of(entry) if entry.is_symlink else ""
            line = long_line(entry, path or "/", target) if is_long else path or "/"
            listing.add(entry_document(path, entry, target), line)


async def _find_raw(opened: _Opened, wanted: Filter, depth_max: int | None) -> None:
    stream = sys.stdout.buffer
    for address, files in opened.each:
        top: str | None = None
        async for path, entry in files.walk(address.path, depth_max=depth_max):
            top = path if top is None else top
            if wanted.matches(path, entry, path.count("/") - top.count("/")):
                stream.write((path or "/").encode("utf-8", "surrogateescape") + b"\0")
    stream.flush()


def _types(text: str | None) -> frozenset[str]:
    from cdn.client.finding import TYPE_LETTERS
    from cdn.errors import UsageError

    letters = frozenset((text or "").replace(",", ""))
    if unknown := letters - set(TYPE_LETTERS):
        raise UsageError(f"there is no type {min(unknown)!r}: use f, d, l, p, s, c or b")
    return letters


def _digest(text: str | None) -> Digest | None:
    from cdn.errors import DocumentError, UsageError
    from cdn.hashing import Digest

    try:
        return Digest.parse(text) if text is not None else None
    except DocumentError:
        raise UsageError(
            f"{text!r} is no digest of a root catalog: `cdn repo info` and `cdn tag list --json` show them"
        ) from None


def _time(text: str | None) -> float | None:
    """Seconds since the epoch, of a date or time; UTC unless it says otherwise."""
    from datetime import UTC, datetime

    from cdn.errors import UsageError

    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is no time such as 2026-01-31 or 2026-01-31T12:00:00Z") from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _value_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    if isinstance(value, list):
        return "; ".join(map(_value_text, value))
    return str(value)
