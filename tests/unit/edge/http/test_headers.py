"""Fields as a value."""

import pytest

from edge.http.headers import Headers, http_date, parse_http_date, quoted_list

HEADERS = Headers((("A", "1"), ("b", "2"), ("a", "3"), ("Connection", "close, B"), ("Keep-Alive", "5")))


def test_names_compare_without_regard_to_case():
    assert HEADERS.get("a") == "1"
    assert HEADERS.every("A") == ("1", "3")
    assert HEADERS.joined("A") == "1, 3"
    assert HEADERS.get("c") is None
    assert "KEEP-alive" in HEADERS


def test_a_field_is_replaced_by_one():
    assert HEADERS.replaced("a", "9").every("a") == ("9",)


def test_hop_by_hop_fields_and_those_that_connection_names_are_not_passed_on():
    assert HEADERS.end_to_end() == Headers((("A", "1"), ("a", "3")))


def test_commas_in_quotes_part_nothing():
    assert list(quoted_list(r'a, "b, \" c" , d')) == ["a", r'"b, \" c"', "d"]


def test_a_date_is_read_as_it_is_written():
    assert parse_http_date(http_date(1_700_000_000)) == 1_700_000_000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        ("sun, 06 nov 1994 08:49:37 gmt", 784111777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        ("Sun Nov  6 08:49:37 1994", 784111777),
        ("Friday, 01-Jan-38 00:00:00 GMT", 2145916800),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1483228800),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
    ],
)
def test_a_date_has_one_of_three_forms(text, seconds):
    assert parse_http_date(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "0",
        "tomorrow",
        "Tue, 99 Nov 2023 00:00:00 GMT",
        "x" * 1000,
        "Tue, 14 Nov 2023 00:00:00",
        "Tue, 14 Nov 2023 00:00:00 UTC",
        "Tue, 14 Nov 2023 00:00:00 +0000",
        "Tue, 14 Nov 23 00:00:00 GMT",
        "Tue 14 Nov 2023 00:00:00 GMT",
        "Tue, 14  Nov 2023 00:00:00 GMT",
        "Tue, 14-Nov-2023 00:00:00 GMT",
        "Tue, 14 Nov 2023 00.00.00 GMT",
        "Tue, 14 Nov 2023 0:00:00 GMT",
        "Tue, 14 Nov 2023 24:00:00 GMT",
        "Tue, 14 Nov 2023 00:00:00 GMT, Tue, 14 Nov 2023 00:00:00 GMT",
        "Tue, 31 Feb 2023 00:00:00 GMT",
        "Tue, ١٤ Nov 2023 00:00:00 GMT",
    ],
)
def test_what_is_no_date_is_none(text):
    assert parse_http_date(text) is None
