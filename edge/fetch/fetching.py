"""One fetch from upstreams: try them in order, verify what comes, give it to whoever waits, keep what may be kept.

What clients notice of a failing upstream is decided by whether they have seen anything yet. Small bodies are held until
they are complete and verified, so that a fetch can begin anew elsewhere without a trace. Large ones are shown while
they arrive; if the upstream breaks off then, another one continues an object at the same byte, since its digest proves
that both sent the same; anything else ends with the connections closed.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Final

from cdn.errors import (
    CdnError,
    DocumentError,
    HashMismatchError,
    MalformedAnswerError,
    RollbackError,
    ShortTransferError,
    StatusError,
    StorageError,
    TransportError,
)
from cdn.hashing import Hasher
from cdn.transport.base import Request, Response
from cdn.transport.download import NO_CACHE, retry_after_seconds
from edge.content import ContentKind, is_judged, judged_bytes_max
from edge.fetch.arriving_body import ArrivingBody
from edge.fetch.collapsing import Arriving, Complete, Flight, Kept
from edge.fetch.keeping import Keeping
from edge.fetch.orders import FetchOrder, UpstreamsFailedError
from edge.fetch.supplies import Supplies
from edge.http.answering import kept_fields
from edge.http.caching import StoredHead, conditional_fields, dated, refreshed, selecting_fields
from edge.http.headers import Headers
from edge.http.request_id import named
from edge.routing import Source
from edge.upstream.asking import Asked, Asking, Attempt, Race
from edge.upstream.siblings import SIBLING_FIELD

HOLD_BYTES: Final = 1 << 20
"""Bodies up to this size are shown when they are complete."""
HOLD_SECONDS: Final = 1.0
"""But clients wait no longer than this for the first byte of one that has begun."""
ERROR_BODY_BYTES_MAX: Final = 64 << 10
_BELIEVED_BY_ALL: Final = frozenset({404, 410})
_NEXT_MAY_KNOW_BETTER: Final = frozenset({206, 304, 404, 408, 410, 429})
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", re.ASCII)
_HEDGED_KINDS: Final = frozenset({ContentKind.OBJECT, ContentKind.MANIFEST, ContentKind.WHITELIST})
"""What is small more often than not, and cheap to ask for twice."""


class Fetch:
    """One fetch, for one flight.

    Args:
        supplies: what it works with.
        order: what to fetch.
        flight: whoever waits for it.
        attempts: the requests to send, if that was decided already; the first of them may be under way.
    """

    def __init__(
        self, supplies: Supplies, order: FetchOrder, flight: Flight, attempts: Iterable[Attempt] | None = None
    ) -> None:
        self._decided = attempts
        self._with = supplies
        self._order = order
        self._flight = flight
        self._keeping = Keeping(supplies, order, flight)
        self._content = order.destination.content
        self._causes: list[Exception] = []
        self._second_best: Complete | None = None
        self._negatives: set[str] = set()
        """The servers that say there is no such thing."""
        self._head: StoredHead | None = None
        self._is_stored = self._is_shareable = self._is_siblings = False
        self._publish_at = 0.0
        self._is_judged = is_judged(self._content)
        self._timer: asyncio.TimerHandle | None = None
        self._unstored: tuple[ArrivingBody | bytes, StoredHead] | None = None
        """What goes to disk once the upstream is let go of."""
        self._new_hash()

    async def run(self) -> None:
        """Fetches.

        Raises:
            UpstreamsFailedError: no upstream gave it.
            CdnError: it broke off after clients had seen some of it.
        """
        if not await self._is_found():
            self._give_up()
        elif self._unstored is not None:
            self._flight.is_storing = True
            checksum = "" if self._checksum is None else self._checksum.hexdigest()
            await self._keeping.store(*self._unstored, checksum)

    async def _is_found(self) -> bool:
        """Asks until somebody has it; whether somebody had."""
        race = Race(self._with, self._attempts(), self._send, may_hedge=self._content.kind in _HEDGED_KINDS)
        try:
            while (asking := await race.next()) is not None:
                if await self._judge(asking, race):
                    return True
        finally:
            await race.close()
        return False

    def _attempts(self) -> Iterator[Attempt]:
        now, sources, keeper = self._with.clock.monotonic(), self._order.destination.sources, self._order.keeper
        if keeper is not None:
            yield Attempt(keeper, wants_fresh_copy=False)
        if self._decided is not None:
            yield from self._decided
        else:
            for source in self._with.health.ordered(sources, now):
                yield Attempt(source, self._order.wants_fresh_copy)
        self._causes += self._with.health.pausing(sources, now)

    def _send(self, attempt: Attempt) -> AbstractAsyncContextManager[Response]:
        on_interim = self._tell_interim if self._content.kind is ContentKind.OTHER else None
        request = Request(
            attempt.source.url,
            headers=self._request_fields(attempt),
            proxy=attempt.source.proxy,
            on_interim=on_interim,
        )
        return Asked(self._with, attempt.source, request)

    async def _judge(self, asking: Asking, race: Race) -> bool:
        """Takes what came of one request; whether that ends the fetch."""
        attempt = asking.attempt
        try:
            try:
                return await self._use(asking, race)
            except asyncio.CancelledError:
                await asking.cancel()
                raise
            finally:
                await asking.end()
        except (TransportError, HashMismatchError, RollbackError, DocumentError) as error:
            self._note(attempt, error)
            if self._flight.is_public and not self._can_continue(error):
                raise
            if not attempt.is_repeated and not attempt.source.is_sibling and self._is_worth_repeating(error):
                # A cache on the way may hold a damaged copy: the same upstream, past all caches.
                is_damage = isinstance(error, HashMismatchError)
                race.again(Attempt(attempt.source, is_damage or attempt.wants_fresh_copy, is_repeated=True))
            return False

    def _stop_timer(self) -> None:
        """A timer would keep the body in memory after everybody is done with it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _use(self, asking: Asking, race: Race) -> bool:
        """Takes an answer; whether it is the answer."""
        attempt, response = asking.attempt, asking.response
        head = answer_head(self._order, response, asking.asked_at, self._with.clock.now())
        if 200 <= head.status < 300 and (head.status != 206 or self._arrived):
            await race.settle(asking)
            await self._take(attempt, response, head)
        elif head.status == 304 and self._order.stored is not None and not attempt.source.is_sibling:
            await race.settle(asking)
            await self._keep(self._order.stored, head)
        elif self._is_answer_of_a_site(head.status, is_last=race.is_last):
            await self._take(attempt, response, head)
        else:
            return await self._is_final(attempt, response, head, race)
        if head.status < 500:
            self._with.health.note_success(attempt.source.server, self._with.clock.monotonic())
        else:
            self._note_failure(attempt, StatusError(attempt.source.url, head.status))
        return True

    def _is_answer_of_a_site(self, status: int, *, is_last: bool) -> bool:
        """Whether an error is what an ordinary site wants to say, rather than one server's trouble."""
        if not self._order.destination.is_general or self._arrived or status in {206, 304}:
            return False
        if status < 500 and status not in _NEXT_MAY_KNOW_BETTER:
            return True
        return is_last and self._second_best is None and not (status >= 500 and self._order.has_stand_in)

    def _tell_interim(self, status: int, fields: tuple[tuple[str, str], ...]) -> None:
        self._flight.tell_interim(status, Headers(fields).end_to_end())

    def _request_fields(self, attempt: Attempt) -> Mapping[str, str]:
        fields = self._order.fields(self._with.edge_name)
        if attempt.source.is_sibling:
            fields[SIBLING_FIELD] = self._with.edge_name
        if attempt.wants_fresh_copy:
            fields.update({name.lower(): value for name, value in NO_CACHE.items()})
        if self._order.stored is not None and (not attempt.wants_fresh_copy or self._content.kind is ContentKind.OTHER):
            fields.update(conditional_fields(self._order.stored))
        if self._arrived:
            fields["Range"] = f"bytes={self._arrived}-"
        return fields

    @property
    def _arrived(self) -> int:
        return self._flight.body.arrived if self._flight.body is not None else 0

    # ------------------------------------------------------------------------------------------------ a whole body

    async def _take(self, attempt: Attempt, response: Response, head: StoredHead) -> None:
        """Takes a body to its end."""
        self._is_siblings = attempt.source.is_sibling
        if self._flight.body is None and self._hasher is not None and not self._is_judged and head.status == 200:
            whole = response.whole()
            if whole is not None and len(whole) <= HOLD_BYTES:
                self._take_whole(attempt, head, whole)
                return
        skipped = self._place_of(attempt, response, head)
        body = self._flight.body or self._begin(response, head)
        async for piece in response.chunks():
            self._with.statistics.bytes_fetched += len(piece)
            new = piece[skipped:]
            skipped -= len(piece) - len(new)
            await self._append(attempt, body, new)
        if body.size is not None and body.arrived != body.size:
            raise ShortTransferError(attempt.source.url, f"{body.arrived} bytes came instead of {body.size}")
        await self._finish(attempt, body)

    def _take_whole(self, attempt: Attempt, head: StoredHead, whole: bytes) -> None:
        """Takes a small body that is here already, and which its name proves."""
        self._with.statistics.bytes_fetched += len(whole)
        self._hash(whole)
        self._check_digest(attempt)
        self._judge_storing(head, len(whole))
        self._show_whole(head, whole)
        self._leave_to_store(whole, head)

    def _judge_storing(self, head: StoredHead, size: int) -> None:
        self._head = head
        self._is_shareable = self._keeping.may_share(head)
        self._is_stored = self._is_shareable and size <= self._with.object_bytes_max

    def _show_whole(self, head: StoredHead, body: bytes) -> None:
        entry = self._keeping.entry(head, body)
        self._keeping.remember(entry, is_stored=self._is_stored)
        self._flight.publish(Complete(entry, self._is_stored, self._is_shareable))

    def _leave_to_store(self, body: ArrivingBody | bytes, head: StoredHead) -> None:
        is_kept_here = not self._is_siblings  # the disks of siblings are one cache
        if self._is_stored and is_kept_here and (head.status == 200 or self._content.kind is ContentKind.OTHER):
            self._unstored = body, head

    def _begin(self, response: Response, head: StoredHead) -> ArrivingBody:
        flight = self._flight
        body = ArrivingBody(response.size, is_verified=self._content.digest is not None, clients=lambda: flight.clients)
        flight.body = body
        self._judge_storing(head, response.size or 0)
        loop = asyncio.get_running_loop()
        self._publish_at = loop.time() + HOLD_SECONDS
        self._timer = loop.call_later(HOLD_SECONDS, self._show_if_late, body)
        return body

    def _place_of(self, attempt: Attempt, response: Response, head: StoredHead) -> int:
        """How many bytes of this answer are known already from one that broke off.

        Raises:
            MalformedAnswerError: it does not go on where that one ended.
        """
        body, url = self._flight.body, attempt.source.url
        if body is None:
            return 0
        if head.status != 206:
            if None not in {response.size, body.size} and response.size != body.size:
                raise MalformedAnswerError(url, "it has another size than what another upstream began to send")
            return body.arrived
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != body.arrived or found[2] not in {"*", str(body.size)}:
            raise MalformedAnswerError(url, "the part it sent is not the one asked for")
        return 0

    async def _append(self, attempt: Attempt, body: ArrivingBody, piece: bytes) -> None:
        if body.size is not None and body.arrived + len(piece) > body.size:
            raise MalformedAnswerError(attempt.source.url, f"more than its {body.size} bytes came")
        if self._is_judged and body.arrived + len(piece) > judged_bytes_max(self._content):
            size_max = judged_bytes_max(self._content)
            raise MalformedAnswerError(attempt.source.url, f"a {self._content.kind.value} has at most {size_max} bytes")
        self._hash(piece)
        if body.spool is None and self._is_stored and max(body.size or 0, body.arrived + len(piece)) > HOLD_BYTES:
            await self._begin_spool(body)
        if body.arrived + len(piece) > self._with.object_bytes_max and self._is_stored:
            self._is_stored = False
            body.storage_error = StorageError(f"{attempt.source.url} is larger than what is stored")
        await body.append(piece)
        if max(body.size or 0, body.arrived) > HOLD_BYTES:
            self._show(body)
        else:
            self._show_if_late(body)

    async def _begin_spool(self, body: ArrivingBody) -> None:
        try:
            body.spool = await asyncio.to_thread(self._with.disk.spool)
        except StorageError as error:
            self._keeping.note_refused(error)
            self._is_stored = False

    def _show_if_late(self, body: ArrivingBody) -> None:
        if body.arrived and body is self._flight.body and asyncio.get_running_loop().time() >= self._publish_at:
            self._show(body)

    def _show(self, body: ArrivingBody) -> None:
        """Lets clients see a body that is still arriving; manifests and whitelists are judged whole."""
        if self._head is not None and (not self._is_judged or body.is_complete):
            is_stored = self._is_stored and not self._is_siblings
            self._flight.publish(Arriving(self._head, self._content, body, is_stored, self._is_shareable))

    async def _finish(self, attempt: Attempt, body: ArrivingBody) -> None:
        assert self._head is not None
        self._stop_timer()
        self._check_digest(attempt)
        if self._is_judged and self._with.documents is not None:
            await self._with.documents.judge(self._order, body.joined())
        body.finish()
        if self._is_stored and not self._flight.is_outdated and self._head.selecting:
            self._with.variants.note(self._order.destination.key, self._content, self._head.selecting)
        if not self._flight.is_public and body.is_whole_in_memory:
            self._show_whole(self._head, body.joined())
        self._show(body)
        self._leave_to_store(body, self._head)

    def _check_digest(self, attempt: Attempt) -> None:
        if self._hasher is not None:
            digest = self._hasher.digest()
            if digest != self._content.digest:
                raise HashMismatchError(attempt.source.url, digest.text)

    # ------------------------------------------------------------------------------------------------ other answers

    async def _keep(self, stored: StoredHead, confirmation: StoredHead) -> None:
        """The stored response is still current (RFC 9111 §4.3.4)."""
        head = refreshed(stored, confirmation.headers, confirmation.asked_at, confirmation.answered_at)
        await self._keeping.refresh(head)
        self._flight.publish(Kept(head))

    async def _is_final(self, attempt: Attempt, response: Response, head: StoredHead, race: Race) -> bool:
        """Takes an answer without what was asked for; whether asking further upstreams is pointless."""
        source, status = attempt.source, head.status
        if self._is_failure(source, status):
            self._note(attempt, StatusError(source.url, status, retry_after_seconds(response.headers)))
        else:
            self._with.health.note_success(source.server, self._with.clock.monotonic())
        if self._flight.is_public or source.is_sibling:  # a sibling knows less than those it would have asked
            return False
        entry = self._keeping.entry(head, await _small_body(response))
        is_final = status < 500 and status not in _NEXT_MAY_KNOW_BETTER
        is_shareable = self._keeping.may_share(head)
        answer = Complete(entry, is_stored=is_final and is_shareable, is_shareable=is_shareable)
        if is_final:
            if is_shareable and not self._flight.is_outdated:
                self._with.memory.put(entry)
            self._flight.publish(answer)
        elif status in _BELIEVED_BY_ALL:
            self._negatives.add(source.origin)
            race.skip(source.origin)
            self._second_best = answer
        elif self._second_best is None and status not in {206, 304}:
            self._second_best = answer
        return is_final

    def _is_failure(self, source: Source, status: int) -> bool:
        """Whether a status is the server's trouble; of an ordinary site, 429 is for one client and not for all."""
        if source.is_sibling and status in {502, 504}:  # it is well, but found no upstream that is
            return False
        return status >= 500 or status in {206, 304} or (status == 429 and not self._order.destination.is_general)

    def _give_up(self) -> None:
        """No upstream had it. That there is no such thing is believed if all of them said so.

        Raises:
            UpstreamsFailedError: they did not.
        """
        best, sources = self._second_best, self._order.destination.sources
        if best is None or not self._negatives >= {source.origin for source in sources}:
            raise UpstreamsFailedError(sources[0].url, tuple(self._causes), best)
        if best.is_shareable and not self._flight.is_outdated:
            self._with.memory.put_negative(best.entry)
        self._flight.publish(replace(best, is_stored=best.is_shareable))

    def _note(self, attempt: Attempt, error: CdnError) -> None:
        """Remembers what went wrong, and forgets a body that nobody has seen and nobody can continue."""
        self._note_failure(attempt, error)
        self._causes.append(error)
        if not self._flight.is_public and not self._can_continue(error):
            self._discard_body()

    def _note_failure(self, attempt: Attempt, error: CdnError) -> None:
        statistics, server = self._with.statistics, attempt.source.server
        statistics.fetch_failures[server] += 1
        if isinstance(error, HashMismatchError):
            statistics.hash_failures += 1
        if isinstance(error, RollbackError):
            statistics.older_manifests += 1
        else:
            self._with.health.note_failure(server, error, self._with.clock.monotonic())
        request_id = named(self._order.request_id)
        self._with.warn("edge.upstream.failed", server, url=attempt.source.url, reason=str(error), **request_id)

    def _can_continue(self, error: CdnError) -> bool:
        """Whether another upstream may go on where this one stopped: only for bodies that prove themselves."""
        return self._content.digest is not None and isinstance(error, TransportError)

    def _is_worth_repeating(self, error: CdnError) -> bool:
        return isinstance(error, HashMismatchError) or (isinstance(error, ShortTransferError) and self._arrived > 0)

    def _discard_body(self) -> None:
        body, self._flight.body = self._flight.body, None
        if body is not None and body.spool is not None:
            body.spool.close()
        self._stop_timer()
        self._new_hash()

    # ------------------------------------------------------------------------------------------------ digests

    def _new_hash(self) -> None:
        digest = self._content.digest
        self._hasher = Hasher(digest.algorithm) if digest is not None else None
        self._checksum = hashlib.sha256() if self._hasher is None else None

    def _hash(self, piece: bytes) -> None:
        if self._hasher is not None:
            self._hasher.update_at_once(piece)
        elif self._is_stored and self._checksum is not None:
            self._checksum.update(piece)


def answer_head(order: FetchOrder, response: Response, asked_at: float, now: float) -> StoredHead:
    """The head of an answer as it is kept and passed on.

    Args:
        order: what was asked for.
        response: what came.
        asked_at: when it was asked for, in seconds since the epoch.
        now: when it came.
    """
    content = order.destination.content
    headers = dated(kept_fields(content, Headers(response.fields)), now)
    # Nothing of the client's is passed on with what is a repository's, so nothing of it can matter.
    is_other = content.kind is ContentKind.OTHER
    selecting = selecting_fields(order.request, headers) if is_other else ()
    return StoredHead(response.status, headers, asked_at, now, selecting)


async def _small_body(response: Response) -> bytes:
    """The body of an error page, as far as it is worth reading."""
    pieces: list[bytes] = []
    left = ERROR_BODY_BYTES_MAX
    async for piece in response.chunks():
        pieces.append(piece)
        left -= len(piece)
        if left < 0:
            return b""
    return b"".join(pieces)
