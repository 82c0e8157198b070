"""Whitelists and blacklists: read or refused, and what is read is written back the same."""

from __future__ import annotations

from cdn.hashing import Algorithm
from cdn.signing import body_of
from cdn.trust import Blacklist
from cdn.whitelist import Whitelist
from tests.fakes.signer import Signer
from tests.fuzz.driver import main


def seeds() -> list[bytes]:
    signers = [Signer(algorithm=algorithm) for algorithm in Algorithm]
    flagged = signers[0].whitelist(verify_ca_chain=True, uses_pkcs7=True)
    return [*(signer.whitelist() for signer in signers), flagged, b"# comment\n<sw.example.org 7\n"]


def check(data: bytes) -> None:
    Blacklist.parse(data)
    whitelist = Whitelist.parse(body_of(data))
    whitelist.is_expired(1e9)
    assert Whitelist.parse(whitelist.to_body()) == whitelist


if __name__ == "__main__":
    tokens = [
        b"\n--\n",
        b"Vpkcs7\n",
        b"Wcachain\n",
        b" # ",
        b"20260101000000",
        b"99999999999999",
        b":",
        b"-SHAKE128",
        b"<a 1",
    ]
    main("fuzz_whitelist", seeds, check, tokens=tokens)
