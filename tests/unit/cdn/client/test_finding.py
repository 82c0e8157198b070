from __future__ import annotations

import stat

import pytest

from cdn.client.finding import Filter, SizeTest
from cdn.errors import UsageError
from tests.fakes.catalogs import TIME, directory_entry, file_entry, symlink_entry

FILE = file_entry(b"x" * 1000)


@pytest.mark.parametrize(
    ("text", "size", "holds"),
    [
        ("1000", 1000, True),
        ("+999", 1000, True),
        ("+1000", 1000, False),
        ("-1KiB", 1000, True),
        ("-1000", 1000, False),
        ("0", 0, True),
    ],
)
def test_sizes_compare(text, size, holds):
    assert SizeTest.parse(text).holds(size) is holds


@pytest.mark.parametrize("text", ["", "+", "big", "--1", "1 parsec"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError):
        SizeTest.parse(text)


@pytest.mark.parametrize(
    ("conditions", "matches"),
    [
        (Filter(), True),
        (Filter(name="*.so"), True),
        (Filter(name="*.SO"), False),
        (Filter(name="*.SO", ignores_case=True), True),
        (Filter(name="lib*"), True),
        (Filter(path="/usr/*.so"), True),
        (Filter(path="*.so.1"), False),
        (Filter(types=frozenset("f")), True),
        (Filter(types=frozenset("dl")), False),
        (Filter(sizes=(SizeTest("+", 10), SizeTest("-", 2000))), True),
        (Filter(sizes=(SizeTest("+", 10), SizeTest("-", 20))), False),
        (Filter(newer_than=TIME - 1), True),
        (Filter(newer_than=TIME), False),
        (Filter(older_than=TIME + 1, newer_than=TIME - 1), True),
        (Filter(depth_min=2), True),
        (Filter(depth_min=3), False),
    ],
)
def test_every_condition_must_hold(conditions, matches):
    assert conditions.matches("/usr/lib/libz.so", FILE, 2) is matches


def test_only_files_have_a_size():
    assert not Filter(sizes=(SizeTest("+", 0),)).matches("/d", directory_entry(), 1)


def test_types_are_told_by_the_mode():
    assert Filter(types=frozenset("l")).matches("/l", symlink_entry(), 1)
    assert Filter(types=frozenset("p")).matches("/p", file_entry(mode=stat.S_IFIFO | 0o644), 1)
