"""From a packet to a reply, by the shortest way: look it up, and only if it is new work it out.

This is the hot path. A hit costs a slice, a dictionary access or two and a concatenation; nothing is parsed and no
task is made. Whoever feeds it packets (the datagram and stream protocols of `geodns.listeners`) stays as thin as can
be.
"""

from __future__ import annotations

from cdn.clock import Clock
from cdn.telemetry import event
from geodns.answer import Answer, Authority, failure_answer, truncated_answer
from geodns.answer_cache import AnswerCache, CachedAnswer
from geodns.geo import packed_address
from geodns.rate_limit import ReplyLimiter, Verdict
from geodns.statistics import Statistics
from geodns.wire import ResponseCode


class Responder:
    """Answers packets from the present authority.

    Args:
        authority: what answers are made from; replaced as a whole when health or configuration change.
        statistics: where to count.
        clock: for the rate limit.
        cache_entries_max: how many answers are kept ready, for each of UDP and TCP.
        replies_per_second: the UDP rate limit by client network; 0 means none.
    """

    def __init__(
        self,
        authority: Authority,
        statistics: Statistics,
        clock: Clock,
        *,
        cache_entries_max: int,
        replies_per_second: float = 0,
    ) -> None:
        self._authority = authority
        self._statistics = statistics
        self._clock = clock
        self._udp_cache = AnswerCache(cache_entries_max)
        self._tcp_cache = AnswerCache(cache_entries_max // 8)
        self._limiter = ReplyLimiter(replies_per_second) if replies_per_second else None

    @property
    def authority(self) -> Authority:
        """What answers are made from at present."""
        return self._authority

    def replace_authority(self, authority: Authority) -> None:
        """Answers from something newer from now on."""
        self._authority = authority
        self._udp_cache.clear()
        self._tcp_cache.clear()

    def respond_udp(self, message: bytes, host: str) -> bytes | None:
        """Returns the reply to a datagram, or None where none is sent."""
        if self._limiter is not None:
            verdict = self._limiter.judge(host, self._clock.monotonic())
            if verdict is not Verdict.SEND:
                self._statistics.rate_limited += 1
                return truncated_answer(message) if verdict is Verdict.TRUNCATE else None
        reply = self._respond(message, host, self._udp_cache, tcp=False)
        if reply is not None:
            self._statistics.udp_replies += 1
        return reply

    def respond_tcp(self, message: bytes, host: str) -> bytes | None:
        """Returns the reply to one message of a TCP connection, without its length, or None where none is sent."""
        reply = self._respond(message, host, self._tcp_cache, tcp=True)
        if reply is not None:
            self._statistics.tcp_replies += 1
        return reply

    def _respond(self, message: bytes, host: str, cache: AnswerCache, *, tcp: bool) -> bytes | None:
        tail = message[2:]
        kept = cache.find(tail, host)
        if kept is not None:
            self._statistics.cache_hits += 1
            self._statistics.count(kept.answer)
            wire = kept.wires[kept.advance()] or self._fill(kept, message, host, tcp=tcp)
            return message[:2] + wire
        answer = self._work_out(message, host, tcp=tcp)
        if answer is None:
            self._statistics.dropped += 1
            return None
        self._statistics.count(answer)
        if answer.code is not ResponseCode.SERVFAIL:
            cache.keep(tail, host, answer)
        return answer.message

    def _fill(self, kept: CachedAnswer, message: bytes, host: str, *, tcp: bool) -> bytes:
        """Works out a rotation that was not asked for before."""
        answer = self._work_out(message, host, tcp=tcp, turn=kept.turn)
        if answer is None or answer.code is ResponseCode.SERVFAIL:
            return kept.wires[0] or kept.answer.message[2:]
        wire = answer.message[2:]
        kept.wires[kept.turn] = wire
        return wire

    def _work_out(self, message: bytes, host: str, *, tcp: bool, turn: int = 0) -> Answer | None:
        try:
            return self._authority.answer(message, packed_address(host), tcp=tcp, turn=turn)
        except Exception as error:  # noqa: BLE001 -- our own mistake: it must not end the server
            self._statistics.failures += 1
            event(
                "geodns.query.failed",
                level="error",
                error=f"{type(error).__name__}: {error}",
                query=message[:128].hex(),
            )
            failure = failure_answer(message)
            return None if failure is None else Answer(failure, ResponseCode.SERVFAIL)
