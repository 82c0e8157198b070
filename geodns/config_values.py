"""What several parts of the configuration are read and checked with."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

from geodns.wire import Name
from geodns.zone import TTL_SECONDS_MAX

CHECK_SCHEMES: Final = ("http", "https", "tcp")


def listen_address(text: str) -> tuple[str, int]:
    """Reads ``127.0.0.1:8053`` or ``[::1]:8053``.

    Raises:
        ValueError: for anything else.
    """
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (colon and port.isascii() and port.isdigit()):
        raise ValueError(f"{text!r} is not ADDRESS:PORT")
    ipaddress.ip_address(host)
    check_port("port", int(port))
    return host, int(port)


def check_target(url: str) -> tuple[str, str, int]:
    """Returns scheme, host and port of a health check.

    Raises:
        ValueError: if it is none of ``http://``, ``https://``, ``tcp://`` with a host, and for tcp a port.
    """
    parts = urlsplit(url)
    if parts.scheme not in CHECK_SCHEMES or not parts.hostname:
        raise ValueError(f"{url!r} is not http://HOST:PORT/PATH, https://HOST:PORT/PATH or tcp://HOST:PORT")
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    if port is None:
        raise ValueError(f"{url!r} needs a port")
    return parts.scheme, parts.hostname, port


def contact_name(contact: str, origin: Name) -> Name:
    """Returns a mailbox as the SOA record writes it, by default hostmaster of the zone.

    Raises:
        ValueError: if it is no mailbox that fits a domain name.
    """
    if not contact:
        return Name(b"\x0ahostmaster" + origin)
    mailbox, at, domain = contact.partition("@")
    if not at:
        raise ValueError(f"{contact!r} is not a mailbox such as hostmaster@example.org")
    local = mailbox.encode("utf-8")
    if not 1 <= len(local) <= 63:
        raise ValueError(f"{contact!r} has a name before the @ that does not fit 63 bytes")
    return Name(bytes((len(local),)) + local + Name.from_text(domain).folded)


@contextmanager
def in_key(key: str) -> Iterator[None]:
    """Puts the key before what is wrong with its value."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def check_port(key: str, port: int) -> None:
    """Refuses what is no port.

    Raises:
        ValueError: naming the key.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"{key}: {port} is not a port")


def check_ttl(key: str, seconds: int) -> None:
    """Refuses what no record may have as its time to live.

    Raises:
        ValueError: naming the key.
    """
    if not 0 <= seconds <= TTL_SECONDS_MAX:
        raise ValueError(f"{key}: {seconds} is not between 0 and {TTL_SECONDS_MAX} seconds")


def check_positive(settings: object, *keys: str) -> None:
    """Refuses zero and less.

    Raises:
        ValueError: naming the key.
    """
    for key in keys:
        if not getattr(settings, key) > 0:
            raise ValueError(f"{key}: it must be more than 0")


def check_unique(key: str, names: Iterable[str], what: str = "") -> None:
    """Refuses names that are empty or there twice.

    Raises:
        ValueError: naming the key.
    """
    seen: set[str] = set()
    for name in names:
        if not name:
            raise ValueError(f"{key}: a name is empty")
        if name in seen:
            raise ValueError(f"{key}: {what + ' ' if what else ''}{name!r} is there twice")
        seen.add(name)
