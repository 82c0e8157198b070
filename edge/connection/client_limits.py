"""How much one address may take: connections at once, and requests in the long run.

An address is an IPv4 address or, since whoever has one IPv6 address has a network full of them, a /64 network. The
table of addresses is bounded: those with connections are as many as connections at most, and of the others only so many
are remembered. Several workers count in one table that they share.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from edge.connection.client_table import ClientTable, Slot

ADDRESSES_MAX: Final = 65_536
"""How many addresses without connections are remembered for what they have asked."""
_NETWORK_BITS: Final = 64


class Client:
    """One address.

    Args:
        key: the address or network.
        tokens: how many requests it may make at once.
        now: in seconds on any clock that only goes forward.
        slot: where all workers count it.
    """

    __slots__ = ("connections", "key", "slot", "tokens", "updated_at")

    def __init__(self, key: str, tokens: float, now: float, slot: Slot | None = None) -> None:
        self.key = key
        self.slot = slot
        self.connections = 0
        self.tokens = tokens
        self.updated_at = now


class ClientLimits:
    """Knows the clients there are.

    Args:
        connections_max: of one address; 0 for any number.
        requests_per_second: of one address; 0 for any number.
        burst: how many it may make at once.
        exempt: networks without limits.
    """

    def __init__(
        self,
        connections_max: int = 0,
        requests_per_second: float = 0.0,
        burst: float = 1.0,
        exempt: Iterable[str] = (),
    ) -> None:
        self._connections_max = connections_max
        self._rate = requests_per_second
        self._burst = burst
        self._exempt = tuple(ipaddress.ip_network(network) for network in exempt)
        self._clients: dict[str, Client] = {}
        self._remembered: OrderedDict[str, Client] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clients) + len(self._remembered)

    @property
    def is_counting_requests(self) -> bool:
        """Whether requests are limited."""
        return self._rate > 0

    def is_limited(self, address: str) -> bool:
        """Whether limits apply to an address; to what is none, such as a Unix socket, they do not."""
        if not self._connections_max and not self._rate:
            return False
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
        return not any((mapped or parsed) in network for network in self._exempt)

    def admit(self, address: str, now: float) -> Client | None:
        """Takes one more connection from an address; None if it has too many. Ends with `leave`."""
        key = address_key(address)
        client = self._clients.get(key) or self._remembered.pop(key, None) or Client(key, self._burst, now)
        if self._connections_max and client.connections >= self._connections_max:
            return None
        self._clients[key] = client
        client.connections += 1
        return client

    def leave(self, client: Client, now: float) -> None:
        """One connection less."""
        client.connections -= 1
        if client.connections:
            return
        del self._clients[client.key]
        if self._rate and self._tokens(client, now) < self._burst:
            self._remembered[client.key] = client
            if len(self._remembered) > ADDRESSES_MAX:
                self._remembered.popitem(last=False)

    def _tokens(self, client: Client, now: float) -> float:
        return min(self._burst, client.tokens + max(0.0, now - client.updated_at) * self._rate)

    def wait_seconds(self, client: Client, now: float) -> float:
        """Counts a request; how long it should have waited, and 0 if it may be answered."""
        client.tokens = self._tokens(client, now)
        client.updated_at = now
        if client.tokens < 1.0:
            return (1.0 - client.tokens) / self._rate
        client.tokens -= 1.0
        return 0.0


def address_key(address: str) -> str:
    """What counts as one client."""
    if ":" not in address:
        return address
    parsed = ipaddress.IPv6Address(address.partition("%")[0])
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, _NETWORK_BITS), strict=False))


class JointLimits(ClientLimits):
    """The same for several workers together.

    Args:
        table: where all of them count.
        connections_max, requests_per_second, burst, exempt: as above.
    """

    def __init__(
        self,
        table: ClientTable,
        connections_max: int = 0,
        requests_per_second: float = 0.0,
        burst: float = 1.0,
        exempt: Iterable[str] = (),
    ) -> None:
        super().__init__(connections_max, requests_per_second, burst, exempt)
        self._table = table

    def admit(self, address: str, now: float) -> Client | None:
        """Takes one more connection from an address; None if it has too many. Ends with `leave`."""
        key = address_key(address)
        slot = self._table.enter(key, self._connections_max, self._burst, now)
        return None if slot is None else Client(key, self._burst, now, slot)

    def leave(self, client: Client, now: float) -> None:
        """One connection less."""
        assert client.slot is not None
        self._table.leave(client.slot)

    def wait_seconds(self, client: Client, now: float) -> float:
        """Counts a request; how long it should have waited, and 0 if it may be answered."""
        assert client.slot is not None
        return self._table.take(client.slot, self._rate, self._burst, now)
