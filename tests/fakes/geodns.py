"""A small world for GeoDNS tests: three sites, a map of four networks, and queries as a resolver sends them."""

from __future__ import annotations

import struct
from dataclasses import replace

from geodns.answer import Answer, Authority
from geodns.assembly import build_content
from geodns.config import (
    EdgeSettings,
    GeoDnsConfig,
    GeographySettings,
    GeoNameSettings,
    HealthSettings,
    LimitSettings,
    ListenSettings,
    NetworkSettings,
    RecordSettings,
    SiteSettings,
    ZoneSettings,
)
from geodns.geo import packed_address
from geodns.geography_files import load_geography
from geodns.routing import ALL_WELL, HealthView

ZONE = "cdn.example.org"
GENEVA_CLIENT = "192.0.2.7"
CHICAGO_CLIENT = "198.51.100.7"
TOKYO_CLIENT = "203.0.113.7"
UNKNOWN_CLIENT = "100.64.0.1"

GENEVA = ("10.1.0.1", "10.1.0.2", "10.1.0.3")
CHICAGO = ("10.2.0.1",)
TOKYO = ("10.3.0.1",)


def geodns_config(**changes: object) -> GeoDnsConfig:
    """A configuration on loopback with three sites; Tokyo has no IPv6. `changes` replace its fields."""
    config = GeoDnsConfig(
        zones=(
            ZoneSettings(
                ZONE,
                name_servers=("ns1", "ns.elsewhere.example."),
                records=(
                    RecordSettings("ns1", "A", ("192.0.2.53",)),
                    RecordSettings("www", "CNAME", ("edge",)),
                    RecordSettings("away", "CNAME", ("www.example.com.",)),
                    RecordSettings("broken", "CNAME", ("nowhere",)),
                    RecordSettings("loop", "CNAME", ("loop",)),
                    RecordSettings("text", "TXT", ("x" * 600,)),
                    RecordSettings("huge", "TXT", tuple(str(n) * 200 for n in range(10, 20))),
                    RecordSettings("a.b.deep", "A", ("192.0.2.99",)),
                    RecordSettings("edge", "TXT", ("beside a geo name",)),
                ),
                geo=(
                    GeoNameSettings("edge"),
                    GeoNameSettings("far", sites=("tokyo", "chicago")),
                    GeoNameSettings("island", sites=("tokyo",)),
                ),
            ),
        ),
        sites=(
            SiteSettings(
                "geneva",
                46.2,
                6.1,
                (
                    EdgeSettings("g1", (GENEVA[0], "2001:db8:1::1")),
                    EdgeSettings("g2", (GENEVA[1],)),
                    EdgeSettings("g3", (GENEVA[2],)),
                ),
            ),
            SiteSettings("chicago", 41.9, -87.6, (EdgeSettings("c1", (*CHICAGO, "2001:db8:2::1")),)),
            SiteSettings("tokyo", 35.7, 139.7, (EdgeSettings("t1", TOKYO),)),
        ),
        listen=ListenSettings(("127.0.0.1",), 0),
        geography=GeographySettings(
            (
                NetworkSettings("192.0.2.0/24", 46.0, 7.0),
                NetworkSettings("198.51.100.0/24", 40.0, -88.0),
                NetworkSettings("203.0.113.0/24", 36.0, 140.0),
                NetworkSettings("2001:db8:aa::/48", 40.0, -88.0),
            )
        ),
        health=HealthSettings(interval_seconds=0.02, timeout_seconds=1.0, slow_seconds=0.9),
        limits=LimitSettings(tcp_idle_seconds=5.0),
    )
    return replace(config, **changes)


def authority(health: HealthView = ALL_WELL, **changes: object) -> Authority:
    """What answers are made from, for that configuration."""
    config = geodns_config(**changes)
    return Authority(build_content(config).zones, load_geography(config.geography), health)


def query(
    name: str, record_type: int, *, identifier: int = 0x1234, flags: int = 0, options: bytes | None = None
) -> bytes:
    """A query, written by hand so that it can be wrong; `options` is the data of an OPT record."""
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split(".") if label) + b"\0"
    additional = b"" if options is None else b"\0" + struct.pack("!HHIH", 41, 1232, 0, len(options)) + options
    header = struct.pack("!6H", identifier, flags, 1, 0, 0, 1 if additional else 0)
    return header + labels + struct.pack("!HH", record_type, 1) + additional


def subnet_option(address: str, source: int, scope: int = 0, family: int | None = None) -> bytes:
    """The client subnet option of an OPT record."""
    packed = packed_address(address)
    number = family if family is not None else 1 if len(packed) == 4 else 2
    kept = packed[: (source + 7) // 8]
    if source % 8:
        kept = kept[:-1] + bytes((kept[-1] & (0xFF00 >> source % 8) & 0xFF,))
    return struct.pack("!HHHBB", 8, 4 + len(kept), number, source, scope) + kept


def ask(from_whom: Authority, message: bytes, client: str = GENEVA_CLIENT, **how: object) -> Answer:
    """The answer to a message; there must be one."""
    answer = from_whom.answer(message, packed_address(client), **how)
    assert answer is not None
    return answer


class ScriptedProbe:
    """Answers health checks as told: a text is a complaint, an exception is raised, None never answers."""

    def __init__(self) -> None:
        self.says: dict[str, str | OSError | None] = {}
        self.asked: list[str] = []

    async def __call__(self, url: str) -> str:
        import asyncio

        self.asked.append(url)
        said = self.says.get(url, "")
        if said is None:
            await asyncio.Event().wait()
        if isinstance(said, Exception):
            raise said
        assert said is not None
        return said
