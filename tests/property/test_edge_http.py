"""Requests, targets, ranges and cache files of every kind: read, or refused by the one error they may raise."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cdn.errors import DocumentError
from edge.cache.cache_file import FileFacts, parse_facts
from edge.content import content_of, digest_of_key
from edge.http.answering import Answer, CacheStatus, Representation, answer_from, render_head
from edge.http.caching import (
    Decision,
    Lifetime,
    StoredHead,
    cache_control,
    current_age,
    decide,
    freshness_lifetime,
    is_fresh,
    may_stand_in,
    refreshed,
    selecting_fields,
    selects,
)
from edge.http.headers import Headers
from edge.http.ranges import RANGES_MAX, UnsatisfiableRange, requested_ranges
from edge.http.request import Request, RequestError, RequestLimits, RequestReader
from edge.http.target import parse_target

NOW = 1_700_000_000.0
TOKENS = st.text("abcXYZ019-_", min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=30)
FIELD_NAMES = st.sampled_from(
    ["Cache-Control", "Age", "Date", "Expires", "Vary", "ETag", "Last-Modified", "Pragma", "X", "Accept"]
)
SENSIBLE = st.sampled_from(
    [
        "max-age=10",
        "no-cache",
        "s-maxage=1, public",
        "max-stale",
        "max-age=x",
        "0",
        "5",
        "*",
        "Accept, X",
        '"a"',
        "private",
        "stale-if-error=9",
    ]
)
HEADERS = st.lists(st.tuples(FIELD_NAMES, st.one_of(SENSIBLE, VALUES)), max_size=6).map(Headers.of)
HEADS = st.builds(
    StoredHead, st.sampled_from([200, 301, 404, 500]), HEADERS, st.floats(NOW - 1e6, NOW), st.floats(NOW - 1e6, NOW)
)
LIFETIMES = st.builds(
    Lifetime, st.one_of(st.none(), st.floats(0, 1e6)), st.floats(0, 1e6), st.booleans(), st.floats(0, 1e6)
)
PATHS = st.text("/ab.%2Ff~-_:[]\\\0é", max_size=30).map(lambda text: f"/{text}")


@st.composite
def request_heads(draw) -> bytes:
    fields = draw(st.lists(st.tuples(TOKENS, VALUES), max_size=5))
    lines = [f"GET /{draw(TOKENS)} HTTP/1.1", "Host: e", *(f"X-{name}: {value}" for name, value in fields)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def read_all(pieces: list[bytes]) -> list[Request]:
    reader, found = RequestReader(RequestLimits()), []
    for piece in pieces:
        request = reader.feed(piece)
        while request is not None:
            found.append(request)
            request = reader.next()
    return found


@given(st.lists(request_heads(), max_size=4), st.lists(st.integers(0, 400), max_size=6))
def test_requests_do_not_depend_on_how_the_bytes_arrive(heads, cuts):
    stream = b"".join(heads)
    places = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    pieces = [stream[start:stop] for start, stop in itertools.pairwise(places)]
    assert read_all(pieces) == read_all([stream])
    assert len(read_all([stream])) == len(heads)


@given(st.one_of(st.binary(max_size=300), request_heads().map(lambda head: head[:-3] + b"\n" + head[-3:])))
def test_garbage_is_read_or_refused(data):
    try:
        read_all([data])
    except RequestError as error:
        assert 400 <= error.status < 600


@given(PATHS)
def test_a_target_is_canonical_or_refused_and_never_climbs(text):
    try:
        target = parse_target(text)
    except RequestError:
        return
    assert parse_target(target.url) == target
    assert not {".", ".."} & set(target.path.split("/"))
    assert not set("\0\\") & set(target.path)


@given(PATHS)
def test_every_path_leads_to_some_content(path):
    content = content_of(path)
    assert digest_of_key(path) == content_of(path.partition("?")[0]).digest
    assert isinstance(content.repository, str)


@given(HEADERS, st.one_of(st.none(), HEADS), LIFETIMES)
def test_every_request_gets_a_decision_that_fits_what_is_stored(request, stored, lifetime):
    decision = decide(request, stored, lifetime, NOW)
    if stored is None:
        assert decision in {Decision.FETCH, Decision.FAIL}
    if decision is Decision.SERVE:
        assert stored is not None
        assert "no-cache" not in cache_control(request)
        assert is_fresh(stored, lifetime, NOW) or "max-stale" in cache_control(request)


@given(HEADS, LIFETIMES)
def test_ages_and_lifetimes_are_never_negative_and_bounded(stored, lifetime):
    assert 0 <= current_age(stored, NOW) < 1e11
    assert 0 <= freshness_lifetime(stored.status, stored.headers, lifetime) <= lifetime.seconds_max
    assert may_stand_in(Headers(), stored, lifetime, NOW) in {True, False}


@given(HEADS, HEADERS)
def test_a_confirmed_answer_is_no_older_than_its_confirmation(stored, news):
    new = refreshed(stored, news.without("Age", "Date"), NOW, NOW)
    assert current_age(new, NOW) <= 1


@given(HEADERS, HEADERS)
def test_an_answer_is_for_the_request_it_was_fetched_for_unless_it_varies_on_everything(request, response):
    chosen = selecting_fields(request, response)
    stored = StoredHead(200, response, NOW, NOW, chosen)
    assert selects(stored, request) is not any(name == "*" for name, _ in chosen)


@given(st.one_of(VALUES, st.from_regex(r"bytes=[0-9]{0,3}-[0-9]{0,3}(,[0-9]{0,3}-[0-9]{0,3}){0,5}", fullmatch=True)))
@example("bytes=0-,0-")
def test_ranges_lie_within_the_body_whatever_is_asked_for(text):
    for size in (0, 1, 100, 500):
        try:
            parts = requested_ranges(Headers((("Range", text),)), Headers(), size)
        except UnsatisfiableRange:
            continue
        assert parts is None or all(0 <= part.start < part.stop <= size for part in parts)


@st.composite
def range_specs(draw, size: int) -> tuple[str, set[int]]:
    """A range as a client writes it, and the bytes it means."""
    first, length = draw(st.integers(0, size + 50)), draw(st.integers(1, 300))
    kind = draw(st.sampled_from(["both", "open", "suffix"]))
    if kind == "both":
        return f"{first}-{first + length - 1}", set(range(first, min(first + length, size)))
    if kind == "open":
        return f"{first}-", set(range(first, size))
    return f"-{length}", set(range(max(0, size - length), size))


@given(st.data(), st.sampled_from([1, 200, 3000, 50_000]), st.booleans())
def test_the_parts_of_an_answer_are_those_asked_for(data, size, is_arriving):
    """Against a model: every byte asked for is in a part, parts say truly what they are, none is sent twice."""
    specs = data.draw(st.lists(range_specs(size), min_size=1, max_size=6))
    body = bytes(number % 251 for number in range(size))
    asked = set().union(*(each for _, each in specs))
    request = Request("GET", "/x", headers=Headers((("Range", "bytes=" + ", ".join(text for text, _ in specs)),)))
    source = Representation(
        StoredHead(200, Headers((("Content-Type", "a/b"),)), NOW, NOW),
        content_of("/x"),
        Lifetime(),
        size,
        is_arriving=is_arriving,
    )
    answer = answer_from(source, request, NOW, CacheStatus(is_hit=True), "e")
    sent = answer.taken_from(body)
    if not asked:
        assert (answer.status, sent) == (416, b"")
        return
    assert len(sent) == answer.size
    parts = _sent_parts(answer, sent, size)
    assert len(parts) <= RANGES_MAX
    assert asked <= {number for start, piece in parts for number in range(start, start + len(piece))}
    assert sum(len(piece) for _, piece in parts) <= size
    assert all(piece == body[start : start + len(piece)] for start, piece in parts)
    if is_arriving:
        assert parts == sorted(parts)


def _sent_parts(answer: Answer, sent: bytes, size: int) -> list[tuple[int, bytes]]:
    """Where each part begins, and its bytes, as a client reads them."""
    kind = answer.headers.get("Content-Type")
    assert kind is not None
    if not kind.startswith("multipart/byteranges"):
        said = answer.headers.get("Content-Range")
        assert (said is not None) is (answer.status == 206)
        return [(_start_of(said, sent, size) if said else 0, sent)]
    mark = kind.partition("boundary=")[2].encode()
    assert answer.headers.get("Content-Range") is None
    first, *pieces, last = (b"\r\n" + sent).split(b"\r\n--" + mark)
    assert (first, last) == (b"", b"--\r\n")
    parts = []
    for piece in pieces:
        head, _, content = piece.partition(b"\r\n\r\n")
        assert head.startswith(b"\r\nContent-Type: a/b\r\nContent-Range: ")
        parts.append((_start_of(head.decode().partition("Content-Range: ")[2], content, size), content))
    return parts


def _start_of(content_range: str, content: bytes, size: int) -> int:
    start = int(content_range.removeprefix("bytes ").partition("-")[0])
    assert content_range == f"bytes {start}-{start + len(content) - 1}/{size}"
    return start


@given(HEADS, LIFETIMES, HEADERS, st.one_of(st.none(), st.integers(0, 100)))
def test_the_head_of_an_answer_is_one_head(stored, lifetime, request_fields, size):
    request = Request("GET", "/x", headers=request_fields)
    source = Representation(stored, content_of("/x"), lifetime, size, is_complete=size is not None)
    answer = answer_from(source, request, NOW, CacheStatus(is_hit=True), "e")
    head = render_head(answer, request, keeps_alive=True)
    assert head.endswith(b"\r\n\r\n")
    assert head.count(b"\r\n\r\n") == 1
    assert answer.size is None or 0 <= answer.size <= (size or 0)


FACTS = st.builds(
    FileFacts, st.text(max_size=20), HEADS, st.integers(0, 2**40), st.text("0123456789abcdef", max_size=64)
)


@given(FACTS)
def test_facts_of_a_cached_file_survive(facts):
    data = facts.to_bytes()
    assert parse_facts(data[:-16]) == facts


@given(st.binary(max_size=200))
def test_damaged_facts_raise_the_one_error(data):
    with pytest.raises(DocumentError):
        parse_facts(data)
