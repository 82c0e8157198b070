"""Loads what says where clients are: a map file, a MaxMind database, or both under the networks of the configuration.

A database is copied into memory before it is read: a file that is overwritten in place while it is mapped would kill
the process with a bus error. It is probed before it is believed: its metadata may be fine while its tree or data are
damaged, or it may be of a kind without coordinates. A damaged file is refused as a whole, so that a reload keeps what
it had.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

import maxminddb

from cdn.errors import ConfigError, DocumentError
from cdn.telemetry import event, step
from geodns.config import GeographySettings
from geodns.geo import Geography, LayeredGeography, Location, NetworkMap, Position, parse_network, parse_network_map

FILE_BYTES_MAX: Final = 2 << 30
PROBED_NETWORKS_MAX: Final = 20_000
"""How many networks of a database are read before it is believed; small databases are read whole."""
PROBED_ADDRESSES: Final = 4096
_FOREIGN_ERRORS: Final = (
    maxminddb.InvalidDatabaseError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    MemoryError,
    RecursionError,
    OverflowError,
)
"""What the reader was seen to raise on damaged files."""


def load_geography(settings: GeographySettings) -> Geography:
    """Loads every source that the configuration names; blocks while it reads.

    Raises:
        ConfigError: if a file cannot be read or a map has mistakes.
        DocumentError: if a database is damaged or has no coordinates.
    """
    layers: list[Geography] = []
    if settings.networks:
        layers.append(
            NetworkMap(
                (parse_network(entry.network), Position(entry.latitude, entry.longitude)) for entry in settings.networks
            )
        )
    if settings.map is not None:
        layers.append(load_network_map(settings.map))
    if settings.database is not None:
        layers.append(CityDatabase.load(settings.database))
    return layers[0] if len(layers) == 1 else LayeredGeography(layers)


def load_network_map(path: Path) -> NetworkMap:
    """Loads a map file (see `geodns.geo.parse_network_map`).

    Raises:
        ConfigError: if it cannot be read, or for every line with a mistake.
    """
    with step("geodns.map.load", path=str(path)):
        try:
            text = _read(path).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"the map {path} is no text: byte {error.start} is not UTF-8") from error
        return parse_network_map(text, str(path))


class CityDatabase:
    """A database of cities in MaxMind's format, as a `Geography`.

    Args:
        reader: an open reader; `load` makes one.
        source: the name of the file, for messages.
    """

    def __init__(self, reader: maxminddb.Reader, source: str) -> None:
        self._reader = reader
        self._has_ipv6 = reader.metadata().ip_version == 6
        self.source = source
        self.build_epoch = reader.metadata().build_epoch

    @classmethod
    def load(cls, path: Path) -> CityDatabase:
        """Opens and probes a database file.

        Raises:
            ConfigError: if it cannot be read.
            DocumentError: if it is damaged or has no coordinates.
        """
        with step("geodns.database.load", path=str(path)):
            content = _read(path)
            try:
                database = cls(_open_private(content), str(path))
                located = database._probe()
            except _FOREIGN_ERRORS as error:
                raise DocumentError(f"the GeoIP database {path}", _reason(error)) from error
            if not located:
                kind = database._reader.metadata().database_type
                raise DocumentError(
                    f"the GeoIP database {path}",
                    f"it is of the kind {kind!r}, which has no coordinates; use a City database",
                )
            return database

    def locate(self, address: bytes) -> Location:
        """Returns the position a packed address has in the database, and its network's prefix length."""
        if len(address) == 16 and not self._has_ipv6:
            return Location(None, 0)
        try:
            record, prefix_length = self._reader.get_with_prefix_len(_address_text(address))
            return Location(_position(record), max(0, min(prefix_length, len(address) * 8)))
        except _FOREIGN_ERRORS as error:  # damage deeper than the probe went: this client is merely not located
            event("geodns.database.damaged", level="error", path=self.source, error=_reason(error))
            return Location(None, len(address) * 8)

    def _probe(self) -> int:
        """Reads a part of the database and returns how many coordinates were in it."""
        located = sum(_position(record) is not None for _, record in islice(self._reader, PROBED_NETWORKS_MAX))
        for index in range(PROBED_ADDRESSES):
            # A multiplicative step visits the address space evenly, without chance and so the same way each time.
            address = (index * 0x9E3779B1 & 0xFFFFFFFF).to_bytes(4, "big")
            located += _position(self._reader.get(_address_text(address))) is not None
        return located


def _position(record: object) -> Position | None:
    """Finds the coordinates in a record; None if it has none that make sense."""
    location = record.get("location") if isinstance(record, dict) else None
    if not isinstance(location, dict):
        return None
    latitude, longitude = location.get("latitude"), location.get("longitude")
    if not (isinstance(latitude, (int, float)) and isinstance(longitude, (int, float))):
        return None
    with suppress(ValueError):
        return Position(float(latitude), float(longitude))
    return None


def _address_text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def _open_private(content: bytes) -> maxminddb.Reader:
    """Opens the content through the fast reader, which wants a file: one in memory that nobody else can change."""
    if not hasattr(os, "memfd_create"):
        import io

        return maxminddb.open_database(io.BytesIO(content), maxminddb.MODE_FD)
    descriptor = os.memfd_create("geodns")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        return maxminddb.open_database(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ConfigError(f"{path} is larger than {FILE_BYTES_MAX >> 30} GiB, which is no map and no database")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def _reason(error: Exception) -> str:
    """One clause about what the reader said, without the name of the file in memory."""
    text = str(error)
    if "/proc/self/fd/" in text or not text:
        return "it is not a complete MaxMind database"
    return text.rstrip(".")
