"""Map files: what is accepted can be asked about every address, and the block told really holds."""

from __future__ import annotations

import ipaddress

from cdn.errors import ConfigError
from geodns.geo import parse_network_map
from tests.fuzz.driver import main


def seeds() -> list[bytes]:
    return [
        b"192.0.2.0/24 46.2 6.1\n# comment\n2001:db8::/32 -33.9 151.2 # here\n",
        b"0.0.0.0/0 0 0\n10.0.0.0/8 1 1\n10.0.0.0/9 2 2\n10.0.0.1 3 3\n",
        b"::/0 90 180\n::1 -90 -180\nffff::/16 1e1 -1.5E+1\n",
    ]


def check(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    geography = parse_network_map(text, "map")
    for word in text.split():
        try:
            address = ipaddress.ip_address(word.partition("/")[0])
        except ValueError:
            continue
        found = geography.locate(address.packed)
        block = ipaddress.ip_network((address.packed, found.prefix_length), strict=False)
        for end in (block[0], block[-1]):
            assert geography.locate(end.packed) == found


if __name__ == "__main__":
    main(
        "fuzz_network_map",
        seeds,
        check,
        allowed=(ConfigError,),
        tokens=[b"/", b"::", b"0.0.0.0/0 ", b"\n", b" nan ", b"%1", b"/128 1 1\n", b"255.255.255.255 "],
    )
