"""What `Cache-Control` and `CDN-Cache-Control` say, with literals."""

import pytest

from edge.http.cache_directives import cache_control, delta_seconds, response_directives, targeted_directives
from edge.http.headers import Headers


def fields(**values: str) -> Headers:
    return Headers.of((name.replace("_", "-"), value) for name, value in values.items())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max-age=60, public", {"max-age": "60", "public": None}),
        ("MAX-AGE=60", {"max-age": "60"}),
        (' max-age = "60" ', {"max-age": "60"}),
        ('private="set-cookie, x", no-store', {"private": "set-cookie, x", "no-store": None}),
        ("max-age=60, max-age=10, max-age=90", {"max-age": "10"}),
        (",,max-age=1,", {"max-age": "1"}),
        ("", {}),
        ('ext="unclosed, max-age=5', {"ext": '"unclosed, max-age=5'}),
    ],
)
def test_directives_are_read_as_the_list_they_are(text, expected):
    assert cache_control(fields(Cache_Control=text)) == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("61", 61),
        ("99999999999999999999", 2**31),
        ("-1", None),
        ("1.5", None),
        ("", None),
        (None, None),
        ("٣", None),
    ],
)
def test_seconds_are_digits_and_no_more_than_31_bits(text, seconds):
    assert delta_seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max-age=3600", {"max-age": "3600"}),
        ("foobar, max-age=3600", {"foobar": None, "max-age": "3600"}),
        ("no-store;x=1, a=token, b=1.5, c=:YQ==:", {"no-store": None, "a": "token", "b": "1.5", "c": ":YQ==:"}),
        ('private="x, \\"y"', {"private": 'x, "y'}),
        ("max-age=1, max-age=2", {"max-age": "2"}),
        ("no-store=?0, max-age=1", {"max-age": "1"}),
        ("no-store=?1", {"no-store": None}),
        ("max-age=10000, &&&&&", None),
        ('max-age="10000"', None),
        ("max-age=-1", None),
        ("max-age", None),
        ("max-age =100", None),
        ("max-age= 100", None),
        ("Max-Age=100", None),
        ("max-age=1,", None),
        ("max-age=1 no-store", None),
        ('a="unclosed', None),
        ("a=(1 2)", None),
        ("", None),
    ],
)
def test_directives_for_cdns_are_a_structured_dictionary_or_nothing(text, expected):
    assert targeted_directives(fields(CDN_Cache_Control=text)) == expected


def test_what_is_meant_for_cdns_counts_alone():
    both = fields(Cache_Control="no-store", CDN_Cache_Control="max-age=5")
    assert response_directives(both) == {"max-age": "5"}
    assert response_directives(fields(Cache_Control="no-store", CDN_Cache_Control="&")) == {"no-store": None}


def test_a_list_without_end_is_read_in_time_proportional_to_its_length():
    assert targeted_directives(fields(CDN_Cache_Control="a, " * 20_000 + "&")) is None
