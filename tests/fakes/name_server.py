"""A DNS server on loopback that answers as a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset


class NameServer(asyncio.DatagramProtocol):
    """Knows `addresses` (IPv4) with one TTL; may be mute, or talk nonsense."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.ttl = 0
        self.is_mute = False
        self.nonsense: bytes | None = None
        self.asked: list[str] = []
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        self.asked.append(name)
        if self.is_mute:
            return
        if self.nonsense is not None:
            self._transport.sendto(data[:2] + self.nonsense, addr)
            return
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        known = self.addresses.get(name)
        if known is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype == dns.rdatatype.A:
            answer.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", "A", *known))
        self._transport.sendto(answer.to_wire(), addr)


@asynccontextmanager
async def running_name_server() -> AsyncIterator[tuple[NameServer, str]]:
    """A name server for the length of a block, and its address and port."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    host, port = transport.get_extra_info("sockname")
    try:
        yield server, f"{host}:{port}"
    finally:
        transport.close()
