"""Who is asked for what."""

import pytest

from edge.config import EdgeConfig, ForwardSettings
from edge.content import ContentKind, digest_of_key
from edge.http.request import RequestError
from edge.http.target import parse_target
from edge.routing import Routes
from edge.settings.upstreams import UpstreamSettings

OBJECT = "data/01/23456789abcdef0123456789abcdef01234567"
ROUTES = Routes(
    EdgeConfig(
        upstreams=(
            UpstreamSettings("own", ("http://own.example.org/repo",), ("own.example.org",)),
            UpstreamSettings("all", ("http://s1/cvmfs/@fqrn@", "http://S2:8000/x/@fqrn@/"), ("*.example.org", "info")),
        ),
        forward=ForwardSettings(allow=("http://other.example.org/pub",)),
    )
)


def urls(text: str) -> list[str]:
    return [source.url for source in ROUTES.locate(parse_target(text)).sources]


def test_the_first_group_that_holds_a_repository_serves_it():
    assert urls("/cvmfs/own.example.org/.cvmfspublished") == ["http://own.example.org/repo/.cvmfspublished"]
    assert urls("/cvmfs/sw.example.org/a?b") == [
        "http://s1/cvmfs/sw.example.org/a?b",
        "http://S2:8000/x/sw.example.org/a?b",
    ]
    assert urls("/cvmfs/info/v1/meta.json")[0] == "http://s1/cvmfs/info/v1/meta.json"


@pytest.mark.parametrize(
    "text",
    ["/cvmfs/sw.example.com/x", "/cvmfs/sw.example.org", "/x", "/cvmfs//x", "/cvmfs/-/", "/Cvmfs/sw.example.org/x"],
)
def test_what_nobody_holds_is_refused(text):
    if text == "/cvmfs/-/":
        text = "/cvmfs/-"
    with pytest.raises(RequestError) as refused:
        urls(text)
    assert refused.value.status == 403


SITES = Routes(
    EdgeConfig(
        upstreams=(
            UpstreamSettings("all", ("http://s1/cvmfs/@fqrn@",)),
            UpstreamSettings("root", ("http://site/base/",), path="/"),
            UpstreamSettings("deep", ("http://deep1", "http://deep2/x"), path="/deep"),
        ),
    )
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/", ["http://site/base/"]),
        ("/a.json?b", ["http://site/base/a.json?b"]),
        ("/deeper", ["http://site/base/deeper"]),
        ("/deep", ["http://deep1", "http://deep2/x"]),
        ("/deep?a", ["http://deep1?a", "http://deep2/x?a"]),
        ("/deep/a/", ["http://deep1/a/", "http://deep2/x/a/"]),
        (f"/sw.example.org/{OBJECT}", [f"http://site/base/sw.example.org/{OBJECT}"]),
        ("http://site/base/a", ["http://site/base/a"]),
        ("http://deep2/x/a", ["http://deep2/x/a"]),
    ],
)
def test_an_ordinary_site_is_asked_for_what_is_below_its_path(text, expected):
    found = SITES.locate(parse_target(text))
    assert [source.url for source in found.sources] == expected
    assert (found.is_general, found.content.kind, found.content.digest) == (True, ContentKind.OTHER, None)
    assert digest_of_key(found.key) is None


@pytest.mark.parametrize(
    "text", ["/cvmfs/sw.example.org/x", "http://s1/cvmfs/sw.example.org/x", f"/cvmfs/sw.example.org/{OBJECT}"]
)
def test_what_is_a_repositorys_is_no_ordinary_sites(text):
    assert not SITES.locate(parse_target(text)).is_general


@pytest.mark.parametrize("text", ["/cvmfs/x", "/cvmfs", "http://site/other", "http://deep2/y"])
def test_an_ordinary_site_is_not_asked_for_anything_else(text):
    assert text == "/cvmfs" or not SITES.is_general(parse_target(text))
    if text.startswith("http"):
        with pytest.raises(RequestError):
            SITES.locate(parse_target(text))


def test_a_forward_client_is_served_by_the_server_it_names_and_objects_by_all():
    assert urls("http://s2:8000/x/sw.example.org/.cvmfspublished") == [
        "http://s2:8000/x/sw.example.org/.cvmfspublished"
    ]
    assert urls(f"http://s2:8000/x/sw.example.org/{OBJECT}") == [
        f"http://S2:8000/x/sw.example.org/{OBJECT}",
        f"http://s1/cvmfs/sw.example.org/{OBJECT}",
    ]
    assert urls("http://other.example.org/pub/x") == ["http://other.example.org/pub/x"]
    assert urls("http://own.example.org/repo/x") == ["http://own.example.org/repo/x"]


@pytest.mark.parametrize(
    "text",
    [
        "http://s1/x",
        "http://s1:8000/cvmfs/a/b",
        "https://s1/cvmfs/a/b",
        "http://other.example.org/public",
        "http://other.example.org/pub",
        "http://own.example.org/repository/x",
        "http://evil.example.org/cvmfs/sw.example.org/x",
        "http://s1.evil.example/cvmfs/a/b",
    ],
)
def test_no_other_server_can_be_reached(text):
    with pytest.raises(RequestError) as refused:
        urls(text)
    assert refused.value.status == 403


GROUPED = Routes(
    EdgeConfig(
        upstreams=(
            UpstreamSettings(
                "all", "http://s1/@fqrn@|http://s2/@fqrn@;http://s3/@fqrn@", connections=4, probe="/alive"
            ),
            UpstreamSettings("far", "http://f/@fqrn@", ("far.org",), proxies="u:p@p1:3128|p2:3128;DIRECT"),
            UpstreamSettings("again", "http://s1/x", ("x.org",), connections=2),
        )
    )
)


def asked(text: str) -> list[tuple[str, int, str | None]]:
    return [(source.server, source.group, source.proxy) for source in GROUPED.locate(parse_target(text)).sources]


def test_equals_have_the_same_number():
    assert asked(f"/cvmfs/sw.example.org/{OBJECT}") == [
        ("http://s1", 0, None),
        ("http://s2", 0, None),
        ("http://s3", 1, None),
    ]


def test_the_group_of_the_server_that_a_forward_client_names_comes_first():
    assert [server for server, _, _ in asked(f"http://s3/sw.example.org/{OBJECT}")] == [
        "http://s3",
        "http://s1",
        "http://s2",
    ]


@pytest.mark.parametrize("text", ["/cvmfs/far.org/.cvmfspublished", "http://f/far.org/.cvmfspublished"])
def test_servers_behind_proxies_are_asked_through_them_however_they_are_named(text):
    routes = Routes(EdgeConfig(upstreams=(GROUPED._upstreams[1],)))
    sources = routes.locate(parse_target(text)).sources
    assert [(source.server, source.group, source.proxy) for source in sources] == [
        ("http://f via http://***@p1:3128", 0, "http://u:p@p1:3128"),
        ("http://f via http://p2:3128", 0, "http://p2:3128"),
        ("http://f", 1, None),
    ]
    assert {source.origin for source in sources} == {"http://f"}


def test_the_smallest_limit_of_a_server_counts_and_each_is_probed_once():
    assert GROUPED.connections["http://s1"] == 2
    assert GROUPED.connections["http://s2"] == 4
    assert GROUPED.connections["http://f"] == 0
    assert [source.url for source, _ in GROUPED.probes()] == ["http://s1/alive", "http://s2/alive", "http://s3/alive"]


def test_an_object_has_one_key_however_it_is_asked_for():
    keys = {
        ROUTES.locate(parse_target(text)).key
        for text in (
            f"/cvmfs/sw.example.org/{OBJECT}",
            f"http://s1/cvmfs/sw.example.org/{OBJECT}",
            f"http://s2:8000/x/sw.example.org/{OBJECT}",
        )
    }
    assert len(keys) == 1
    other = ROUTES.locate(parse_target(f"/cvmfs/sx.example.org/{OBJECT}")).key
    with_query = ROUTES.locate(parse_target(f"/cvmfs/sw.example.org/{OBJECT}?x")).key
    assert len(keys | {other, with_query}) == 3


def test_what_differs_by_server_has_a_key_for_each():
    first, second = (
        ROUTES.locate(parse_target(f"http://{host}/sw.example.org/.cvmfspublished")).key
        for host in ("s1/cvmfs", "s2:8000/x")
    )
    assert first != second
