import pytest

from cdn.catalog.nesting import RULES_MAX, Dirtab, choose_splits, should_merge
from cdn.errors import DocumentError


@pytest.mark.parametrize(
    ("rules", "path", "expected"),
    [
        ("/software", "/software", True),
        ("/software", "/software/", True),
        ("/software/", "/software", True),
        ("//software//x/", "/software/x", True),
        ("/software", "/software/x", False),
        ("/software/*", "/software", False),
        ("/software/*", "/software/x", True),
        ("/software/*", "/software/.hidden", True),
        ("/software/*", "/software/x/y", False),
        ("/software/*/*", "/software/x/y", True),
        ("/*/lib", "/any/lib", True),
        ("/v?", "/v1", True),
        ("/v?", "/v10", False),
        ("/v?", "/v", False),
        ("/v*2", "/v1.2", True),
        ("/v*2", "/v2", True),
        ("/v*2*", "/v1.2.3", True),
        ("/[ab]x", "/ax", True),
        ("/[ab]x", "/cx", False),
        ("/[!ab]x", "/cx", True),
        ("/[0-9]x", "/7x", True),
        ("/[]]x", "/]x", True),
        ("/[x", "/[x", True),
        (r"/\*", "/*", True),
        (r"/\*", "/x", False),
        ("/a.b", "/axb", False),
        ("  /padded \t", "/padded", True),
        ("/a b", "/a b", True),
        ("/ü*", "/ünï", True),
        ("", "/x", False),
        ("/x", "", False),
        ("/x", "x", False),
        ("# /x", "/x", False),
        ("/a\n/b\r\n", "/b", True),
        ("/*\n!/x", "/x", False),
        ("/*\n!/x", "/y", True),
        ("/*\n! /x ", "/x", False),
        ("/*/*\n!*.svn", "/a/.svn", False),
        ("/*/*\n!/a*", "/a/b", False),
        ("/*/*\n!/a?b", "/a/b", True),
        ("/*/*\n!b", "/a/b", True),
        ("!/x", "/x", False),
        ("/x\n!", "/x", True),
    ],
)
def test_dirtab_rules_match_as_those_of_the_reference_do(rules, path, expected):
    assert Dirtab.parse(rules).matches(path) is expected


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ("relative/path", "line 1"),
        ("/ok\n\nrelative", "line 3"),
        ("/", "root"),
        (r"/\a", "backslash"),
        ("/trailing\\", "backslash"),
        ("/x\n!/x", "contradict"),
        ("/" + "x" * (1 << 20), "longer"),
        ("\n".join(f"/{number}" for number in range(RULES_MAX + 1)), "more than"),
    ],
)
def test_a_dirtab_with_a_mistake_is_refused_with_its_place(rules, reason):
    with pytest.raises(DocumentError, match=reason):
        Dirtab.parse(rules)


def test_a_pattern_of_many_wildcards_takes_no_longer_than_its_length_explains():
    rules = Dirtab.parse("/" + "*a" * 100 + "*b\n!" + "*a" * 100 + "*c")
    assert not rules.matches("/" + "a" * 3000)


def test_only_a_dirtab_with_rules_is_true():
    assert not Dirtab.parse("# nothing\n!/x")
    assert Dirtab.parse("/x")


def tree_weights(tree):
    """Weights of a tree given as nested dictionaries of directories; numbers are files in a directory."""

    def visit(path, node):
        entries, children = 1, 0
        for name, below in node.items():
            if isinstance(below, int):
                entries, children = entries + below, children + below
            else:
                entries, children = entries + (yield from visit(f"{path}/{name}", below)), children + 1
        yield path, entries, children
        return entries

    return visit("", tree)


def test_a_catalog_that_is_not_too_large_is_not_split():
    assert choose_splits(tree_weights({"a": {"files": 50}}), entries_min=1, entries_max=100) == []


def test_the_heaviest_directory_is_split_off_first():
    tree = {"a": {"files": 30}, "b": {"files": 60}, "c": {"files": 40}}
    assert choose_splits(tree_weights(tree), entries_min=10, entries_max=100) == ["/b"]


def test_deeper_directories_are_split_off_before_shallower_ones():
    tree = {"a": {"x": {"files": 80}, "y": {"files": 80}}, "b": {"files": 80}}
    assert choose_splits(tree_weights(tree), entries_min=10, entries_max=100) == ["/a/y", "/a"]


def test_no_catalog_smaller_than_the_least_is_made():
    tree = {name: {"files": 20} for name in "abcdefgh"}
    assert choose_splits(tree_weights(tree), entries_min=30, entries_max=100) == []


def test_a_directory_of_too_many_files_stays_whole():
    assert choose_splits(tree_weights({"files": 500}), entries_min=1, entries_max=100) == []
    tree = {"a": {"files": 500}, "b": {"files": 10}}
    assert choose_splits(tree_weights(tree), entries_min=1, entries_max=100) == ["/a"]


def test_after_the_splits_no_catalog_is_too_large():
    tree = {f"d{n}": {f"e{m}": {"files": 7 * n + m} for m in range(6)} for n in range(10)}
    chosen = set(choose_splits(tree_weights(tree), entries_min=5, entries_max=80))
    weights = dict.fromkeys(chosen, 0) | {"": 0}
    for path, entries, children in tree_weights(tree):
        top = path
        while top not in weights:
            top = top.rpartition("/")[0]
        weights[top] += children + (path == top)
        assert entries > 0
    assert max(weights.values()) <= 80


@pytest.mark.parametrize(
    ("entries", "parent", "expected"), [(99, 500, True), (100, 500, False), (99, 902, True), (99, 903, False)]
)
def test_a_small_catalog_is_merged_where_there_is_room(entries, parent, expected):
    assert should_merge(entries, parent, entries_min=100, entries_max=1000) is expected
