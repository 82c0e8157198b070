"""Digests, their text form, and path keys."""

from __future__ import annotations

import hashlib

import pytest

from cdn.errors import DocumentError
from cdn.hashing import Algorithm, Digest, Hasher, digest_of, path_key, plain_digest_of
from cdn.ripemd160 import Ripemd160

HELLO_STORED = bytes.fromhex("789ccb48cdc9c9e70200084b021f")
"""The zlib stream of ``hello\\n``, the worked example of spec §1.3."""


@pytest.mark.parametrize(
    ("algorithm", "text"),
    [
        (Algorithm.SHA1, "5798f7f4ca7585d850eea64610a1f73d8f8de7a3"),
        (Algorithm.RMD160, "92e6eb3559a98184aefdab5f76286027aa83bfb0-rmd160"),
        (Algorithm.SHAKE128, "9771532cda37f736dff5b6609ddae2f44c6407f2-shake128"),
    ],
)
def test_digests_are_those_of_the_specification(algorithm, text) -> None:
    digest = digest_of(algorithm, HELLO_STORED)
    assert digest.text == str(digest) == text
    assert Digest.parse(text) == digest
    assert len(text) == algorithm.text_length


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (bytes.fromhex("789c030000000001"), "e8ec3d88b62ebf526e4e5a4ff6162a3aa48a6b78"),
        (b"", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
    ],
)
def test_empty_content_has_the_digests_of_the_specification(data, text) -> None:
    assert digest_of(Algorithm.SHA1, data).text == text


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_digest_can_be_computed_piece_by_piece_and_asked_for_in_between(algorithm) -> None:
    hasher = Hasher(algorithm)
    for number, piece in enumerate((b"ab", bytearray(b"c"), memoryview(b"def"))):
        hasher.update(piece)
        assert hasher.digest() == digest_of(algorithm, b"abcdef"[: (2, 3, 6)[number]])


def test_ripemd_is_computed_without_openssl_too(monkeypatch) -> None:
    expected = digest_of(Algorithm.RMD160, HELLO_STORED)

    def absent(*_: object, **__: object) -> None:
        raise ValueError("unsupported hash type ripemd160")

    monkeypatch.setattr(hashlib, "new", absent)
    hasher = Hasher(Algorithm.RMD160)
    assert isinstance(hasher._hash, Ripemd160)
    hasher.update(HELLO_STORED)
    assert hasher.digest() == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0" * 32,
        "0" * 39,
        "0" * 41,
        "A" * 40,
        "g" * 40,
        "\uff10" * 40,
        "0" * 40 + "\n",
        "0" * 40 + "P",
        "0" * 40 + "-md5",
        "0" * 40 + "-rmd161",
        "0" * 40 + "-RMD160",
        "0" * 47,
        "0" * 49,
        "-rmd160" + "0" * 40,
        "0" * 39 + " -shake128",
    ],
)
def test_other_texts_are_no_digests(text) -> None:
    with pytest.raises(DocumentError, match="digest is damaged"):
        Digest.parse(text)


def test_an_error_does_not_repeat_megabytes_of_nonsense() -> None:
    with pytest.raises(DocumentError) as caught:
        Digest.parse("x" * 1_000_000)
    assert len(str(caught.value)) < 200


def test_a_digest_of_zeros_means_not_set() -> None:
    assert Digest.parse("0" * 40).is_null
    assert not Digest.parse("0" * 39 + "1").is_null


@pytest.mark.parametrize(("name", "algorithm"), [("sha1", Algorithm.SHA1), ("shake128", Algorithm.SHAKE128)])
def test_algorithms_have_names_in_options(name, algorithm) -> None:
    assert Algorithm.from_option(name) is algorithm
    assert algorithm.option == name


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="use sha1, rmd160 or shake128"):
        Algorithm.from_option("md5")


@pytest.mark.parametrize(("number", "algorithm"), [(1, Algorithm.SHA1), (2, Algorithm.RMD160), (3, Algorithm.SHAKE128)])
def test_algorithms_have_numbers(number, algorithm) -> None:
    assert Algorithm.from_number(number) is algorithm


@pytest.mark.parametrize("number", [-1, 0, 4, 7, 8])
def test_other_numbers_are_damage(number) -> None:
    with pytest.raises(DocumentError, match=f"no hash algorithm number {number}"):
        Algorithm.from_number(number)


@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 4094, 8192, 64 << 10, (64 << 10) + 1])
@pytest.mark.parametrize("algorithm", [Algorithm.SHA1, Algorithm.SHAKE128])
def test_hashing_at_once_gives_the_same(algorithm, size) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    hasher = Hasher(algorithm)
    hasher.update_at_once(data[:size])
    hasher.update_at_once(b"end")
    assert hasher.digest() == digest_of(algorithm, data[:size] + b"end")


def test_the_plain_digest_is_sha256() -> None:
    assert plain_digest_of(b"").hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("path", ["", "/software", "/software/a b", "/\udcff"])
def test_path_keys_are_the_two_halves_of_md5(path) -> None:
    raw = path.encode("utf-8", "surrogateescape")
    first, second = path_key(path)
    halves = first.to_bytes(8, "little", signed=True) + second.to_bytes(8, "little", signed=True)
    assert halves == hashlib.md5(raw).digest()
    assert path_key(raw) == (first, second)
