"""Any configuration written down is read back, and any mistake is told at the line where it stands."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, field, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn.config import Duration, Size, parse_config, parse_duration, parse_size
from cdn.errors import ConfigError
from cdn.reporting import duration_text, size_text
from cdn.toml_lines import key_lines


@dataclass(frozen=True)
class Site:
    name: str = ""
    weight: float = 1.0
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Network:
    title: str = ""
    count: int = 0
    is_open: bool = False
    limit: Size = 0
    patience: Duration = 0.0
    sites: tuple[Site, ...] = ()
    default: Site = field(default_factory=Site)
    weights: dict[str, int] = field(default_factory=dict)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=20)
integers = st.integers(-(2**63) + 1, 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
sites = st.builds(Site, texts, finite, st.lists(texts, max_size=3).map(tuple))
networks = st.builds(
    Network,
    texts,
    integers,
    st.booleans(),
    st.integers(0, 2**63 - 1),
    st.floats(0, 2**60),
    st.lists(sites, max_size=3).map(tuple),
    sites,
    st.dictionaries(texts, integers, max_size=3),
)
noise = st.sampled_from(["", "\n", "# a = 1\n", "   # [x]\n\n", "\t\n"])


def written(value) -> str:
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=value.isascii() if isinstance(value, str) else True)
    if isinstance(value, tuple):
        return "[\n" + "".join(f"  {written(item)}, # ]\n" for item in value) + "]"
    return repr(value)


@st.composite
def documents(draw):
    """A network, and one way of writing it down."""
    network = draw(networks)
    lines = []
    for each in ("title", "count", "is_open", "limit", "patience"):
        lines += [draw(noise), f"{each} = {written(getattr(network, each))}\n"]
    tables = [("[weights]", {json.dumps(key, ensure_ascii=key.isascii()): n for key, n in network.weights.items()})]
    tables += [("[default]", vars(network.default))]
    tables += [("[[sites]]", vars(site)) for site in network.sites]
    for header, values in tables:
        lines += [draw(noise), f"{header}\n"]
        lines += [f"{draw(noise)}{key} = {written(value)}\n" for key, value in values.items()]
    return network, "".join(lines)


@given(documents())
def test_what_is_written_is_read_back(document):
    network, text = document
    assert parse_config(Network, text, "network.toml") == network


def paths(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield (*path, key)
        yield from paths(below, (*path, key))


@given(documents())
def test_every_key_of_a_document_has_a_line_and_it_is_the_right_one(document):
    _, text = document
    lines = text.split("\n")
    found = key_lines(text)
    everything = set(paths(tomllib.loads(text)))
    # An array of tables has no line of its own, only its tables have.
    assert everything - set(found) <= {("sites",)}
    assert set(found) <= everything
    for (*_, last), number in found.items():
        if isinstance(last, str) and last.isidentifier() and last.isascii():
            assert re.match(rf'\s*\[*"?{last}', lines[number - 1])


@given(documents(), st.data())
def test_a_wrong_value_is_told_with_its_own_line(document, data):
    _, text = document
    names = [each.name for each in fields(Site)]
    lines = text.split("\n")
    candidates = [n for n, line in enumerate(lines) if line.partition(" = ")[0] in names and not line.endswith("[")]
    number = data.draw(st.sampled_from(candidates))
    key = lines[number].partition(" = ")[0]
    lines[number] = f"{key} = 1979-05-27"
    with pytest.raises(ConfigError) as caught:
        parse_config(Network, "\n".join(lines), "network.toml")
    assert re.fullmatch(rf"network\.toml:{number + 1}: \S+\.{key}: expected .*, got a date or time", str(caught.value))


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_as_a_configuration_error(text):
    try:
        parse_config(Network, text, "network.toml")
    except ConfigError as error:
        assert str(error).startswith("network.toml")


@given(documents(), st.data())
def test_a_damaged_document_is_read_or_refused_as_a_configuration_error(document, data):
    _, text = document
    place = data.draw(st.integers(0, len(text)))
    gone = data.draw(st.integers(0, 5))
    added = data.draw(st.text("[]{}=\"'\n#,.a1", max_size=5))
    try:
        parse_config(Network, text[:place] + added + text[place + gone :], "network.toml")
    except ConfigError as error:
        assert str(error).startswith("network.toml")


@given(st.integers(0, 2**50))
def test_sizes_shown_to_people_are_sizes_read_from_them(size_bytes):
    assert abs(parse_size(size_text(size_bytes)) - size_bytes) <= max(size_bytes * 0.06, 0)


@given(st.text(max_size=40))
def test_quantities_are_read_or_refused_as_value_errors(text):
    for parse in (parse_size, parse_duration):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert str(error).startswith("expected a ")


@given(st.floats(0, 1e9))
def test_a_duration_for_people_is_short(seconds):
    assert len(duration_text(seconds)) <= 14
