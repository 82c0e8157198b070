"""Digest texts and object paths: what is accepted is exactly what is written."""

from __future__ import annotations

from cdn.hashing import Algorithm, Digest, digest_of
from cdn.objects import Kind, ObjectName
from tests.fuzz.driver import main


def seeds() -> list[bytes]:
    digests = [digest_of(algorithm, b"content") for algorithm in Algorithm]
    paths = [ObjectName(digest, kind).path for digest in digests for kind in Kind]
    return [text.encode() for text in [*(digest.text for digest in digests), *paths]]


def check(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    if text.startswith("data/"):
        assert ObjectName.parse(text).path == text
    else:
        assert Digest.parse(text).text == text


if __name__ == "__main__":
    main(
        "fuzz_digest",
        seeds,
        check,
        tokens=[b"-shake128", b"-rmd160", b"data/", b"P", b"C", b"/"],
    )
