from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn.client.addresses import Address, parse_address
from cdn.errors import UsageError

NAME = "sw.example.org"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (NAME, Address(NAME, "/")),
        (f"{NAME}:", Address(NAME, "/")),
        (f"{NAME}:/lib/x", Address(NAME, "/lib/x")),
        (f"{NAME}:lib:x", Address(NAME, "lib:x")),
        (f"http://h/cvmfs/{NAME}", Address(NAME, "/", f"http://h/cvmfs/{NAME}")),
        (f"http://h/cvmfs/{NAME}/", Address(NAME, "/", f"http://h/cvmfs/{NAME}")),
        (f"https://h:8/cvmfs/{NAME}/lib/a%20b", Address(NAME, "/lib/a b", f"https://h:8/cvmfs/{NAME}")),
        (f"http://h:80/x/{NAME}:/lib", Address(NAME, "/lib", f"http://h:80/x/{NAME}")),
        (f"http://h:80/{NAME}", Address(NAME, "/", f"http://h:80/{NAME}")),
        (f"file:///srv/{NAME}:/lib", Address(NAME, "/lib", f"file:///srv/{NAME}")),
        (f"/srv/{NAME}", Address(NAME, "/", f"/srv/{NAME}")),
        (f"./{NAME}:/lib", Address(NAME, "/lib", f"./{NAME}")),
    ],
)
def test_addresses_are_read(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["http://h/x:/lib", "/srv/x:/lib", "http://h/x"])
def test_a_name_that_the_address_cannot_tell_is_asked_for(text):
    with pytest.raises(UsageError, match="--repository"):
        parse_address(text)
    assert parse_address(text, fqrn=NAME).fqrn == NAME


def test_the_name_given_finds_itself_in_a_url():
    assert parse_address(f"http://h/a/{NAME}/lib", fqrn=NAME) == Address(NAME, "/lib", f"http://h/a/{NAME}")


@pytest.mark.parametrize("text", ["", ":", ":/lib", "a b:/c", "..", "-x y"])
def test_what_names_no_repository_is_refused(text):
    with pytest.raises(UsageError):
        parse_address(text)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_the_one_error(text):
    with contextlib.suppress(UsageError):
        parse_address(text)
