"""What several parts of an edge's configuration are checked with."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from edge.http.request import RequestError
from edge.http.target import Target, parse_target

NAME: Final = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,100}", re.ASCII)


def listen_address(text: str) -> tuple[str, int]:
    """Reads ``127.0.0.1:8000`` or ``[::1]:8000``.

    Raises:
        ValueError: for anything else.
    """
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (colon and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError(f"{text!r} is not ADDRESS:PORT")
    try:
        ipaddress.ip_address(host)
    except ValueError as error:
        raise ValueError(f"{host!r} is no IP address such as 127.0.0.1 or [::1]; names are not looked up") from error
    return host, int(port)


def url_target(url: str) -> Target:
    """Reads a base URL in canonical form.

    Raises:
        ValueError: it is not ``http://`` or ``https://`` with a host.
    """
    try:
        target = parse_target(url)
    except RequestError as error:
        raise ValueError(f"{url!r} is no base URL: {error.reason}") from error
    if not target.origin or target.query is not None:
        raise ValueError(f"{url!r} is no base URL such as http://stratum1.example.org/cvmfs/@fqrn@")
    return target


@contextmanager
def in_key(name: str) -> Iterator[None]:
    """Puts the key before what a check says."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def check_positive(settings: object, *names: str) -> None:
    """Refuses zero.

    Raises:
        ValueError: naming the key.
    """
    for name in names:
        if getattr(settings, name) <= 0:
            raise ValueError(f"{name}: must be greater than zero")
