"""What a hostile or broken server can do to the first three documents, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdn.client.bootstrap import Authority, Known, fetch_from_any, fetch_verified
from cdn.client.sources import SourcePolicy, Sources
from cdn.clock import ManualClock
from cdn.errors import (
    AllSourcesFailedError,
    CdnError,
    ConfigError,
    ExpiredError,
    NameMismatchError,
    RollbackError,
    TooLargeError,
    UntrustedCertificateError,
)
from cdn.hashing import Algorithm
from cdn.objects import MANIFEST_PATH, WHITELIST_PATH, Kind, ObjectName
from cdn.transport.memory import Answer
from cdn.transport.retry import RetryPolicy
from cdn.trust import Blacklist, Breadcrumb
from cdn.whitelist import Whitelist
from tests.fakes.repositories import Network, Publication, Server, cut, emptied, endless, flipped
from tests.fakes.signer import FQRN, NOW, Signer

BASE = "http://one/r"
OTHER = "http://two/r"


@pytest.fixture(scope="module", params=list(Algorithm), ids=lambda algorithm: algorithm.option)
def published(request):
    publication = Publication(algorithm=request.param)
    publication.publish({"/file": b"content"})
    return publication


def certificate_path(publication: Publication) -> str:
    stored = publication.signer.stored_certificate
    return ObjectName(publication.signer.digest(stored), Kind.CERTIFICATE).path


async def fetched(publication: Publication, server: Server, **options: object):
    network = Network({BASE: server})
    return await fetch_verified(
        network, BASE, publication.fqrn, publication.signer.master_keys, now=NOW + 100, **options
    )


async def test_the_three_documents_are_verified_and_kept_as_they_came(published):
    verified = await fetched(published, Server(published.served))
    assert verified.manifest.revision == 1
    assert verified.manifest_bytes == published.served[MANIFEST_PATH]
    assert verified.whitelist_bytes == published.served[WHITELIST_PATH]
    assert verified.known.breadcrumb == Breadcrumb.of(verified.manifest)


@pytest.mark.parametrize("change", [flipped, cut, emptied, endless])
@pytest.mark.parametrize("which", ["manifest", "whitelist", "certificate"])
async def test_a_damaged_document_is_refused(published, which, change):
    paths = {"manifest": MANIFEST_PATH, "whitelist": WHITELIST_PATH, "certificate": certificate_path(published)}
    server = Server(published.served)
    server.lie(paths[which], change)
    with pytest.raises(CdnError):
        await fetched(published, server)


async def test_every_single_bit_of_the_signed_documents_counts(published):
    for path in (MANIFEST_PATH, WHITELIST_PATH):
        size = len(published.served[path])
        for offset in range(0, size, 7):
            server = Server(published.served)
            server.lie(path, lambda answer, request, offset=offset: answer.flipped(offset))
            with pytest.raises(CdnError):
                await fetched(published, server)


async def test_a_manifest_without_end_is_not_read_to_the_end(published):
    server = Server(published.served)
    server.lie(MANIFEST_PATH, endless)
    with pytest.raises(TooLargeError):
        await fetched(published, server)


async def test_the_manifest_of_another_repository_is_refused(published):
    other = Publication("other.example.org", published.algorithm)
    other.publish({"/file": b"other"})
    with pytest.raises(NameMismatchError):
        await fetched(published, Server(other.served))


async def test_a_manifest_signed_by_a_stranger_is_refused(published):
    stranger = Publication(algorithm=published.algorithm)
    stranger.signer = Signer(FQRN, published.algorithm, manager="stranger")
    stranger.put(Kind.CERTIFICATE, stranger.signer.certificate.pem)
    stranger.publish({"/file": b"evil"})
    with pytest.raises(UntrustedCertificateError):
        await fetched(published, Server({**stranger.served, WHITELIST_PATH: published.served[WHITELIST_PATH]}))


async def test_an_older_manifest_than_the_one_known_is_refused(published):
    known = Known(Breadcrumb(published.signer.digest(b"newer"), NOW + 50, 7))
    with pytest.raises(RollbackError):
        await fetched(published, Server(published.served), known=known)


async def test_an_expired_whitelist_is_refused(published):
    signer = published.signer
    old = Whitelist.valid_for(FQRN, [signer.certificate.fingerprint(signer.algorithm)], now=NOW - 40 * 86_400)
    with pytest.raises(ExpiredError):
        await fetched(published, Server({**published.served, WHITELIST_PATH: signer.whitelist(old)}))


async def test_a_whitelist_older_than_the_one_known_is_refused(published):
    with pytest.raises(RollbackError):
        await fetched(published, Server(published.served), known=Known(whitelist_created=NOW + 1))


async def test_a_blacklisted_certificate_is_refused(published):
    blacklist = Blacklist(frozenset({published.signer.certificate.fingerprint()}))
    with pytest.raises(UntrustedCertificateError):
        await fetched(published, Server(published.served), blacklist=blacklist)


async def test_nothing_is_believed_without_a_key(published):
    with pytest.raises(ConfigError, match="no public key"):
        await fetch_verified(Network({BASE: Server(published.served)}), BASE, FQRN, [], now=NOW)


async def test_alternative_names_are_used_where_the_manifest_says_so():
    publication = Publication()
    publication.publish({"/file": b"x"}, alternative_names=True)
    name = ObjectName.parse(certificate_path(publication))
    publication.served[name.alternative_path] = publication.served.pop(name.path)
    assert (await fetched(publication, Server(publication.served))).manifest.revision == 1


# ------------------------------------------------------------------------------------------------------ several servers


def sources(*servers: str) -> Sources:
    return Sources(servers, policy=SourcePolicy(rounds=RetryPolicy(1)), clock=ManualClock())


async def from_any(publication, network, *servers, **options):
    authority = Authority(publication.fqrn, tuple(publication.signer.master_keys))
    return await fetch_from_any(sources(*servers), network, authority, now=NOW + 100, **options)


@pytest.mark.parametrize("change", [flipped, cut, emptied, endless])
async def test_a_lying_server_is_asked_once_more_past_caches_and_then_left(published, change):
    bad = Server(published.served)
    bad.lie(MANIFEST_PATH, change)
    network = Network({BASE: bad, OTHER: Server(published.served)})
    verified = await from_any(published, network, BASE, OTHER)
    assert verified.source == OTHER
    assert sum(request.url.endswith(MANIFEST_PATH) for request in bad.asked) <= 2


async def test_a_stale_server_is_passed_over_for_a_current_one():
    publication = Publication()
    publication.publish({"/file": b"one"})
    stale = Server(publication.copy())
    publication.publish({"/file": b"two"})
    network = Network({BASE: stale, OTHER: Server(publication.served)})
    known = Known(Breadcrumb(publication.root, NOW + 2, 2))
    assert (await from_any(publication, network, BASE, OTHER, known=known)).manifest.revision == 2


async def test_when_all_lie_each_is_named(published):
    liars = {url: Server(published.served, every=flipped) for url in (BASE, OTHER)}
    with pytest.raises(AllSourcesFailedError) as caught:
        await from_any(published, Network(liars), BASE, OTHER)
    assert len(caught.value.causes) == 2


async def test_the_only_servers_failure_is_told_as_it_is(published):
    stale = Known(Breadcrumb(published.signer.digest(b"newer"), NOW + 50, 7))
    with pytest.raises(RollbackError):
        await from_any(published, Network({BASE: Server(published.served)}), BASE, known=stale)


async def test_an_unchanged_manifest_costs_one_request(published):
    server = Server(published.served)
    verified = await fetched(published, server)
    server.asked.clear()
    again = await from_any(published, Network({BASE: server}), BASE, current=verified)
    assert again is verified
    assert len(server.asked) == 1


async def test_a_manifest_that_only_looks_unchanged_is_verified(published):
    verified = await fetched(published, Server(published.served))
    forged = replace(verified.manifest, timestamp=NOW + 10**9)
    body = published.signer.sign_manifest(forged.to_body())
    server = Server({**published.served, MANIFEST_PATH: body[:-1] + bytes([body[-1] ^ 1])})
    with pytest.raises(CdnError):
        await from_any(published, Network({BASE: server}), BASE, current=verified)


async def test_a_manifest_answered_with_an_error_page_is_refused(published):
    server = Server(published.served)
    server.lie(MANIFEST_PATH, lambda answer, request: Answer(b"<html>captive portal</html>"))
    with pytest.raises(CdnError):
        await fetched(published, server)
