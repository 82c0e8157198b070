"""Finding an edge as a client does: a DNS query to GeoDNS that says where the client is (ECS, RFC 7871)."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cdn.demo.report import DemoFailedError

QUERY_SECONDS: Final = 2.0
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class Located:
    """What GeoDNS answered.

    Args:
        addresses: of the edge.
        ttl_seconds: how long the answer may be kept.
    """

    addresses: tuple[str, ...]
    ttl_seconds: float


async def ask(server: tuple[str, int], name: str, network: str) -> Located:
    """Asks GeoDNS on behalf of a client in a network.

    Raises:
        DemoFailedError: there is no answer, or none with an address.
    """
    import dns.asyncquery
    import dns.edns
    import dns.exception
    import dns.message
    import dns.rdatatype

    subnet = ipaddress.ip_network(network)
    option = dns.edns.ECSOption(str(subnet.network_address), subnet.prefixlen)
    query = dns.message.make_query(name, "A", use_edns=0, options=[option])
    error: Exception | None = None
    for _ in range(_ATTEMPTS):
        try:
            reply = await dns.asyncquery.udp(query, server[0], port=server[1], timeout=QUERY_SECONDS)
        except (dns.exception.DNSException, OSError) as failure:
            error = failure
            continue
        records = [record for record in reply.answer if record.rdtype == dns.rdatatype.A]
        addresses = tuple(str(each.address) for record in records for each in record)
        if addresses:
            return Located(addresses, min(record.ttl for record in records))
        error = None
    raise DemoFailedError(f"GeoDNS names no address for {name}" + (f": {error}" if error else ""))


class GeoResolver:
    """Finds edges for the client library, and keeps an answer as long as DNS allows.

    Args:
        server: address and port of GeoDNS.
        network: where the client is.
    """

    def __init__(self, server: tuple[str, int], network: str) -> None:
        self._server = server
        self._network = network
        self._known: dict[str, tuple[Located, float]] = {}

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Addresses of a host, the preferred one first.

        Raises:
            OSError: there are none.
        """
        known, until = self._known.get(host, (None, 0.0))
        if known is None or time.monotonic() >= until:
            try:
                known = await ask(self._server, host, self._network)
            except DemoFailedError as error:
                raise OSError(str(error)) from error
            self._known[host] = (known, time.monotonic() + known.ttl_seconds)
        return known.addresses
