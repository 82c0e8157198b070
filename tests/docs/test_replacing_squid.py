"""The page on replacing Squid names keys and writes a configuration that exist."""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path

import pytest

from edge.config import EdgeConfig, load

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operations" / "replacing-squid.md").read_text()
TABLES = {name: hint for name, hint in typing.get_type_hints(EdgeConfig).items() if not name.startswith("_")}


def settings_of(hint):
    """The dataclass behind a table, or behind each of an array of tables."""
    return next((kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind)), None)


def known_keys():
    for table, hint in TABLES.items():
        if (settings := settings_of(hint)) is None:
            yield table
        else:
            yield from (f"{table}.{field.name}" for field in dataclasses.fields(settings))


def named_keys():
    """What the tables of the page have in code marks and that looks like a key of ours."""
    rows = [line.split(" | ", 1)[1] for line in PAGE.splitlines() if line.startswith("| ") and " | " in line]
    return {name for row in rows for name in re.findall(r"`([a-z_]+\.[a-z_]+)`", row) if name.split(".")[0] in TABLES}


@pytest.mark.parametrize("key", sorted(named_keys()))
def test_every_key_that_a_directive_becomes_exists(key):
    assert key in set(known_keys())


def test_many_directives_become_a_key():
    assert len(named_keys()) > 25


def test_the_configuration_on_the_page_is_good(tmp_path):
    (text,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "edge.toml").write_text(text)
    config = load(tmp_path / "edge.toml")
    assert config.upstreams[0].holds("atlas.cern.ch")
    assert config.cache.memory_bytes == 4 << 30


def test_both_tables_of_a_row_are_filled():
    for row in (line for line in PAGE.splitlines() if line.startswith("| ")):
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 2, row
        assert all(cells), row
