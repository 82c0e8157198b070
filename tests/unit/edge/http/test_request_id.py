"""Which ID a request has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.http.headers import Headers
from edge.http.request_id import FIELD, RequestIds, named

FRESH = bytes(range(16)).hex()


def ids(*, accepts: bool = True) -> RequestIds:
    return RequestIds(lambda count: bytes(range(count)), accepts=accepts)


@pytest.mark.parametrize("said", ["a", "7b2c-44", "x" * 128, "host:1/2=3+4@5_6.7", "0af7651916cd43dd8448eb211c80319c"])
def test_a_good_id_is_kept_where_clients_are_believed(said):
    assert ids().of(Headers(((FIELD.lower(), said),))) == said
    assert ids(accepts=False).of(Headers(((FIELD, said),))) == FRESH


@pytest.mark.parametrize("said", ["", "x" * 129, "a b", "a,b", 'a"b', "a\\b", "\x1b[31m", "é", "٣", "a\n"])
def test_a_hostile_one_is_replaced(said):
    assert ids().of(Headers(((FIELD, said),))) == FRESH


def test_of_two_none_counts():
    assert ids().of(Headers(((FIELD, "a"), (FIELD, "b")))) == FRESH
    assert ids().of(Headers()) == FRESH


@given(st.text(max_size=200))
def test_whatever_comes_an_id_is_one_short_printable_word(said):
    result = ids().of(Headers(((FIELD, said),)))
    assert 1 <= len(result) <= 128
    assert result.isascii()
    assert result.isprintable()
    assert not set(result) & set(" ,;\"'\\<>&%")


def test_nothing_is_said_of_a_request_without_an_id():
    assert named("") == {}
    assert named("a") == {"request_id": "a"}
