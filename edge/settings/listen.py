"""What an edge is told about where requests arrive."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from edge.settings.checks import check_positive, in_key, listen_address

_UNIX_MARK: Final = "unix:"
_SYSTEMD_MARK: Final = "systemd:"
_UNIX_PATH_BYTES_MAX: Final = 107
"""What fits into the kernel's address of a Unix socket."""
_SOCKET_NAME: Final = re.compile(r"[\x21-\x39\x3b-\x7e]{1,255}", re.ASCII)
_ANY: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 -- looked for, not listened at
_MODE: Final = re.compile(r"0?[0-7]{3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """An address and a port of this machine."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket in the file system."""

    path: Path

    def __str__(self) -> str:
        return f"{_UNIX_MARK}{self.path}"


@dataclass(frozen=True, slots=True)
class SystemdName:
    """Sockets that systemd opens and hands over, by their name."""

    name: str

    def __str__(self) -> str:
        return f"{_SYSTEMD_MARK}{self.name}"


ListenAddress = TcpAddress | UnixAddress | SystemdName


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """An address at which clients speak TLS.

    Args:
        address: as in ``listen.addresses``, where it is not named again.
        certificate: a PEM file: the certificate of the edge and then those that lead to a root. SIGHUP reads it again.
        key: a PEM file with its private key, not encrypted, and readable for the edge only.
        minimum: the oldest version of TLS that is spoken.
    """

    address: str
    certificate: Path
    key: Path
    minimum: Literal["1.2", "1.3"] = "1.2"

    def __post_init__(self) -> None:
        with in_key("address"):
            parse_address(self.address)


@dataclass(frozen=True, slots=True)
class ListenSettings:
    """Where requests arrive.

    Args:
        addresses: ``ADDRESS:PORT`` (IPv6 in brackets), ``unix:/PATH``, or ``systemd:NAME`` for the sockets that a
            systemd socket unit hands over with ``FileDescriptorName=NAME``.
        backlog: connections that may wait to be accepted.
        unix_mode: who may connect to Unix sockets: their mode in the file system.
        tls: addresses at which clients speak TLS.
    """

    addresses: tuple[str, ...] = ("127.0.0.1:8000",)
    backlog: int = 4096
    unix_mode: str = "0660"
    tls: tuple[TlsSettings, ...] = ()

    def __post_init__(self) -> None:
        if not self.addresses and not self.tls:
            raise ValueError("addresses: name at least one address to listen on")
        for address in self.addresses:
            with in_key("addresses"):
                parse_address(address)
        self._check_distinct()
        if not _MODE.fullmatch(self.unix_mode):
            raise ValueError(f"unix_mode: {self.unix_mode!r} is no mode such as 0660")
        check_positive(self, "backlog")

    def _check_distinct(self) -> None:
        seen = set()
        for text in self.all_addresses:
            address = parse_address(text)
            if address in seen:
                raise ValueError(f"addresses: {text} is named twice")
            seen.add(address)

    @property
    def all_addresses(self) -> Iterator[str]:
        """Every address, those with TLS last."""
        yield from self.addresses
        yield from (each.address for each in self.tls)

    def takes(self, text: str) -> bool:
        """Whether nobody else can listen at ``ADDRESS:PORT``."""
        host, port = listen_address(text)
        addresses = [each for each in map(parse_address, self.all_addresses) if isinstance(each, TcpAddress)]
        taken = {each.host for each in addresses if each.port == port > 0}
        return host in taken or bool(taken and _ANY & {host, *taken})

    def tls_of(self, address: str) -> TlsSettings | None:
        """What is told about TLS at an address; None if plain HTTP is spoken there."""
        return next((each for each in self.tls if each.address == address), None)

    def relative_to(self, directory: Path) -> ListenSettings:
        """The same with relative paths of certificates and keys taken from a directory."""
        resolved = tuple(
            replace(each, certificate=directory / each.certificate, key=directory / each.key) for each in self.tls
        )
        return replace(self, tls=resolved)


def parse_address(text: str) -> ListenAddress:
    """Reads where to listen.

    Raises:
        ValueError: it is none of the forms.
    """
    if text.startswith(_UNIX_MARK):
        return UnixAddress(_unix_path(text.removeprefix(_UNIX_MARK)))
    if text.startswith(_SYSTEMD_MARK):
        name = text.removeprefix(_SYSTEMD_MARK)
        if not _SOCKET_NAME.fullmatch(name):
            raise ValueError(f"{text!r} names no socket of systemd, such as systemd:http")
        return SystemdName(name)
    return TcpAddress(*listen_address(text))


def _unix_path(text: str) -> Path:
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"{_UNIX_MARK + text!r} is not unix: and an absolute path")
    if len(text.encode("utf-8", "surrogateescape")) > _UNIX_PATH_BYTES_MAX:
        raise ValueError(f"{text!r} is longer than the {_UNIX_PATH_BYTES_MAX} bytes that fit into a socket's address")
    return Path(text)
