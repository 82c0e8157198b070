"""`cdn repo keys`: certificates, whitelists, and a master key that may be elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdn.reporting import Output, Table
from stratum0.commands.opening import FILE, home_at, opened, peeked, root_option

if TYPE_CHECKING:
    from cdn.whitelist import Whitelist
    from stratum0.repository import Repository


@click.group()
def keys() -> None:
    """Look after keys: sign whitelists anew, replace certificates.

    The master key signs the whitelist, which lists the certificates that may sign revisions. It may be kept on another
    machine: `export` here, `sign` there, `import` here.
    """


@keys.command()
@click.argument("name", metavar="REPO")
@root_option
@click.pass_obj
def status(out: Output, root: Path | None, name: str) -> None:
    """Show keys, certificates and when what expires."""
    from stratum0.expiry import date_text

    with peeked(out, root, name) as repository:
        whitelist, algorithm = repository.whitelist(), repository.settings.algorithm
        certificate, following = repository.keys.certificate(), repository.keys.next_signer()
        fingerprint = certificate.fingerprint(algorithm).text
        document = {
            "repository": name,
            "master_key_is_here": repository.keys.has_master_key,
            "public_key_file": str(repository.keys.public_key_file),
            "certificate": {
                "fingerprint": fingerprint,
                "expires": certificate.not_valid_after,
                "listed": whitelist is not None and fingerprint in {str(e.fingerprint) for e in whitelist.entries},
            },
            "next_certificate": following.certificate.fingerprint(algorithm).text if following else None,
            "whitelist": _whitelist_document(whitelist),
        }
        rows = [
            ("master key", "here" if repository.keys.has_master_key else "elsewhere"),
            ("public key", str(repository.keys.public_key_file)),
            ("certificate", fingerprint),
            ("certificate expires", date_text(certificate.not_valid_after)),
            ("whitelist expires", date_text(whitelist.expires_at) if whitelist else "there is none yet"),
        ]
        if following:
            rows.append(("waits to be listed", following.certificate.fingerprint(algorithm).text))
        listed = [(str(entry.fingerprint), entry.comment) for entry in (whitelist.entries if whitelist else ())]
        out.result(document, Table(("", ""), rows), Table(("whitelisted certificate", "remark"), listed))


@keys.command()
@click.argument("names", metavar="[REPO]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All repositories of this machine.")
@click.option("--days", type=click.IntRange(1, 3650), help="How long it is valid.  [default: as settled, 30]")
@click.option("--if-due", is_flag=True, help="Only where less than a third of its life is left.")
@root_option
@click.pass_obj
def resign(
    out: Output, root: Path | None, names: tuple[str, ...], *, every: bool, days: int | None, if_due: bool
) -> None:
    """Sign the whitelists of repositories anew with the master key kept here.

    With --all and --if-due this is what a timer runs once a day; repositories whose master key is elsewhere are then
    passed over.
    """
    from cdn.errors import UsageError
    from stratum0.expiry import date_text

    if every == bool(names):
        raise UsageError("name the repositories, or say --all")
    results = []
    failure: Exception | None = None
    for name in home_at(root).names() if every else names:
        try:
            results.append(_resigned(out, root, name, days=days, if_due=if_due, may_skip=every))
        except Exception as error:  # one repository's trouble must not keep the others from being signed
            if not every:
                raise
            out.warning(f"{name}: {error}")
            failure = error
    rows = [(name, outcome, date_text(expires) if expires else None) for name, outcome, expires in results]
    items = [{"repository": name, "outcome": outcome, "expires": expires} for name, outcome, expires in results]
    out.result({"whitelists": items}, Table(("repository", "whitelist", "expires"), rows))
    if failure is not None:
        raise failure


def _resigned(
    out: Output, root: Path | None, name: str, *, days: int | None, if_due: bool, may_skip: bool
) -> tuple[str, str, int | None]:
    from stratum0 import keys as library
    from stratum0.expiry import is_due
    from stratum0.metrics import write_metrics
    from stratum0.repository import Repository

    with Repository.open(name, home_at(root)) as repository:
        current = repository.whitelist()
        try:
            if may_skip and not repository.keys.has_master_key:
                return name, "master key elsewhere", current.expires_at if current else None
            if if_due and current is not None and not is_due(current, repository.clock.now()):
                return name, "not due", current.expires_at
            return name, "signed", library.resign(repository, days=days).expires_at
        finally:
            write_metrics(repository)
            _warn_of_certificate(out, repository)


def _warn_of_certificate(out: Output, repository: Repository) -> None:
    from stratum0.commands.opening import warn

    warn(out, repository)


@keys.command()
@click.argument("name", metavar="REPO")
@click.option("--revoke-old", is_flag=True, help="Take the old certificate off the whitelist at once: its key leaked.")
@root_option
@click.pass_obj
def rotate(out: Output, root: Path | None, name: str, *, revoke_old: bool) -> None:
    """Replace the certificate and the key that sign revisions.

    The old certificate stays on the whitelist for seven days, for replicas that are late. Where the master key is
    elsewhere, the new pair waits until a whitelist that lists it comes back signed.
    """
    from stratum0 import keys as library

    with opened(out, root, name) as repository:
        rotation = library.rotate(repository, revoke_old=revoke_old)
        fingerprint = rotation.certificate.fingerprint(repository.settings.algorithm).text
        document = {"repository": name, "certificate": fingerprint, "complete": rotation.is_complete}
        if rotation.is_complete:
            out.result(document, f"{name} is now signed by {fingerprint}")
        else:
            revoke = " --revoke-old" if revoke_old else ""
            out.result(
                document,
                f"a new certificate is prepared: {fingerprint}",
                f"next: `cdn repo keys export{revoke} {name} FILE`, sign FILE with the master key, "
                f"`cdn repo keys import {name} FILE`",
            )


@keys.command()
@click.argument("name", metavar="REPO")
@click.argument("file", type=FILE)
@click.option("--days", type=click.IntRange(1, 3650), help="How long it is valid.  [default: as settled, 30]")
@click.option("--revoke-old", is_flag=True, help="List no other certificate than the one in use.")
@root_option
@click.pass_obj
def export(out: Output, root: Path | None, name: str, file: Path, *, days: int | None, revoke_old: bool) -> None:
    """Write a whitelist to be signed elsewhere to FILE, and its digest to FILE.hash."""
    from stratum0 import keys as library
    from stratum0.expiry import date_text

    with opened(out, root, name) as repository:
        whitelist = library.export_request(repository, file, days=days, revoke=revoke_old)
        out.result(
            {"repository": name, "file": str(file), "hash_file": f"{file}.hash", "expires": whitelist.expires_at},
            f"{file} is valid until {date_text(whitelist.expires_at)} once it is signed, one of these ways:",
            f"  cdn repo keys sign --masterkey KEY {file}",
            f"  openssl pkeyutl -sign -inkey KEY -in {file}.hash -out {file}.sig",
            f"then `cdn repo keys import {name} {file}`, after openssl with `--signature {file}.sig`",
        )


@keys.command()
@click.argument("file", type=FILE)
@click.option("--masterkey", "master_key", type=FILE, required=True, help="The private master key.")
@click.pass_obj
def sign(out: Output, file: Path, master_key: Path) -> None:
    """Sign an exported whitelist in place; needs nothing but FILE and the key."""
    from stratum0 import keys as library
    from stratum0.expiry import date_text

    whitelist = library.sign_request(file, master_key)
    listed = [(str(entry.fingerprint), entry.comment) for entry in whitelist.entries]
    out.result(
        {"repository": whitelist.fqrn, "file": str(file), "whitelist": _whitelist_document(whitelist)},
        f"signed {file}: the whitelist of {whitelist.fqrn}, valid until {date_text(whitelist.expires_at)}",
        Table(("certificate", "remark"), listed),
    )


@keys.command("import")
@click.argument("name", metavar="REPO")
@click.argument("file", type=FILE)
@click.option("--signature", type=FILE, help="The raw signature that `openssl pkeyutl -sign` wrote.")
@root_option
@click.pass_obj
def import_(out: Output, root: Path | None, name: str, file: Path, signature: Path | None) -> None:
    """Verify a whitelist signed elsewhere and put it in force."""
    from stratum0 import keys as library
    from stratum0.expiry import date_text

    with opened(out, root, name) as repository:
        before = repository.head().manifest.certificate
        whitelist = library.import_signed(repository, file, signature=signature)
        is_rotated = repository.head().manifest.certificate != before
        said = [f"the whitelist of {name} is now valid until {date_text(whitelist.expires_at)}"]
        if is_rotated:
            said.append("the new certificate is in use")
        out.result({"repository": name, "expires": whitelist.expires_at, "rotated": is_rotated}, *said)


def _whitelist_document(whitelist: Whitelist | None) -> dict[str, object] | None:
    if whitelist is None:
        return None
    return {
        "created": whitelist.created_at,
        "expires": whitelist.expires_at,
        "certificates": [
            {"fingerprint": str(entry.fingerprint), "comment": entry.comment} for entry in whitelist.entries
        ],
    }
