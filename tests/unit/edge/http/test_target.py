"""Targets in canonical form."""

import pytest

from edge.http.request import RequestError
from edge.http.target import parse_target


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("/a/b", "/a/b"),
        ("/a//b", "/a//b"),
        ("/%61%7e/%c3%a9?%41=%2f", "/a~/%C3%A9?A=%2F"),
        ("/a?", "/a?"),
        ("/a?b?c=../d", "/a?b?c=../d"),
        ("http://Example.ORG:80/a", "http://example.org/a"),
        ("HTTP://example.org:8080/a?b", "http://example.org:8080/a?b"),
        ("https://example.org:443/a", "https://example.org/a"),
        ("http://example.org", "http://example.org/"),
        ("http://example.org?a=b", "http://example.org/?a=b"),
        ("http://[0:0::1]:80/a", "http://[::1]/a"),
        ("/a/..b/c..", "/a/..b/c.."),
        ("/a/%5Bx%5D", "/a/%5Bx%5D"),
    ],
)
def test_spellings_of_one_thing_become_one(text, url):
    target = parse_target(text)
    assert target.url == url
    assert parse_target(target.url) == target


@pytest.mark.parametrize(
    "text",
    [
        "/../a",
        "/a/..",
        "/a/%2E%2e/b",
        "/./a",
        "/a%2Fb",
        "/a%5cb",
        "/a\\b",
        "/a%00",
        "/a%",
        "/a%4",
        "/a%GG",
        "/a#b",
        '/a"b',
        "/a<b",
        "/a?b#c",
        "*",
        "a/b",
        "example.org:443",
        "ftp://example.org/",
        "http:///a",
        "http://user@example.org/",
        "http://example.org:0/",
        "http://example.org:65536/",
        "http://exa mple/",
        "http://[::g]/",
        "http://%65xample.org/",
        "file:///etc/passwd",
    ],
)
def test_what_could_mean_two_things_is_refused(text):
    with pytest.raises(RequestError) as refused:
        parse_target(text)
    assert refused.value.status == 400
