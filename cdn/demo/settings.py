"""The configuration files of the demonstration's servers, as an operator would write them: values in, text out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from cdn.demo.places import CLIENTS, EDGES, HOME, REPOSITORY, ZONE, ClientPlace, EdgePlace

DNS_TTL_SECONDS: Final = 1
FALL: Final = 2
_MEMORY_OBJECT: Final = "16KiB"
"""What is larger is served from disk, so that damage there is met by a reader and not hidden by memory."""


def edge_config(place: EdgePlace, *, port: int, admin_port: int, upstreams: Sequence[str], cache: str) -> str:
    """An edge in front of the replicas.

    Args:
        place: which.
        port: where clients come.
        admin_port: the operator's listener, on the same address.
        upstreams: base URLs of the replicas, the preferred first.
        cache: folder.
    """
    urls = ", ".join(quoted(f"{url}/cvmfs/@fqrn@") for url in upstreams)
    return f"""# The edge in {place.name}.
name = {quoted(place.name)}

[[upstreams]]
name = "replicas"
urls = [{urls}]
repositories = [{quoted(REPOSITORY)}]

[listen]
addresses = [{quoted(f"{place.address}:{port}")}]

[admin]
listen = {quoted(f"{place.address}:{admin_port}")}

[forward]
enabled = false

[cache]
directory = {quoted(cache)}
disk_bytes = "2GiB"
memory_bytes = "32MiB"
memory_object_bytes = "{_MEMORY_OBJECT}"
scrub_bytes_per_second = 0      # damage is to be met by a reader

[limits]
drain_timeout = "1s"
"""


def geodns_config(*, port: int, admin_port: int, edge_port: int) -> str:
    """GeoDNS in front of the edges, which it asks several times a second how they are.

    A dead edge refuses at once, so it is noticed at once; the patience is for edges on a machine that is busy.
    """
    return "\n".join(
        (
            _DNS_HEAD.format(home=HOME, port=port, admin=admin_port, zone=ZONE, ttl=DNS_TTL_SECONDS, fall=FALL),
            *(_site(place, edge_port) for place in EDGES),
            *(_network(place) for place in CLIENTS),
        )
    )


_DNS_HEAD: Final = """# GeoDNS for all edges.
[listen]
addresses = ["{home}"]
port = {port}

[admin]
listen = "{home}:{admin}"

[health]
interval_seconds = "200ms"
timeout_seconds = "5s"
slow_seconds = "5s"
fall = {fall}
rise = 2

[[zones]]
name = "{zone}"
name_servers = ["ns"]

[[zones.records]]
name = "ns"
type = "A"
values = ["{home}"]

[[zones.geo]]
name = "edge"
ttl_seconds = {ttl}
"""


def _site(place: EdgePlace, port: int) -> str:
    return f"""[[sites]]
name = {quoted(place.name)}
latitude = {place.latitude}
longitude = {place.longitude}
[[sites.edges]]
name = {quoted(place.name)}
addresses = [{quoted(place.address)}]
check = {quoted(f"http://{place.address}:{port}/healthz")}
"""


def _network(place: ClientPlace) -> str:
    return f"""[[geography.networks]]
network = {quoted(place.network)}
latitude = {place.latitude}
longitude = {place.longitude}
"""


def quoted(text: str) -> str:
    """A text as TOML writes it: as JSON does."""
    return json.dumps(text, ensure_ascii=False)
