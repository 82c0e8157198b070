"""The form of the manifest."""

from __future__ import annotations

import dataclasses

import pytest

from cdn.errors import DocumentError
from cdn.hashing import Algorithm, Digest, digest_of
from cdn.manifest import NUMBER_MAX, Manifest, is_repository_name

ROOT = digest_of(Algorithm.SHA1, b"root")
OTHER = digest_of(Algorithm.SHAKE128, b"other")
FULL = Manifest(
    root_catalog=ROOT,
    revision=12,
    ttl_seconds=240,
    fqrn="sw.example.org",
    root_catalog_bytes=75776,
    garbage_collectable=True,
    alternative_names=False,
    certificate=OTHER,
    history=OTHER,
    timestamp=1_700_000_000,
    metainfo=OTHER,
    reflog=OTHER,
    extensions=(("d", "ab" * 32), ("e", "anything")),
)
LEAST = f"C{ROOT}\nRd41d8cd98f00b204e9800998ecf8427e\nD240\nS1\n".encode()


def test_the_lines_are_those_of_the_format_in_canonical_order() -> None:
    assert FULL.to_body().decode() == (
        f"C{ROOT}\nB75776\nRd41d8cd98f00b204e9800998ecf8427e\nD240\nS12\nGyes\nAno\nNsw.example.org\n"
        f"X{OTHER}\nH{OTHER}\nT1700000000\nM{OTHER}\nY{OTHER}\nd{'ab' * 32}\neanything\n"
    )
    assert Manifest.parse(FULL.to_body()) == FULL


def test_the_smallest_manifest_of_old_repositories_is_read() -> None:
    manifest = Manifest.parse(LEAST)
    assert manifest == Manifest(root_catalog=ROOT, revision=1)
    assert (manifest.fqrn, manifest.root_catalog_bytes, manifest.certificate) == (None, None, None)
    assert not manifest.garbage_collectable


def test_order_does_not_matter_and_of_repeated_keys_the_last_value_counts() -> None:
    lines = FULL.to_body().splitlines(keepends=True)
    shuffled = b"S99\n" + b"".join(reversed(lines))
    assert dataclasses.replace(Manifest.parse(shuffled), extensions=FULL.extensions) == FULL


def test_the_values_of_the_reserved_key_z_are_joined() -> None:
    assert Manifest.parse(LEAST + b"Zone\nZtwo\n").extensions == (("Z", "one|two"),)


def test_lines_after_the_separator_and_empty_lines_mean_nothing() -> None:
    assert Manifest.parse(b"\n" + LEAST + b"\n--\nS7\n").revision == 1


def test_unknown_keys_survive_reading_and_writing() -> None:
    body = LEAST + "qn\u00e9\nQ\xff|--\n".encode("latin-1")
    manifest = Manifest.parse(body)
    assert body.split(b"\n")[-3] + b"\n" in manifest.to_body()
    assert Manifest.parse(manifest.to_body()) == dataclasses.replace(manifest)


def test_the_unused_micro_catalog_and_null_digests_are_passed_over() -> None:
    null = b"0" * 40
    assert Manifest.parse(LEAST + b"L" + null + b"\nH" + null + b"\nX" + null + b"\n") == Manifest.parse(LEAST)


@pytest.mark.parametrize("key", ["H", "M", "Y"])
@pytest.mark.parametrize(
    "text", ["", "x", "a" * 32, "A" * 40, "z" * 40, "a" * 41, "a" * 40 + "-shake12\udce9", "é" * 20]
)
def test_what_is_no_digest_after_an_optional_key_counts_as_not_set(key: str, text: str) -> None:
    body = LEAST + f"{key}{text}\nB7\n".encode("utf-8", "surrogateescape")
    manifest = Manifest.parse(body)
    assert manifest == dataclasses.replace(Manifest.parse(LEAST), root_catalog_bytes=7)
    assert Manifest.parse(manifest.to_body()) == manifest


def test_objects_are_named_with_their_kinds() -> None:
    assert [name.path[-1] for name in FULL.objects] == ["C", "X", "H", "M"]
    assert len(Manifest.parse(LEAST).objects) == 1


def test_the_plain_digest_is_read_where_it_is_well_formed() -> None:
    assert FULL.plain_digest == bytes.fromhex("ab" * 32)
    for odd in (b"", b"dAB\n", b"d" + b"AB" * 32 + b"\n", b"d" + b"ab" * 33 + b"\n"):
        assert Manifest.parse(LEAST + odd).plain_digest is None


@pytest.mark.parametrize("key", ["C", "R", "D", "S"])
def test_without_a_required_key_it_is_damaged(key: str) -> None:
    body = b"".join(line for line in LEAST.splitlines(keepends=True) if not line.startswith(key.encode()))
    with pytest.raises(DocumentError, match=f"key {key}"):
        Manifest.parse(body)


@pytest.mark.parametrize(
    "line",
    [
        b"S-1",
        b"S",
        b"S1 ",
        b"S+1",
        b"S0x1",
        b"S1e3",
        b"S1_0",
        "S\u0661".encode(),
        b"S" + str(NUMBER_MAX + 1).encode(),
        b"S" + b"9" * 100_000,
        b"D99999999999999999999",
        b"Bmany",
        b"Tnow",
        b"C" + b"0" * 40,
        b"C" + b"A" * 40,
        b"Cshort",
        b"R" + b"0" * 32,
        b"Xx",
        b"N../../etc",
        b"Na b",
        b"N",
        b"\x00x",
        b"\xffx",
    ],
)
def test_a_value_of_the_wrong_form_is_damaged(line: bytes) -> None:
    with pytest.raises(DocumentError, match="manifest is damaged"):
        Manifest.parse(LEAST + line + b"\n")


def test_numbers_up_to_the_largest_of_sqlite_are_read() -> None:
    assert Manifest.parse(LEAST + b"S%d\n" % NUMBER_MAX).revision == NUMBER_MAX


@pytest.mark.parametrize("extension", [("C", "x"), ("ab", "x"), ("", "x"), ("e", "x\nS9"), ("-", "-"), ("\n", "x")])
def test_an_extension_cannot_smuggle_in_a_line(extension: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="is no extension"):
        Manifest(Digest(Algorithm.SHA1, bytes(20)), 1, extensions=(extension,))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sw.example.org", True),
        ("a", True),
        ("a_b-c.d", True),
        ("", False),
        (".a", False),
        ("a/b", False),
        ("a\n", False),
    ],
)
def test_repository_names_are_safe_as_file_names(name: str, expected: bool) -> None:
    assert is_repository_name(name) is expected
