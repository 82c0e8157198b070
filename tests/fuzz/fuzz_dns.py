"""DNS packets from strangers: a reply that another implementation can read, or silence, and never an error."""

from __future__ import annotations

import dns.exception
import dns.message

from geodns.answer import failure_answer, truncated_answer
from geodns.geo import packed_address
from geodns.wire import ResponseCode
from tests.fakes.geodns import GENEVA_CLIENT, ZONE, authority, query, subnet_option
from tests.fuzz.driver import main

AUTHORITY = authority()
CLIENT = packed_address(GENEVA_CLIENT)


def seeds() -> list[bytes]:
    labels = ("edge", "www", "broken", "loop", "huge", "deep", "nothing")
    options = (None, b"", subnet_option("192.0.2.0", 24), subnet_option("2001:db8:aa::", 48), bytes.fromhex("000a0000"))
    return [
        query(f"{label}.{ZONE}", kind, options=option)
        for label in labels
        for kind in (1, 28, 255)
        for option in options
    ]


def check(data: bytes) -> None:
    truncated_answer(data)
    failure_answer(data)
    for tcp in (False, True):
        answer = AUTHORITY.answer(data, CLIENT, tcp=tcp)
        if answer is None:
            assert len(data) < 12 or data[2] & 0x80, "an honest query got silence"
            continue
        assert answer.message[:2] == data[:2]
        assert answer.message[2] & 0x80
        assert tcp or len(answer.message) <= 1232
        if answer.code in (ResponseCode.NOERROR, ResponseCode.NXDOMAIN):
            try:
                dns.message.from_wire(answer.message)
            except dns.exception.DNSException as error:
                raise AssertionError(f"the reply cannot be read: {error}") from error


if __name__ == "__main__":
    main(
        "fuzz_dns",
        seeds,
        check,
        tokens=[b"\xc0\x0c", b"\xc0\x00", b"\x00\x29", b"\x00\x08", b"\x3f", b"\x40", b"\xff\xff"],
    )
