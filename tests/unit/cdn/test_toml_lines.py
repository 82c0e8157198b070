"""The line of every key, whatever stands around it."""

from __future__ import annotations

from cdn.toml_lines import key_lines


def test_tables_keys_and_items_are_found_at_their_lines():
    text = '''\
# a comment = 1
title = "a [b] = # not a comment"  # real = comment

[cache]           # [not.a.table]
"ram bytes" = """
[nor] = this
"""
folder.'on disk' = '/srv'
sizes = [
  1, # one ]
  2,
  ["a", 'b]'],
]
point = { x = 1, y = { z = "}" } }

[[sites]]
name = "berlin"
[[sites.edges]]
address = 1979-05-27 07:32:00Z
[[sites]]
[sites.limits]
rate = +1_000.5e-3
[[sites.edges]]
[[sites.edges]]
text = \'\'\'it\'\'s'\'\'\'\'
after = ""
'''
    assert key_lines(text) == {
        ("title",): 2,
        ("cache",): 4,
        ("cache", "ram bytes"): 5,
        ("cache", "folder"): 8,
        ("cache", "folder", "on disk"): 8,
        ("cache", "sizes"): 9,
        ("cache", "sizes", 0): 10,
        ("cache", "sizes", 1): 11,
        ("cache", "sizes", 2): 12,
        ("cache", "sizes", 2, 0): 12,
        ("cache", "sizes", 2, 1): 12,
        ("cache", "point"): 14,
        ("cache", "point", "x"): 14,
        ("cache", "point", "y"): 14,
        ("cache", "point", "y", "z"): 14,
        ("sites", 0): 16,
        ("sites", 0, "name"): 17,
        ("sites", 0, "edges", 0): 18,
        ("sites", 0, "edges", 0, "address"): 19,
        ("sites", 1): 20,
        ("sites", 1, "limits"): 21,
        ("sites", 1, "limits", "rate"): 22,
        ("sites", 1, "edges", 0): 23,
        ("sites", 1, "edges", 1): 24,
        ("sites", 1, "edges", 1, "text"): 25,
        ("sites", 1, "edges", 1, "after"): 26,
    }


def test_windows_line_ends_count_once():
    assert key_lines('a = 1\r\nb = """\r\n"""\r\nc = 3\r\n') == {("a",): 1, ("b",): 2, ("c",): 4}


def test_an_escaped_key_is_found_by_its_value():
    assert key_lines('"\\u0061\\"" = 1\n[\'b.c\'."d.e"]') == {('a"',): 1, ("b.c", "d.e"): 2}


def test_quotes_at_the_end_of_long_strings_belong_to_them():
    assert key_lines('a = """x"""""\nb = """"x"""\nc = """\\""""\nd = 1') == {
        ("a",): 1,
        ("b",): 2,
        ("c",): 3,
        ("d",): 4,
    }
