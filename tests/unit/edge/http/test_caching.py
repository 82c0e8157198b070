"""Every rule of RFC 9111 by itself, with literals."""

import pytest

from edge.http.caching import (
    Decision,
    Lifetime,
    StoredHead,
    age_value,
    allows_shared_use,
    also_invalidated,
    conditional_fields,
    current_age,
    dated,
    decide,
    explicit_lifetime,
    freshness_lifetime,
    heuristic_lifetime,
    invalidates,
    is_storable,
    may_stand_in,
    refreshed,
    selecting_fields,
    selects,
    wants_validation,
)
from edge.http.headers import Headers, http_date

NOW = 1_700_000_000.0
ANY = Lifetime()


def fields(**values: str) -> Headers:
    return Headers.of((name.replace("_", "-"), value) for name, value in values.items())


def stored(*, age: float = 0.0, status: int = 200, selecting=(), **values: str) -> StoredHead:
    return StoredHead(status, fields(**values), NOW - age, NOW - age, selecting)


@pytest.mark.parametrize(
    ("request_fields", "expected"),
    [
        ({"Cache_Control": "no-cache"}, True),
        ({"Pragma": "no-cache"}, True),
        ({"Pragma": "no-cache", "Cache_Control": "max-age=1"}, False),
        ({"Cache_Control": "no-cachet"}, False),
        ({}, False),
    ],
)
def test_a_client_may_insist_on_validation(request_fields, expected):
    assert wants_validation(fields(**request_fields)) is expected


# --------------------------------------------------------------------------------------------------- age and freshness


@pytest.mark.parametrize(("text", "age"), [("7", 7), ("7, 9", 7), ("x", 0), ("", 0), ("-3", 0)])
def test_the_field_age_is_read_leniently(text, age):
    assert age_value(fields(Age=text)) == age


def test_age_is_what_the_upstream_said_plus_the_way_plus_the_stay():
    head = StoredHead(200, fields(Age="10"), NOW - 5, NOW - 3)
    assert current_age(head, NOW) == 10 + 2 + 3


def test_an_old_date_makes_an_answer_old():
    head = StoredHead(200, fields(Date=http_date(NOW - 100)), NOW, NOW)
    assert current_age(head, NOW) == 100


def test_a_date_in_the_future_makes_nothing_younger():
    assert current_age(StoredHead(200, fields(Date=http_date(NOW + 100)), NOW, NOW), NOW + 1) == 1


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ({"Cache_Control": "max-age=61"}, 61),
        ({"Cache_Control": "max-age=61, s-maxage=7"}, 7),
        ({"Cache_Control": "max-age=61", "Expires": http_date(NOW)}, 61),
        ({"Cache_Control": "max-age=x"}, 0),
        ({"Expires": http_date(NOW + 30), "Date": http_date(NOW)}, 30),
        ({"Expires": http_date(NOW - 30), "Date": http_date(NOW)}, 0),
        ({"Expires": "0", "Date": http_date(NOW)}, 0),
        ({"Expires": http_date(NOW + 30)}, 0),
        ({"Expires": f"{http_date(NOW + 30)}, {http_date(NOW + 30)}", "Date": http_date(NOW)}, 0),
        ({"CDN_Cache_Control": "max-age=9", "Cache_Control": "s-maxage=5", "Expires": "0"}, 9),
        ({"CDN_Cache_Control": "x", "Expires": http_date(NOW + 30), "Date": http_date(NOW)}, None),
        ({}, None),
    ],
)
def test_an_answer_says_its_lifetime(values, seconds):
    assert explicit_lifetime(fields(**values)) == seconds


def test_what_says_nothing_lives_for_a_tenth_of_its_age_at_most_a_day():
    headers = fields(Date=http_date(NOW), Last_Modified=http_date(NOW - 1000))
    assert heuristic_lifetime(200, headers) == 100
    assert heuristic_lifetime(500, headers) == 0
    assert heuristic_lifetime(200, headers.replaced("Last-Modified", http_date(0))) == 86400


def test_a_kind_of_content_has_its_own_default_and_bound():
    assert freshness_lifetime(200, fields(), Lifetime(default_seconds=61)) == 61
    assert freshness_lifetime(404, fields(Cache_Control="max-age=3600"), Lifetime(seconds_max=5)) == 5


# ------------------------------------------------------------------------------------------------------------ decisions


@pytest.mark.parametrize(
    ("request_fields", "head", "lifetime", "expected"),
    [
        ({}, None, ANY, Decision.FETCH),
        ({"Cache_Control": "only-if-cached"}, None, ANY, Decision.FAIL),
        ({}, stored(age=9, Cache_Control="max-age=10"), ANY, Decision.SERVE),
        ({}, stored(age=10, Cache_Control="max-age=10"), ANY, Decision.VALIDATE),
        ({"Cache_Control": "only-if-cached"}, stored(age=10, Cache_Control="max-age=10"), ANY, Decision.FAIL),
        ({"Cache_Control": "max-age=5"}, stored(age=5, Cache_Control="max-age=10"), ANY, Decision.VALIDATE),
        ({"Cache_Control": "min-fresh=5"}, stored(age=5, Cache_Control="max-age=10"), ANY, Decision.VALIDATE),
        ({"Cache_Control": "min-fresh=4"}, stored(age=5, Cache_Control="max-age=10"), ANY, Decision.SERVE),
        ({"Cache_Control": "max-stale"}, stored(age=50, Cache_Control="max-age=10"), ANY, Decision.SERVE),
        ({"Cache_Control": "max-stale=39"}, stored(age=50, Cache_Control="max-age=10"), ANY, Decision.VALIDATE),
        (
            {"Cache_Control": "max-stale"},
            stored(age=50, Cache_Control="max-age=10, must-revalidate"),
            ANY,
            Decision.VALIDATE,
        ),
        ({"Cache_Control": "no-cache"}, stored(Cache_Control="max-age=10"), ANY, Decision.VALIDATE),
        ({}, stored(Cache_Control="max-age=10, no-cache"), ANY, Decision.VALIDATE),
        (
            {},
            stored(age=20, Cache_Control="max-age=10, stale-while-revalidate=10"),
            ANY,
            Decision.SERVE_AND_VALIDATE,
        ),
        ({}, stored(age=21, Cache_Control="max-age=10, stale-while-revalidate=10"), ANY, Decision.VALIDATE),
        (
            {"Cache_Control": "max-age=5"},
            stored(age=20, Cache_Control="max-age=10, stale-while-revalidate=10"),
            ANY,
            Decision.VALIDATE,
        ),
        (
            {},
            stored(age=20, Cache_Control="max-age=10, stale-while-revalidate=10, must-revalidate"),
            ANY,
            Decision.VALIDATE,
        ),
        ({}, stored(CDN_Cache_Control="no-cache", Cache_Control="max-age=10"), ANY, Decision.VALIDATE),
        ({}, stored(age=20, CDN_Cache_Control="max-age=60", Cache_Control="max-age=10"), ANY, Decision.SERVE),
        ({}, stored(age=1e9), Lifetime(is_immutable=True), Decision.SERVE),
        ({"Cache_Control": "max-age=0"}, stored(age=1e9), Lifetime(is_immutable=True), Decision.SERVE),
        ({"Cache_Control": "no-cache"}, stored(age=1e9), Lifetime(is_immutable=True), Decision.FETCH),
        ({"Accept": "b"}, stored(selecting=(("accept", "a"),), Cache_Control="max-age=10"), ANY, Decision.FETCH),
    ],
)
def test_what_is_done_with_a_request(request_fields, head, lifetime, expected):
    assert decide(fields(**request_fields), head, lifetime, NOW) is expected


@pytest.mark.parametrize(
    ("request_fields", "head", "lifetime", "expected"),
    [
        ({}, stored(age=70, Cache_Control="max-age=10"), Lifetime(stale_if_error_seconds=60), True),
        ({}, stored(age=71, Cache_Control="max-age=10"), Lifetime(stale_if_error_seconds=60), False),
        ({}, stored(age=71, Cache_Control="max-age=10, stale-if-error=100"), Lifetime(stale_if_error_seconds=60), True),
        ({}, stored(age=31, Cache_Control="max-age=10, stale-if-error=20"), Lifetime(stale_if_error_seconds=60), False),
        ({"Cache_Control": "stale-if-error=5"}, stored(age=16, Cache_Control="max-age=10"), Lifetime(None), False),
        ({}, stored(age=11, Cache_Control="max-age=10, must-revalidate"), Lifetime(stale_if_error_seconds=60), False),
        ({}, stored(age=1e9), Lifetime(is_immutable=True), True),
    ],
)
def test_when_a_stale_answer_stands_in_for_a_failed_upstream(request_fields, head, lifetime, expected):
    assert may_stand_in(fields(**request_fields), head, lifetime, NOW) is expected


# -------------------------------------------------------------------------------------------------------------- storing


@pytest.mark.parametrize(
    ("method", "status", "request_fields", "values", "expected"),
    [
        ("GET", 200, {}, {"Cache_Control": "max-age=1"}, True),
        ("GET", 200, {}, {}, True),
        ("HEAD", 200, {}, {"Cache_Control": "max-age=1"}, False),
        ("GET", 206, {}, {"Cache_Control": "max-age=1"}, False),
        ("GET", 304, {}, {"Cache_Control": "max-age=1"}, False),
        ("GET", 302, {}, {}, False),
        ("GET", 302, {}, {"Cache_Control": "max-age=1"}, True),
        ("GET", 503, {}, {}, False),
        ("GET", 200, {}, {"Cache_Control": "no-store"}, False),
        ("GET", 200, {}, {"Cache_Control": "no-store, must-understand, max-age=1"}, True),
        ("GET", 299, {}, {"Cache_Control": "must-understand, max-age=1"}, False),
        ("GET", 200, {}, {"Cache_Control": "private, max-age=1"}, False),
        ("GET", 200, {"Cache_Control": "no-store"}, {"Cache_Control": "max-age=1"}, False),
        ("GET", 200, {"Authorization": "x"}, {"Cache_Control": "max-age=1"}, False),
        ("GET", 200, {"Authorization": "x"}, {"Cache_Control": "max-age=1, public"}, True),
        ("GET", 200, {}, {"Vary": "*"}, False),
        ("GET", 200, {}, {"Vary": "a, *"}, False),
        ("GET", 200, {}, {"Set_Cookie": "a=b"}, False),
        ("GET", 200, {}, {"Set_Cookie": "a=b", "Cache_Control": "max-age=1"}, True),
        ("GET", 200, {}, {"CDN_Cache_Control": "max-age=1", "Cache_Control": "no-store"}, True),
        ("GET", 200, {}, {"CDN_Cache_Control": "private", "Cache_Control": "max-age=1"}, False),
        ("GET", 503, {}, {"Cache_Control": "max-age=1"}, True),
        ("POST", 200, {}, {"Cache_Control": "max-age=1"}, False),
    ],
)
def test_what_a_shared_cache_may_store(method, status, request_fields, values, expected):
    assert is_storable(method, fields(**request_fields), status, fields(**values), ANY) is expected


@pytest.mark.parametrize("directive", ["public", "s-maxage=5", "must-revalidate"])
def test_what_lets_answers_to_credentials_be_shared(directive):
    assert allows_shared_use(fields(Cache_Control=directive))


# ---------------------------------------------------------------------------------------------------- Vary, validation


def test_an_answer_is_for_requests_with_the_same_selecting_fields():
    chosen = selecting_fields(fields(Accept="a,b", X="1"), fields(Vary="Accept, Accept-Language, accept"))
    assert chosen == (("accept", "a, b"), ("accept-language", None))
    head = StoredHead(200, fields(), NOW, NOW, chosen)
    assert selects(head, fields(Accept="a ,  b", X="2"))
    assert not selects(head, fields(Accept="b"))
    assert not selects(head, fields(Accept="a, b", Accept_Language="de"))


def test_what_selects_an_answer_is_compared_as_its_field_is():
    head = StoredHead(200, fields(), NOW, NOW, selecting_fields(fields(Accept_Language="de, EN"), fields(Vary="*")))
    assert not selects(head, fields(Accept_Language="de, EN"))
    chosen = selecting_fields(fields(Accept_Language="de, EN", X="a"), fields(Vary="Accept-Language, X"))
    head = StoredHead(200, fields(), NOW, NOW, chosen)
    assert selects(head, fields(Accept_Language="DE,en", X="a"))
    assert not selects(head, fields(Accept_Language="en, de", X="a"))
    assert not selects(head, fields(Accept_Language="de, en", X="A"))


def test_validators_become_conditions():
    head = stored(ETag='W/"1"', Last_Modified="Tue, 14 Nov 2023 00:00:00 GMT")
    assert conditional_fields(head) == (
        ("If-None-Match", 'W/"1"'),
        ("If-Modified-Since", "Tue, 14 Nov 2023 00:00:00 GMT"),
    )
    assert conditional_fields(stored()) == ()


def test_a_confirmation_renews_what_describes_the_answer_and_keeps_what_describes_its_bytes():
    head = stored(age=100, Age="50", Cache_Control="max-age=1", Content_Type="a/b", ETag='"1"', X_Old="kept")
    news = fields(
        Cache_Control="max-age=60", Content_Type="c/d", Content_Length="0", ETag='"2"', Connection="X-Hop", X_Hop="1"
    )
    new = refreshed(head, news, NOW - 1, NOW)
    assert new.headers.get("Cache-Control") == "max-age=60"
    assert (new.headers.get("Content-Type"), new.headers.get("ETag"), new.headers.get("X-Old")) == (
        "a/b",
        '"1"',
        "kept",
    )
    assert "Age" not in new.headers
    assert "X-Hop" not in new.headers
    assert current_age(new, NOW) == 1


@pytest.mark.parametrize("text", [None, "foo", "0", "Tue, 14 Nov 2023 22:13:20 UTC"])
def test_an_answer_without_a_date_gets_the_time_it_came(text):
    headers = fields() if text is None else fields(Date=text)
    assert dated(headers, NOW).every("Date") == ("Tue, 14 Nov 2023 22:13:20 GMT",)


def test_a_date_that_is_one_stays():
    headers = fields(Date="Sunday, 06-Nov-94 08:49:37 GMT")
    assert dated(headers, NOW) == headers


# -------------------------------------------------------------------------------------------------------- invalidation


@pytest.mark.parametrize(
    ("method", "status", "expected"),
    [
        ("POST", 200, True),
        ("PUT", 201, True),
        ("DELETE", 204, True),
        ("PATCH", 303, True),
        ("M-SEARCH", 200, True),
        ("UNHEARD-OF", 200, True),
        ("POST", 400, False),
        ("DELETE", 500, False),
        ("OPTIONS", 200, False),
        ("PROPFIND", 207, False),
        ("GET", 200, False),
        ("HEAD", 200, False),
    ],
)
def test_which_answers_show_that_something_changed(method, status, expected):
    assert invalidates(method, status) is expected


@pytest.mark.parametrize(
    ("values", "urls"),
    [
        ({"Location": "/a"}, ("http://e:8000/a",)),
        ({"Content_Location": "c?d"}, ("http://e:8000/x/c?d",)),
        ({"Location": "http://e:8000/a", "Content_Location": "b"}, ("http://e:8000/a", "http://e:8000/x/b")),
        ({"Location": "http://e/a"}, ()),
        ({"Location": "https://e:8000/a"}, ()),
        ({"Location": "//other/a"}, ()),
        ({"Location": "http://[broken/a"}, ()),
        ({}, ()),
    ],
)
def test_a_change_is_one_of_what_its_answer_names_on_the_same_server(values, urls):
    assert also_invalidated("http://e:8000/x/y", fields(**values)) == urls
