"""What an order to purge means, and what it covers."""

import pytest
from hypothesis import given

from cdn.errors import UsageError
from edge.cache.purging import Rule
from edge.operations.purge_orders import PurgeOrder, rule_of
from edge.settings.upstreams import UpstreamSettings
from tests.strategies import repository_names

SW = "sw.example.org"
OBJECT = f"object:{SW}/data/ab/cdef"
UPSTREAMS = (
    UpstreamSettings(
        "one", ("http://One.example.org:80/cvmfs/@fqrn@", "https://s2/opt/@fqrn@/mirror"), ("*.example.org",)
    ),
    UpstreamSettings("single", ("http://s3/data-of-it",), ("it.partner.example",)),
    UpstreamSettings("site", ("http://c1/frontier/",), path="/frontier/"),
)


def rule(soft: bool = False, at: float = 100.0, **order: object) -> Rule:
    return rule_of(PurgeOrder.parse({"soft": soft, **order}), UPSTREAMS, at)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "by one of url, prefix, repository and all"),
        ({"url": "/a", "prefix": "/b"}, "by one of"),
        ({"all": False}, "by one of"),
        ({"all": 1}, "all is true or false"),
        ({"all": True, "soft": "yes"}, "soft is true or false"),
        ({"url": ""}, "url is a text"),
        ({"url": 7}, "url is a text"),
        ({"prefix": "/" * 8001}, "prefix is a text of 1 to 8000"),
        ({"repository": "../x"}, "no name of a repository"),
        ({"repository": SW, "revision": -1}, "revision is a number"),
        ({"repository": SW, "revision": True}, "revision is a number"),
        ({"repository": SW, "revision": 1.5}, "revision is a number"),
        ({"all": True, "revision": 1}, "name that too"),
        ({"urls": "/a", "all": True}, "'urls' is no key of a purge"),
    ],
)
def test_a_mistake_in_an_order_is_told(document, message):
    with pytest.raises(UsageError) as told:
        PurgeOrder.parse(document)
    assert message in str(told.value)


def test_every_mistake_is_told_at_once():
    with pytest.raises(UsageError, match=r"no key of a purge.*soft is true or false.*by one of"):
        PurgeOrder.parse({"what": 1, "soft": 2})


@pytest.mark.parametrize(
    ("order", "text"),
    [
        ({"all": True}, "everything"),
        ({"url": "/a"}, "/a"),
        ({"prefix": "/a"}, "what begins with /a"),
        ({"repository": SW}, f"the repository {SW}"),
        ({"repository": SW, "revision": 0}, f"revision 0 of {SW}"),
    ],
)
def test_an_order_says_what_it_is_about(order, text):
    assert PurgeOrder.parse(order).text == text


@pytest.mark.parametrize(
    "key",
    [
        f"/cvmfs/{SW}/.cvmfspublished",
        f"/cvmfs/{SW}/api/v1.0/geo/x/a,b?c=d",
        OBJECT,
        f"http://one.example.org/cvmfs/{SW}/.cvmfspublished",
        f"https://s2/opt/{SW}/mirror/.cvmfswhitelist",
        f"http://anywhere/else/{SW}/.cvmfspublished",
    ],
)
def test_a_repository_is_covered_however_it_was_asked_for(key):
    assert rule(repository=SW).covers(key)


@pytest.mark.parametrize(
    "key",
    [
        "/cvmfs/sw.example.orgs/.cvmfspublished",
        "object:xsw.example.org/data/ab/cdef",
        "site:/frontier/x",
        f"site:/{SW}/x",
        f"http://c1/frontier/?of=/{SW}/",
    ],
)
def test_a_repository_covers_no_other(key):
    assert not rule(repository=SW).covers(key)


def test_a_repository_with_servers_of_its_own_is_covered():
    assert rule(repository="it.partner.example").covers("http://s3/data-of-it/.cvmfspublished")


@pytest.mark.parametrize(
    ("prefix", "covered", "kept"),
    [
        ("/", (OBJECT, "/cvmfs/x", "site:/frontier/x"), ("http://c1/frontier/x",)),
        ("/cvmfs", (OBJECT, "/cvmfs/x"), ("site:/frontier/x",)),
        (f"/cvmfs/{SW}", (OBJECT, f"object:{SW}s/data/ab/c"), ("object:tw/data/ab/c",)),
        (f"/cvmfs/{SW}/data/a", (OBJECT,), (f"object:{SW}/data/bb/c", f"/cvmfs/{SW}/.cvmfspublished")),
        ("/frontier/a", ("site:/frontier/ab",), ("site:/frontier/b", OBJECT)),
        ("http://one.example.org", (OBJECT, "http://one.example.org/x"), ("/cvmfs/x", "object:sw.other/data/ab/c")),
        ("http://ONE.example.org:80/cvmfs/s", (OBJECT,), ("object:tw.example.org/data/ab/c",)),
        (f"http://one.example.org/cvmfs/{SW}/data/ab/", (OBJECT,), (f"object:{SW}/data/ac/c",)),
        (f"https://s2/opt/{SW}/mi", (OBJECT,), ("object:tw.example.org/data/ab/c",)),
        (f"https://s2/opt/{SW}/mirror/data/ab", (OBJECT,), (f"object:{SW}/data/bb/c",)),
        (f"https://s2/opt/{SW}/other", (), (OBJECT,)),
        ("http://s3/data-of-it/data/ab", ("object:it.partner.example/data/ab/c",), (OBJECT,)),
        ("http://s3/", ("object:it.partner.example/data/ab/c", "http://s3/x"), (OBJECT,)),
        ("http://c1/frontier/", ("http://c1/frontier/x",), ("site:/frontier/x", OBJECT)),
    ],
)
def test_a_prefix_covers_what_has_a_url_that_begins_so(prefix, covered, kept):
    made = rule(prefix=prefix)
    assert all(made.covers(key) for key in covered)
    assert not any(made.covers(key) for key in kept)


@pytest.mark.parametrize("prefix", ["cvmfs", "ftp://x/", "/a/../b", "http:///x"])
def test_what_begins_no_url_is_refused(prefix):
    with pytest.raises(UsageError, match="is the beginning of no path or URL"):
        rule(prefix=prefix)


@given(repository_names)
def test_everything_covers_everything(name):
    made = rule(all=True)
    assert all(made.covers(key) for key in (f"object:{name}/data/ab/c", f"/cvmfs/{name}/x", f"site:/{name}", name))


@pytest.mark.parametrize("order", [{"all": True}, {"repository": SW}, {"prefix": "http://one.example.org/"}])
@pytest.mark.parametrize("soft", [True, False])
def test_a_rule_survives_being_written_down(order, soft):
    made = rule(soft=soft, **order)
    assert Rule.parse(made.to_document()) == made
