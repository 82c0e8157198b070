"""Configurations that are refused, and why."""

from pathlib import Path

import pytest

from cdn.config import parse_config
from cdn.errors import ConfigError
from edge.config import EdgeConfig, load
from edge.settings.upstreams import UpstreamSettings

EXAMPLE = Path(__file__).parents[3] / "examples" / "edge.toml"
GOOD = '[[upstreams]]\nname = "a"\nurls = ["http://a/@fqrn@"]\n'


def test_the_example_is_good_and_its_cache_lies_beside_it():
    config = load(EXAMPLE)
    assert [upstream.name for upstream in config.upstreams] == ["example", "partner", "conditions"]
    assert config.cache.directory == EXAMPLE.parent / "cache"
    assert config.cache.disk_bytes == 100 << 30


def test_only_upstreams_are_needed():
    assert parse_config(EdgeConfig, GOOD, "x").forward.enabled


def test_every_mistake_is_told_at_once_in_the_order_of_the_file():
    text = "workers = 0\n" + GOOD + '[cache]\npinned_share = 2\n[listen]\naddresses = ["x"]\n'
    with pytest.raises(ConfigError) as refused:
        parse_config(EdgeConfig, text, "x")
    assert [line.split(": ")[1] for line in str(refused.value).splitlines()] == [
        "workers",
        "cache.pinned_share",
        "listen.addresses",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("upstreams = []\n", "upstreams: name at least one"),
        ('[[upstreams]]\nname = "a"\nurls = []\n', "urls: name at least one server"),
        ('[[upstreams]]\nname = "a b"\nurls = ["http://a/@fqrn@"]\n', "name: use letters"),
        ('[[upstreams]]\nname = "a"\nurls = ["http://a/b"]\n', "needs @fqrn@ in each URL"),
        ('[[upstreams]]\nname = "a"\nurls = ["ftp://a/@fqrn@"]\n', "is no base URL"),
        ('[[upstreams]]\nname = "a"\nurls = ["/cvmfs/@fqrn@"]\n', "does not begin with http"),
        ('[[upstreams]]\nname = "a"\npath = "x"\nurls = ["http://a"]\n', "path: 'x' is no path such as"),
        ('[[upstreams]]\nname = "a"\npath = "/%2e"\nurls = ["http://a"]\n', "path: "),
        ('[[upstreams]]\nname = "a"\npath = "/x?y"\nurls = ["http://a"]\n', "path: "),
        ('[[upstreams]]\nname = "a"\npath = "/cvmfs"\nurls = ["http://a"]\n', "are repositories"),
        ('[[upstreams]]\nname = "a"\npath = "/cvmfs/x"\nurls = ["http://a"]\n', "are repositories"),
        ('[[upstreams]]\nname = "a"\npath = "/x"\nurls = ["http://a/@fqrn@"]\n', "a group with a path has none"),
        ("workers = 0\n" + GOOD, "from 1 to 64"),
        ("workers = 65\n" + GOOD, "from 1 to 64"),
        ("workers = 4\n" + GOOD + '[cache]\nmemory_bytes = "2MiB"\n', "have no room for memory_object_bytes"),
        (GOOD + GOOD, "two have the same name"),
        ('[[upstreams]]\nname = "a"\nurls = "http://a/@fqrn@|ftp://b/@fqrn@"\n', "x:3: upstreams[0].urls: 'ftp://b"),
        ('[[upstreams]]\nname = "a"\nurls = ";|;"\n', "urls: name at least one server"),
        ('[[upstreams]]\nname = "a"\nurls = ["http://a/@fqrn@;http://b/@fqrn@"]\n', "a list has an item for each"),
        ('[[upstreams]]\nname = "a"\nurls = "http://a/@fqrn@;http://a/@fqrn@"\n', "a server is named twice"),
        ('[[upstreams]]\nname = "a"\nurls = 7\n', "urls: expected a string or an array"),
        (GOOD + 'proxies = "ftp://p"\n', "x:4: upstreams[0].proxies: 'ftp://p' is no proxy"),
        (GOOD + "connections = -1\n", "connections: must be at least 0"),
        (GOOD + 'probe = ".cvmfspublished"\n', "probe: in a group of several repositories"),
        (GOOD + 'probe = "/a?b"\n', "probe: "),
        (
            GOOD + '[siblings]\nurls = ["http://e:80/x"]\n',
            "x:5: siblings.urls: 'http://e:80/x' is no base URL of an edge",
        ),
        (GOOD + '[siblings]\nurls = ["http://e:8000"]\n', "siblings.own: say by which URL"),
        (GOOD + '[siblings]\nown = "http://e"\n[siblings.weights]\n"http://f" = 1.0\n', "is none of the siblings"),
        (GOOD + '[siblings]\nown = "http://e"\n[siblings.weights]\n"http://e" = 0.0\n', "needs a weight above 0"),
        (GOOD + "[fetch]\nhedge_share = 0.6\n", "hedge_share: must be from 0 to 0.5"),
        (GOOD + "[listen]\naddresses = []\n", "name at least one address"),
        (GOOD + '[listen]\naddresses = ["localhost:80"]\n', "'localhost' is no IP address"),
        (GOOD + '[listen]\naddresses = ["127.0.0.1:9154"]\n', "admin.listen: clients are answered at"),
        (GOOD + '[listen]\naddresses = ["0.0.0.0:9154"]\n', "admin.listen: clients are answered at"),
        ('[upstreams]\nname = "a"\n', "write [[upstreams]] in place of [upstreams]"),
        ('[[upstreams]]\nname = "a"\nurls = ["a:80/@fqrn@"]\n', "'a:80/@fqrn@' does not begin with http://"),
        (GOOD + '[cache]\nmemory_bytes = "1MiB"\nmemory_object_bytes = "2MiB"\n', "larger than memory_bytes"),
        (GOOD + "[cache]\npinned_share = 1.0\n", "must be from 0 to 0.9"),
        (GOOD + '[lifetimes]\nnegative = "2m"\n', "hides new objects"),
        (GOOD + '[lifetimes]\nstale_while_revalidate = "11m"\n', "hides new revisions"),
        (GOOD + '[manifest]\nprefetch_timeout = "31s"\n', "keeps clients from"),
        (GOOD + "[limits]\ntarget_bytes_max = 20000\n", "larger than head_bytes_max"),
        (GOOD + "[limits]\nconnections_max = 0\n", "greater than zero"),
        (GOOD + '[forward]\nallow = ["example.org"]\n', "is no base URL"),
        (GOOD + '[log]\nformat = "xml"\n', "format"),
        (GOOD + '[log]\nformat = "combined_id"\n', "set request_id to"),
        (GOOD + "[cache]\ndisk = 1\n", "no such key"),
    ],
)
def test_a_mistake_is_told(text, message):
    with pytest.raises(ConfigError, match=r"^x:") as told:
        parse_config(EdgeConfig, text, "x")
    assert message in str(told.value)


def test_a_group_of_one_repository_needs_no_mark():
    upstream = UpstreamSettings("a", ("http://a/b/",), ("sw.example.org",))
    assert upstream.groups == (("http://a/b/",),)
    assert not upstream.holds("sx.example.org")


@pytest.mark.parametrize(
    ("urls", "groups"),
    [
        (["http://a/@fqrn@", "http://b/@fqrn@"], "a;b"),
        ("http://a/@fqrn@;http://b/@fqrn@", "a;b"),
        ("http://a/@fqrn@ | http://b/@fqrn@ ;http://c/@fqrn@", "a|b;c"),
        (["http://a/@fqrn@|http://b/@fqrn@", "http://c/@fqrn@"], "a|b;c"),
    ],
)
def test_groups_are_written_as_clients_write_them(urls, groups):
    settings = UpstreamSettings("x", tuple(urls) if isinstance(urls, list) else urls)
    assert ";".join("|".join(url[7] for url in group) for group in settings.groups) == groups


def test_what_is_probed():
    single = UpstreamSettings("x", ("http://a/b/",), ("sw.example.org",), probe=".cvmfspublished")
    assert single.probe_url("http://a/b/") == "http://a/b/.cvmfspublished"
    many = UpstreamSettings("x", ("http://a:8000/cvmfs/@fqrn@",), probe="/cvmfs/info/v1/repositories.json")
    assert many.probe_url(many.servers[0]) == "http://a:8000/cvmfs/info/v1/repositories.json"
    site = UpstreamSettings("x", ("http://a/frontier/",), path="/f/", probe="alive")
    assert site.probe_url(site.servers[0]) == "http://a/frontier/alive"
