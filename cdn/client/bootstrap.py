"""Fetching what everything else hangs on: manifest, whitelist and certificate of a repository, fully verified (§2.5).

The three come from one server, so that they belong together; which server is for the caller to choose, usually through
`cdn.client.sources`. `cdn.trust` decides what may be believed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cdn.certificate import CERTIFICATE_BYTES_MAX
from cdn.client.sources import Route, Sources
from cdn.errors import AllSourcesFailedError, CdnError, without_login
from cdn.manifest import Manifest
from cdn.objects import MANIFEST_PATH, WHITELIST_PATH, ObjectName
from cdn.signing import DOCUMENT_BYTES_MAX, body_of
from cdn.transport.base import Fetcher
from cdn.transport.download import fetch_object, read_body
from cdn.trust import Blacklist, Breadcrumb, TrustedRepository, certificate_named_by
from cdn.whitelist import Whitelist

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

_NO_BLACKLIST: Final = Blacklist()


@dataclass(frozen=True, slots=True)
class Authority:
    """What a repository is held against.

    Args:
        fqrn: its name.
        master_keys: public keys of which one must have signed the whitelist.
        blacklist: certificates and revisions that are refused.
    """

    fqrn: str
    master_keys: tuple[RSAPublicKey, ...]
    blacklist: Blacklist = _NO_BLACKLIST


@dataclass(frozen=True, slots=True)
class Known:
    """What was believed before, so that nothing older is.

    Args:
        breadcrumb: the newest state of the repository.
        whitelist_created: when the newest whitelist was made, in seconds since the epoch.
    """

    breadcrumb: Breadcrumb | None = None
    whitelist_created: int = 0


NOTHING_KNOWN: Final = Known()


@dataclass(frozen=True, slots=True)
class Verified:
    """The verified documents, and their bytes as they came.

    Args:
        manifest: which revision is current.
        whitelist: who may sign.
        manifest_bytes, whitelist_bytes: as served.
        certificate_bytes: the certificate as it is stored, compressed.
        source: where they came from, for messages.
    """

    manifest: Manifest
    whitelist: Whitelist
    manifest_bytes: bytes
    whitelist_bytes: bytes
    certificate_bytes: bytes
    source: str = ""

    @property
    def known(self) -> Known:
        """What to remember of them."""
        return Known(Breadcrumb.of(self.manifest), self.whitelist.created_at)


def verify(
    authority: Authority, manifest: bytes, whitelist: bytes, certificate: bytes, *, now: float, known: Known
) -> Verified:
    """Verifies the three documents.

    Raises:
        DocumentError, TrustError: they must not be believed.
    """
    trusted = TrustedRepository(
        authority.fqrn,
        authority.master_keys,
        now=now,
        breadcrumb=known.breadcrumb,
        blacklist=authority.blacklist,
        whitelist_created_min=known.whitelist_created,
    )
    loaded = trusted.load_whitelist(whitelist)
    trusted.load_certificate(certificate)
    return Verified(trusted.load_manifest(manifest), loaded, manifest, whitelist, certificate)


async def fetch_verified(
    fetcher: Fetcher,
    base_url: str,
    fqrn: str,
    keys: Sequence[RSAPublicKey],
    *,
    now: float,
    known: Known = NOTHING_KNOWN,
    blacklist: Blacklist = _NO_BLACKLIST,
    proxy: str | None = None,
    no_cache: bool = False,
) -> Verified:
    """Fetches and verifies manifest, whitelist and certificate from one server.

    Args:
        fetcher: sends the requests.
        base_url: of the repository.
        fqrn: the name it must have.
        keys: master public keys.
        now: seconds since the epoch.
        known: what was believed before.
        blacklist: certificates and revisions that are refused.
        proxy: URL of a proxy to ask through.
        no_cache: ask caches on the way to look again.

    Raises:
        TransportError: they could not be had.
        DocumentError, TrustError: they must not be believed.
    """
    return await fetch_over(
        fetcher, Route(base_url, proxy, no_cache), Authority(fqrn, tuple(keys), blacklist), now=now, known=known
    )


async def fetch_over(
    fetcher: Fetcher,
    route: Route,
    authority: Authority,
    *,
    now: float,
    known: Known = NOTHING_KNOWN,
    current: Verified | None = None,
) -> Verified:
    """As `fetch_verified`, over a route.

    Args:
        fetcher: sends the requests.
        route: where to.
        authority: what the repository is held against.
        now: seconds since the epoch.
        known: what was believed before.
        current: what was verified before. It is the answer if the manifest is still the same, byte by byte.
    """
    manifest = await read_body(fetcher, route.request(MANIFEST_PATH), size_max=DOCUMENT_BYTES_MAX)
    name = certificate_named_by(manifest)
    if current is not None and manifest == current.manifest_bytes:
        return current
    alternative = Manifest.parse(body_of(manifest)).alternative_names
    whitelist, certificate = await _both(
        read_body(fetcher, route.request(WHITELIST_PATH), size_max=DOCUMENT_BYTES_MAX),
        fetch_object(
            fetcher,
            route.request(bootstrap_path(name, alternative=alternative)),
            name,
            size_max=CERTIFICATE_BYTES_MAX,
        ),
    )
    verified = verify(authority, manifest, whitelist, certificate, now=now, known=known)
    return Verified(
        verified.manifest, verified.whitelist, manifest, whitelist, certificate, source=without_login(route.base_url)
    )


async def fetch_from_any(
    sources: Sources,
    fetcher: Fetcher,
    authority: Authority,
    *,
    now: float,
    known: Known = NOTHING_KNOWN,
    current: Verified | None = None,
    has_fallback: bool = False,
) -> Verified:
    """As `fetch_verified`, from the first source whose documents can be believed.

    A server that is stale, expired or lying is asked once more past every cache, then the next one.

    Raises:
        AllSourcesFailedError: several sources were asked in vain.
        CdnError: the only source failed, with this.
    """
    try:
        return await sources.fetch(
            f"the manifest of {authority.fqrn}",
            lambda route: fetch_over(fetcher, route, authority, now=now, known=known, current=current),
            has_fallback=has_fallback,
        )
    except AllSourcesFailedError as error:
        if len(sources.servers) == len(sources.proxies) == 1 and isinstance(error.causes[-1], CdnError):
            raise error.causes[-1] from error
        raise


def bootstrap_path(name: ObjectName, *, alternative: bool) -> str:
    """Where a certificate, root catalog, history or metainfo is fetched from (manifest key A, spec §1.1)."""
    return name.alternative_path if alternative else name.path


async def _both(
    first: Coroutine[object, object, bytes], second: Coroutine[object, object, bytes]
) -> tuple[bytes, bytes]:
    """Both results; when one fails, the other is not waited for."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(first), group.create_task(second)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return tasks[0].result(), tasks[1].result()
