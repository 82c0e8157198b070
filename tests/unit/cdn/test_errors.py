from __future__ import annotations

import pytest

from cdn.errors import (
    AllSourcesFailedError,
    ConfigError,
    DocumentError,
    HashMismatchError,
    NotFoundError,
    UnreachableError,
    without_login,
)

URL = "http://reader:secret@one.example.org:8000/cvmfs/sw.example.org/data/ab/c@d"


@pytest.mark.parametrize(
    "error",
    [
        UnreachableError(URL, "no connection"),
        NotFoundError(URL, 404),
        HashMismatchError(URL, "00"),
        DocumentError(URL, "it is no zlib stream"),
        ConfigError(f"{URL!r} is no server"),
        AllSourcesFailedError("x", (UnreachableError(URL, f"through {URL}"),)),
    ],
)
def test_a_message_never_tells_the_password_in_a_url(error):
    assert "secret" not in str(error)
    assert "one.example.org:8000" in str(error)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (URL, "http://***@one.example.org:8000/cvmfs/sw.example.org/data/ab/c@d"),
        ("http://p@ss:w@rd@host/a@b", "http://***@host/a@b"),
        ("http://a/b@c and https://u:p@d", "http://a/b@c and https://***@d"),
        ("somebody@example.org", "somebody@example.org"),
        ("file:///a@b", "file:///a@b"),
        ("", ""),
    ],
)
def test_only_the_login_is_taken_out(text, shown):
    assert without_login(text) == shown
