"""Manifests with their envelope: read or refused, and what is read is written back the same."""

from __future__ import annotations

from cdn.hashing import Algorithm
from cdn.manifest import Manifest
from cdn.signing import SignedText
from tests.fakes.signer import Signer
from tests.fuzz.driver import main


def seeds() -> list[bytes]:
    return [Signer(algorithm=algorithm).manifest(extensions=(("d", "ab" * 32),)) for algorithm in Algorithm]


def check(data: bytes) -> None:
    text = SignedText.parse("manifest", data)
    assert text.to_bytes() == data
    manifest = Manifest.parse(text.body)
    assert Manifest.parse(manifest.to_body()) == manifest


if __name__ == "__main__":
    main(
        "fuzz_manifest",
        seeds,
        check,
        tokens=[b"\n--\n", b"\nC", b"\nS", b"\nX", b"\nZ", b"\nH", b"\nM", b"\nYx", b"-shake128", b"yes"],
    )
