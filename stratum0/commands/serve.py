"""`cdn serve`: repositories over HTTP."""

from __future__ import annotations

from pathlib import Path

import click

from cdn.reporting import Output
from stratum0.commands.opening import FILE, home_at, root_option, warn


@click.command()
@click.option("--storage", type=FILE, help="A repository's storage, or a folder of several.  [default: ROOT/srv]")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Serve /metrics on this port.")
@click.option("--access-log", is_flag=True, help="Log each request.")
@root_option
@click.pass_obj
def serve(
    out: Output,
    root: Path | None,
    storage: Path | None,
    host: str,
    port: int,
    metrics_port: int | None,
    *,
    access_log: bool,
) -> None:
    """Serve a storage folder over HTTP.

    A repository is at http://HOST:PORT/cvmfs/FQRN. Behind a proxy or instead of this, any web server can serve the
    same folder.
    """
    import asyncio

    from stratum0.metrics import metrics_of
    from stratum0.web import StorageServer, WebSettings

    home = home_at(root)
    elsewhere = _elsewhere(out, root) if storage is None else _single(storage)
    if storage is None:
        home.served.mkdir(parents=True, exist_ok=True)
    settings = WebSettings(host, port, metrics_port, access_log)
    server = StorageServer(storage or home.served, settings, elsewhere=elsewhere, more_metrics=lambda: metrics_of(home))

    def started() -> None:
        document = {
            "url": f"{server.url}/cvmfs",
            "metrics_url": server.metrics_url,
            "folder": str(storage or home.served),
        }
        out.result(document, f"serving {document['folder']} at {server.url}/cvmfs")

    out.serving()
    asyncio.run(server.run_forever(started))


def _single(storage: Path) -> dict[str, Path]:
    """The folder itself under its repository's name, if it is the storage of one."""
    from cdn.errors import DocumentError
    from cdn.manifest import Manifest
    from cdn.objects import MANIFEST_PATH
    from cdn.signing import DOCUMENT_BYTES_MAX, body_of

    try:
        with (storage / MANIFEST_PATH).open("rb") as file:
            name = Manifest.parse(body_of(file.read(DOCUMENT_BYTES_MAX))).fqrn
    except (FileNotFoundError, NotADirectoryError):
        return {}
    if name is None:
        raise DocumentError(str(storage / MANIFEST_PATH), "it does not say which repository it is of")
    return {name: storage}


def _elsewhere(out: Output, root: Path | None) -> dict[str, Path]:
    """Storage folders of repositories that were created with --storage."""
    from cdn.errors import CdnError
    from stratum0.repository import Repository

    home = home_at(root)
    found = {}
    for name in home.names():
        try:
            repository = Repository.peek(name, home)
        except CdnError as error:
            out.warning(f"{name} is not served: {error}")
            continue
        warn(out, repository)
        if repository.settings.storage != home.storage_of(name):
            found[name] = repository.settings.storage
    return found
