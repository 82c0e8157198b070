"""Percent-encoding."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn.transport.urls import url_of

PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/:.@+-_~[],")


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        ("data/ab/cd-shake128C", "data/ab/cd-shake128C"),
        ("a b%c", "a%20b%25c"),
        ("é", "%C3%A9"),
        (b"\xff?#&=", "%FF%3F%23%26%3D"),
        ("\udcff", "%FF"),
        ("[x],~@:+", "[x],~@:+"),
    ],
)
def test_odd_bytes_are_encoded_in_upper_case(path, encoded) -> None:
    assert url_of("http://h/cvmfs/r/", path) == f"http://h/cvmfs/r/{encoded}"


@given(st.binary())
def test_every_path_survives_and_only_plain_characters_are_left(path) -> None:
    encoded = url_of("", path)[1:]
    assert unquote_to_bytes(encoded) == path
    assert PLAIN | {ord("%")} >= set(encoded.encode())
