"""Which requests are plain enough for the short way, and the bytes of their heads (RFC 9112 §3). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cdn.transport.base import Request

_URL: Final = re.compile(r'http://((?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)((?:/[!"$-~]*)?)')
_METHODS: Final = frozenset({"GET", "HEAD"})
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOSTS_MAX: Final = 1024
_KEPT_MAX: Final = 256
_KEPT_BYTES_MAX: Final = 1024

Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Host:
    """Where a connection goes.

    Args:
        name: a domain name or an address, without brackets.
        port: of TCP.
        text: both as they stood in the URL.
    """

    name: str
    port: int
    text: str


class PlainRequests:
    """Writes heads of plain requests: GET or HEAD of an `http` URL without a body.

    Args:
        fields: sent with every request that does not have its own of that name.
    """

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = {name.lower(): f"{name}: {value}\r\n" for name, value in fields.items()}
        self._hosts: dict[str, Host | None] = {}
        self._kept: dict[tuple[str, Fields], bytes] = {}

    def host_of(self, request: Request) -> Host | None:
        """Where the request is sent; None if it is not plain."""
        if request.body is not None or request.method not in _METHODS:
            return None
        found = _URL.fullmatch(request.url)
        if found is None:
            return None
        if request.proxy is None:
            return self._host(found[1])
        proxy = _URL.fullmatch(request.proxy)
        return self._host(proxy[1]) if proxy is not None and proxy[2] in {"", "/"} else None

    def head_of(self, request: Request) -> bytes:
        """The head of a plain request.

        Raises:
            ValueError: a field is none.
        """
        scheme, _, rest = request.url.partition("://")
        text, slash, path = rest.partition("/")
        target = f"{slash or '/'}{path}" if request.proxy is None else f"{scheme}://{text}/{path}"
        line = f"{request.method} {target} HTTP/1.1\r\n"
        return line.encode("utf-8", "surrogateescape") + self._fields_for(text, tuple(request.headers.items()))

    def _fields_for(self, host: str, own: Fields) -> bytes:
        """What follows the request line; most requests to a server have the same fields."""
        known = self._kept.get((host, own))
        if known is None:
            known = self._written(host, own)
            if len(known) <= _KEPT_BYTES_MAX:
                if len(self._kept) >= _KEPT_MAX:
                    self._kept.clear()
                self._kept[host, own] = known
        return known

    def _written(self, host: str, fields: Fields) -> bytes:
        own = {name.lower(): (name, value) for name, value in fields}
        lines = [] if "host" in own else [f"Host: {host.removesuffix(':80')}\r\n"]
        lines += [line for name, line in self._fields.items() if name not in own]
        lines += [_line(name, value) for name, value in own.values()]
        lines.append("\r\n")
        return "".join(lines).encode("utf-8", "surrogateescape")

    def _host(self, text: str) -> Host | None:
        if text in self._hosts:
            return self._hosts[text]
        if len(self._hosts) >= _HOSTS_MAX:
            self._hosts.clear()
        name, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
        number = int(port) if colon and port else 80
        name = (name if colon else text).removeprefix("[").removesuffix("]")
        known = self._hosts[text] = Host(name, number, text) if name.strip(".") and 0 < number < 65536 else None
        return known


def _line(name: str, value: str) -> str:
    if _NAME.fullmatch(name) is None or "\n" in value or "\r" in value or "\0" in value:
        raise ValueError(f"{name[:80]!r} is no field that can be sent")
    return f"{name}: {value}\r\n"
