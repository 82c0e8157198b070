"""`.cvmfsdirtab` files: any text is rules that match quickly, or `DocumentError`."""

from __future__ import annotations

from cdn.catalog.nesting import Dirtab
from tests.fuzz.driver import main

PATHS = ["/software", "/software/1.0/lib", "/" + "a" * 255, "/" + "/".join(["ab"] * 50), "/ü/\udcff"]


def seeds() -> list[bytes]:
    return [
        b"# comment\n/software/*\n/software/*/lib\n! *.svn\n!/software/old\n",
        rb"/\*/[a-z]?[!0-9]*" + b"\n",
        b"/" + b"*a" * 100,
        "/ü*\n".encode(),
    ]


def check(data: bytes) -> None:
    rules = Dirtab.parse(data.decode("utf-8", "surrogateescape"))
    for path in PATHS:
        assert rules.matches(path) in (True, False)


if __name__ == "__main__":
    main("fuzz_dirtab", seeds, check, tokens=[b"*", b"?", b"[", b"]", b"!", b"/", b"\\", b"#", b"\n"])
