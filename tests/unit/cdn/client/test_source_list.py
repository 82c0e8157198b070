from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn.client.source_list import ONLY_DIRECT, parse_external_urls, parse_groups, parse_proxies, parse_servers
from cdn.errors import ConfigError

NAME = "sw.example.org"


def test_servers_are_parted_by_semicolons_and_placeholders_replaced():
    text = "http://a/cvmfs/@fqrn@/ ; https://@org@.b:8000/x;file:///srv/r"
    assert parse_servers(text, NAME) == (f"http://a/cvmfs/{NAME}", "https://sw.b:8000/x", "file:///srv/r")


def test_a_path_is_a_folder_of_this_machine():
    assert parse_servers("/srv/with space", NAME) == ("file:///srv/with%20space",)


def test_a_server_named_twice_is_asked_once():
    assert parse_servers(["http://a/r", "http://b/r;http://a/r/"], NAME) == ("http://a/r", "http://b/r")


@pytest.mark.parametrize(
    "text",
    ["", " ; ", "ftp://a/r", "a/r", "http:///r", "http://a:port/r", "http://a/r?x=1", "http://a/\nr", "http://[::1"],
)
def test_what_is_no_server_is_refused_by_name(text):
    with pytest.raises(ConfigError):
        parse_servers(text, NAME)


def test_external_urls_are_written_as_servers_are_and_there_may_be_none():
    assert parse_external_urls("http://a/@fqrn@/;/srv/data", NAME) == (f"http://a/{NAME}", "file:///srv/data")
    assert parse_external_urls((), NAME) == parse_external_urls(" ; ", NAME) == ()
    with pytest.raises(ConfigError, match="external URL"):
        parse_external_urls("ftp://a", NAME)


def test_proxies_come_in_groups():
    text = "http://p1:3128|p2:3128; http://backup:3128 ;DIRECT"
    assert parse_proxies(text) == (("http://p1:3128", "http://p2:3128"), ("http://backup:3128",), (None,))


@pytest.mark.parametrize("text", ["", ";", "direct"])
def test_no_proxy_at_all_is_a_direct_connection(text):
    assert parse_proxies(text) == ONLY_DIRECT


def test_proxies_found_by_themselves_are_refused_with_advice():
    with pytest.raises(ConfigError, match="name them, or write DIRECT"):
        parse_proxies("auto;DIRECT")


@pytest.mark.parametrize("text", ["ftp://p", "http://", "p:port", "a b"])
def test_what_is_no_proxy_is_refused(text):
    with pytest.raises(ConfigError):
        parse_proxies(text)


@given(st.text(max_size=60))
def test_any_text_is_either_read_or_refused_with_the_one_error(text):
    for parse in (parse_servers, parse_external_urls, parse_proxies):
        with contextlib.suppress(ConfigError):
            parse(text, NAME)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("a|b;c", (("a", "b"), ("c",))),
        (" a | b|a ;; | ; c ", (("a", "b"), ("c",))),
        (";|;", ()),
        ("", ()),
    ],
)
def test_groups_are_parted_by_semicolons_and_their_equal_members_by_bars(text, groups):
    assert parse_groups(text) == groups
