"""Answers for objects that are judged once for all that are alike, held against the rules applied one by one."""

from hypothesis import given
from hypothesis import strategies as st

from edge.content import content_of
from edge.http.alike import object_answer
from edge.http.answering import CacheStatus, Representation, answer_from, kept_fields, object_tag, render_head
from edge.http.caching import StoredHead, dated, is_storable
from edge.http.headers import NO_FIELDS, Headers, http_date
from edge.http.request import Request
from edge.lifetimes import Lifetimes

NOW = 1_700_000_000.0
OBJECT = content_of("/cvmfs/sw/data/01/23456789abcdef0123456789abcdef01234567")
LIFETIME = Lifetimes().of(OBJECT.kind, 200)
PLAIN = Request("GET", "/", is_plain=True)

dates = st.integers(-300_000, 300_000).map(lambda seconds: http_date(NOW + seconds)) | st.sampled_from(["", "soon"])
values = {
    "Date": dates,
    "Expires": dates,
    "Last-Modified": dates,
    "ETag": st.sampled_from(['"a"', 'W/"b"', ""]),
    "Content-Length": st.sampled_from(["10", "010"]),
    "Content-Type": st.sampled_from(["text/plain", ""]),
    "Age": st.sampled_from(["0", "17", "300000", "old"]),
    "Cache-Control": st.sampled_from(
        ["max-age=60", "max-age=0", "no-store", "private", "no-cache", "public", "s-maxage=9, max-age=5", "max-age=x"]
    ),
    "CDN-Cache-Control": st.sampled_from(["max-age=7", "no-store", "?"]),
    "Connection": st.sampled_from(["keep-alive", "close", "X-A", "ETag", "last-modified, close"]),
    "Keep-Alive": st.just("timeout=5"),
    "Set-Cookie": st.just("a=b"),
    "Vary": st.sampled_from(["*", "Accept"]),
    "Via": st.just("1.1 other"),
    "Cache-Status": st.just("other; hit"),
    "Accept-Ranges": st.just("none"),
    "X-A": st.sampled_from(["1", "\udcff"]),
}
spelled = st.sampled_from([str, str.lower, str.upper])
pairs = st.sampled_from(sorted(values)).flatmap(
    lambda name: st.tuples(spelled.map(lambda spell: spell(name)), values[name])
)
seconds = st.sampled_from([0.0, 0.4, 2.0, 61.0, 259_199.0, 400_000.0])


def lines(head: bytes) -> list[str]:
    first, *rest = head.decode("utf-8", "surrogateescape").split("\r\n")
    return [first, *sorted(rest)]


@given(st.lists(pairs, max_size=9).map(tuple), seconds, seconds, st.booleans(), st.booleans())
def test_what_is_said_of_all_is_what_is_said_of_each(fields, took, since, is_stored, is_collapsed):
    found = object_answer(fields, LIFETIME)
    if found is None:
        return
    headers = dated(kept_fields(OBJECT, Headers(fields)), NOW)
    head = found.stored_head(object_tag(OBJECT), NOW - took, NOW)
    assert (head.status, head.asked_at, head.answered_at, head.selecting) == (200, NOW - took, NOW, ())
    assert sorted(head.headers.pairs) == sorted(headers.pairs)
    assert found.common.is_shareable == is_storable("GET", NO_FIELDS, 200, headers, LIFETIME)
    sent = found.sent_head(head, 10, NOW + since, "e", is_stored=is_stored, is_collapsed=is_collapsed)
    if sent is not None:
        status = CacheStatus(forwarded="miss", status=200, is_stored=is_stored, is_collapsed=is_collapsed)
        source = Representation(StoredHead(200, headers, NOW - took, NOW), OBJECT, LIFETIME, 10)
        answer = answer_from(source, PLAIN, NOW + since, status, "e")
        assert lines(sent) == lines(render_head(answer, PLAIN, keeps_alive=True))


def test_usual_servers_are_judged_so():
    for more in (
        (),
        (("Connection", "keep-alive"),),
        (("Cache-Control", "max-age=259200"), ("Accept-Ranges", "bytes")),
    ):
        fields = (("Server", "x"), ("Date", http_date(NOW)), ("ETag", '"1"'), ("Content-Length", "10"), *more)
        found = object_answer(fields, LIFETIME)
        assert found is not None
        head = found.stored_head(object_tag(OBJECT), NOW, NOW)
        assert found.sent_head(head, 10, NOW, "e", is_stored=True, is_collapsed=False) is not None


def test_what_names_its_own_fields_in_connection_is_judged_by_itself():
    fields = (("Date", http_date(NOW)), ("Connection", "Last-Modified"), ("Last-Modified", http_date(NOW)))
    assert object_answer(fields, LIFETIME) is None
    assert object_answer((("ETag", '"1"'),), LIFETIME) is None  # without a date
