"""From TOML to frozen dataclasses, every mistake at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import pytest

from cdn.config import Between, Duration, Port, Size, load_config, parse_config, parse_duration, parse_size
from cdn.errors import ConfigError


class Policy(Enum):
    STRICT = "strict"
    LENIENT = "lenient"


@dataclass(frozen=True, slots=True)
class Cache:
    folder: Path = Path("/var/cache/edge")
    ram_bytes: Size = 64 << 20
    disk_bytes: Size = 10 << 30
    keep_seconds: Duration = 240.0

    def __post_init__(self) -> None:
        if self.ram_bytes > self.disk_bytes:
            raise ValueError("ram_bytes: must not exceed disk_bytes")


@dataclass(frozen=True, slots=True)
class Upstream:
    url: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Edge:
    listen: str = "127.0.0.1"
    port: Port = 3128
    workers: Annotated[int, Between(1)] = 1
    verify: bool = True
    policy: Policy = Policy.STRICT
    mode: Literal["forward", "reverse"] = "reverse"
    cache: Cache = field(default_factory=Cache)
    upstreams: tuple[Upstream, ...] = ()
    sites: dict[str, Duration] = field(default_factory=dict)
    password_file: Path | None = None


def refused(text: str, kind: type = Edge) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(kind, text, "edge.toml")
    return str(caught.value).splitlines()


def test_an_empty_file_is_all_defaults():
    assert parse_config(Edge, "", "edge.toml") == Edge()


def test_every_kind_of_value_is_read():
    text = """
    listen = "::"
    port = 80
    workers = 2
    verify = false
    policy = "lenient"
    mode = "forward"
    password_file = "/etc/stratocast/password"
    [cache]
    folder = "/srv/cache"
    ram_bytes = "1GiB"
    disk_bytes = 2_000_000_000
    keep_seconds = "4m"
    [[upstreams]]
    url = "http://a/"
    [[upstreams]]
    url = "http://b/"
    weight = 2
    [sites]
    berlin = "250ms"
    "new york" = 1
    """
    assert parse_config(Edge, text, "edge.toml") == Edge(
        listen="::",
        port=80,
        workers=2,
        verify=False,
        policy=Policy.LENIENT,
        mode="forward",
        password_file=Path("/etc/stratocast/password"),
        cache=Cache(Path("/srv/cache"), 1 << 30, 2_000_000_000, 240.0),
        upstreams=(Upstream("http://a/"), Upstream("http://b/", 2.0)),
        sites={"berlin": 0.25, "new york": 1.0},
    )


def test_all_mistakes_are_told_at_once_with_file_line_and_key():
    text = """\
listen = 3128
prot = 80
policy = "strikt"
[cache]
ram_bytes = true
keep_seconds = "4 fortnights"

[[upstreams]]
url = "http://a/"
[[upstreams]]
weight = "2"
"""
    assert refused(text) == [
        "edge.toml:1: listen: expected a string, got an integer",
        "edge.toml:2: prot: there is no such key; did you mean port?",
        'edge.toml:3: policy: must be one of "strict", "lenient", not \'strikt\'; did you mean strict?',
        "edge.toml:5: cache.ram_bytes: expected a size, got true or false",
        'edge.toml:6: cache.keep_seconds: expected a duration such as "5s" or "4m", got \'4 fortnights\'',
        "edge.toml:10: upstreams[1].url: is required",
        "edge.toml:11: upstreams[1].weight: expected a number, got a string",
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("port = 65536", "edge.toml:1: port: must be from 0 to 65535, not 65536"),
        ("workers = 0", "edge.toml:1: workers: must be at least 1, not 0"),
        ("workers = 1.0", "edge.toml:1: workers: expected an integer, got a number"),
        ("workers = true", "edge.toml:1: workers: expected an integer, got true or false"),
        ("verify = 1", "edge.toml:1: verify: expected true or false, got an integer"),
        ("cache = 3", "edge.toml:1: cache: expected a table, got an integer"),
        ("cache.ram_bytes = -1", "edge.toml:1: cache.ram_bytes: a size cannot be negative"),
        ("cache.ram_bytes = '9999999999PiB'", "edge.toml:1: cache.ram_bytes: the number is too large"),
        ("cache.ram_bytes = 1979-05-27", "edge.toml:1: cache.ram_bytes: expected a size, got a date or time"),
        ("cache.keep_seconds = nan", "edge.toml:1: cache.keep_seconds: expected a duration, got nan"),
        ("upstreams = [{url = 'a', weight = inf}]", "edge.toml:1: upstreams[0].weight: expected a number, got inf"),
        ("cache.folder = ''", "edge.toml:1: cache.folder: expected a path, got an empty string"),
        ("cache.folder = 'a\\u0000'", "edge.toml:1: cache.folder"),
        ("upstreams = 'http://a'", "edge.toml:1: upstreams: expected an array, got a string"),
        ("upstreams = ['http://a']", "edge.toml:1: upstreams[0]: expected a table, got a string"),
        ("sites = []", "edge.toml:1: sites: expected a table, got an array"),
        ("sites = {\nberlin = ''}", "edge.toml: "),
        ("mode = 'Forward'", 'edge.toml:1: mode: must be one of "forward", "reverse", not \'Forward\''),
        ("mode = []", 'edge.toml:1: mode: must be one of "forward", "reverse", not an array'),
        ("workers = 99999999999999999999", "edge.toml:1: workers: the number is too large"),
        ("\n\n[cache]\nram_bytes = '1TiB'", "edge.toml:4: cache.ram_bytes: must not exceed disk_bytes"),
        ("[cache", "edge.toml: "),
        ("port = 1\nport = 2", "edge.toml: "),
        (f"port = {'9' * 5000}", "edge.toml: "),
        ("port = " + "[" * 100_000, "edge.toml: "),
    ],
)
def test_a_mistake_is_one_line_that_names_the_place(text, mistake):
    if "\\u0000" in text:
        text = text.replace("'", '"')
    (told,) = refused(text)
    assert told.startswith(mistake)


def test_a_class_may_refuse_several_things_at_once():
    @dataclass(frozen=True)
    class Pair:
        a: int = 1
        b: int = 1

        def __post_init__(self) -> None:
            raise ValueError("a: is odd", "b: is odd", "the two are equal")

    assert refused("b = 1\na = 1", Pair) == [
        "edge.toml:1: b: is odd",
        "edge.toml:2: a: is odd",
        "edge.toml: the two are equal",
    ]


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read: No such file or directory"):
        load_config(Edge, tmp_path / "none.toml")


def test_a_file_is_read(tmp_path):
    path = tmp_path / "edge.toml"
    path.write_text("port = 1")
    assert load_config(Edge, path).port == 1


def test_a_file_that_is_not_text_is_refused_with_the_line(tmp_path):
    path = tmp_path / "edge.toml"
    path.write_bytes(b"port = 1\nlisten = '\xff'\n")
    with pytest.raises(ConfigError, match=r"edge\.toml:2: the file is not UTF-8 text"):
        load_config(Edge, path)


def test_a_file_that_never_ends_is_refused():
    with pytest.raises(ConfigError, match="is no configuration"):
        load_config(Edge, Path("/dev/zero"))


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64MiB", 64 << 20),
        ("64M", 64 << 20),
        ("64 mib", 64 << 20),
        ("10GB", 10**10),
        ("1.5KiB", 1536),
        ("9007199254740993", 9007199254740993),
        ("3 PiB", 3 << 50),
    ],
)
def test_sizes(text, size_bytes):
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("250ms", 0.25), ("4m", 240), ("4 min", 240), ("1.5h", 5400), ("30d", 2592000), ("2w", 1209600)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1e3", "1 2", "٣", "1.", ".5", "5s", "1XiB", "nan", "9" * 40])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "5sec onds", "5 fortnights", "inf", "1e3s"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@dataclass(frozen=True, slots=True)
class Sources:
    urls: str | tuple[str, ...] = ()


def test_a_text_or_an_array_may_stand_where_both_are_allowed():
    assert parse_config(Sources, 'urls = "a;b"', "x") == Sources("a;b")
    assert parse_config(Sources, 'urls = ["a", "b"]', "x") == Sources(("a", "b"))
    assert refused("urls = 1", Sources) == ["edge.toml:1: urls: expected a string or an array, got an integer"]
    assert refused("urls = [1]", Sources) == ["edge.toml:1: urls[0]: expected a string, got an integer"]
