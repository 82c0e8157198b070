"""The Geo API over HTTP, which CernVM-FS clients ask for the order of servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web

from geodns.config import GeoApiSettings
from geodns.geo import Geography, Location, Position, packed_address
from geodns.geo_api import (
    LOOKUP_COUNT_LOCATOR,
    SEPARATOR,
    GeoReply,
    client_address,
    may_be_host,
    order_servers,
    parse_geo_path,
)
from geodns.name_lookup import SystemNameLookup

HEADER_BYTES_MAX: Final = 8190


class GeoApiService:
    """Answers the Geo API.

    Args:
        settings: positions by name, and limits.
        geography: where addresses are; a function, because a reload replaces it.
        lookup: which addresses names have.
    """

    def __init__(self, settings: GeoApiSettings, geography: Callable[[], Geography], lookup: SystemNameLookup) -> None:
        self._settings = settings
        self._hosts = {host.name.lower(): Position(host.latitude, host.longitude) for host in settings.hosts}
        self._geography = geography
        self._lookup = lookup

    def application(self) -> web.Application:
        """Returns the application; every path leads here, because all below ``api/`` has its own errors."""
        application = web.Application(
            handler_args={"max_line_size": HEADER_BYTES_MAX, "max_field_size": HEADER_BYTES_MAX}
        )
        application.router.add_route("GET", "/{path:.*}", self._handle)
        return application

    async def _handle(self, request: web.Request) -> web.Response:
        reply = await self.reply(request.raw_path.partition("?")[0], request.headers, request.remote or "")
        headers = {"Cache-Control": f"max-age={reply.age_seconds_max}", "Content-Type": "text/plain; charset=utf-8"}
        return web.Response(status=reply.status, text=reply.text, headers=headers)

    async def reply(self, path: str, headers: Mapping[str, str], peer: str) -> GeoReply:
        """Answers one request.

        Args:
            path: of the request, escaped as it came.
            headers: of the request.
            peer: the address of the connection.
        """
        parsed = parse_geo_path(path, self._settings.names_max)
        if isinstance(parsed, GeoReply):
            return parsed
        if parsed.locator == LOOKUP_COUNT_LOCATOR:
            return GeoReply(200, f"{self._lookup.count}\n")
        names = list(dict.fromkeys(name for name in parsed.names if name != SEPARATOR))
        behind_cloudflare = "CF-Connecting-IP" in headers
        requester, *positions = await asyncio.gather(
            self._requester(parsed.locator, client_address(headers, peer)),
            *(self._server_position(name, behind_cloudflare=behind_cloudflare) for name in names),
        )
        known = dict(zip(names, positions, strict=True))
        return order_servers(requester, parsed.names, known.get)

    async def _requester(self, locator: str, address: str) -> Position | None:
        """Locates the client.

        A locator that is a host counts alone, even if its place is unknown: caches give the reply to all who use it.
        """
        position, is_host = await self._position(locator)
        if is_host:
            return position
        return self._address_position(address)

    async def _server_position(self, name: str, *, behind_cloudflare: bool) -> Position | None:
        if behind_cloudflare:  # the name itself leads to the nearest machine of the cloud, which says nothing
            position, _ = await self._position(f"ip.{name}")
            if position is not None:
                return position
        position, _ = await self._position(name)
        return position

    async def _position(self, name: str) -> tuple[Position | None, bool]:
        """Returns where a host is, and whether there is such a host at all."""
        listed = self._hosts.get(name.lower())
        if listed is not None:
            return listed, True
        try:
            addresses: tuple[bytes, ...] = (packed_address(name),)
        except ValueError:
            addresses = await self._lookup.addresses(name.lower()) if may_be_host(name) else ()
        for address in addresses:
            located: Location = self._geography().locate(address)
            if located.position is not None:
                return located.position, True
        return None, bool(addresses)

    def _address_position(self, address: str) -> Position | None:
        listed = self._hosts.get(address.lower())
        if listed is not None:
            return listed
        try:
            return self._geography().locate(packed_address(address)).position
        except ValueError:
            return None
