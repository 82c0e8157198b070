"""Which site and which of its edges."""

from geodns.geo import Position
from geodns.routing import ALL_WELL, Choice, Edge, HealthView, Site, SiteRouter, rotated, usable_edges


def edge(name: str, *, ipv6: bool = True) -> Edge:
    return Edge(name, (name.encode().ljust(4),), (name.encode().ljust(16),) if ipv6 else ())


WEST = Site("west", Position(0, -10), (edge("w1"), edge("w2")))
EAST = Site("east", Position(0, 10), (edge("e1", ipv6=False),))
ROUTER = SiteRouter((WEST, EAST))


def names(edges) -> list[str]:
    return [edge.name for edge in edges]


def test_sites_are_ranked_by_distance_with_kilometres():
    ranking = ROUTER.rank(Position(0, 5))
    assert [ranked.site.name for ranked in ranking] == ["east", "west"]
    assert [round(ranked.distance_km or 0) for ranked in ranking] == [556, 1668]


def test_a_tie_keeps_the_configured_order():
    assert ROUTER.route(Position(0, 0), 4, ALL_WELL).site is WEST
    assert SiteRouter((EAST, WEST)).route(Position(0, 0), 4, ALL_WELL).site is EAST


def test_the_date_line_is_no_border():
    pacific = SiteRouter((Site("here", Position(0, 170), (edge("a"),)), Site("there", Position(0, -170), (edge("b"),))))
    route = pacific.route(Position(0, -179), 4, ALL_WELL)
    assert route.site is not None
    assert route.site.name == "there"


def test_each_choice_says_why():
    well, dead = ALL_WELL, HealthView(down=frozenset({"w1", "w2", "e1"}))
    assert ROUTER.route(Position(0, 9), 4, well).choice is Choice.NEAREST
    assert ROUTER.route(None, 4, well).choice is Choice.DEFAULT
    assert ROUTER.route(Position(0, 9), 4, dead).choice is Choice.FAIL_OPEN
    assert SiteRouter((EAST,)).route(None, 6, well).choice is Choice.NONE


def test_failing_open_names_the_nearest_site_with_the_family():
    dead = HealthView(down=frozenset({"w1", "w2", "e1"}))
    assert ROUTER.route(Position(0, 9), 4, dead).site is EAST
    assert ROUTER.route(Position(0, 9), 6, dead).site is WEST


def test_a_site_whose_only_ipv6_edge_is_down_is_passed_over_for_ipv6_alone():
    site = Site("mixed", Position(0, 20), (edge("m4", ipv6=False), edge("m6")))
    router = SiteRouter((site, WEST))
    sick = HealthView(down=frozenset({"m6"}))
    assert router.route(Position(0, 20), 4, sick).site is site
    assert router.route(Position(0, 20), 6, sick).site is WEST


def test_slow_edges_are_used_only_where_no_fast_one_is_left():
    assert names(usable_edges(WEST.edges, HealthView(slow=frozenset({"w1"})))) == ["w2"]
    assert names(usable_edges(WEST.edges, HealthView(slow=frozenset({"w1", "w2"})))) == ["w1", "w2"]
    assert names(usable_edges(WEST.edges, HealthView(frozenset({"w2"}), frozenset({"w1"})))) == ["w1"]
    assert usable_edges(WEST.edges, HealthView(down=frozenset({"w1", "w2"}))) == ()


def test_rotation_goes_round_and_keeps_to_the_limit():
    assert rotated([b"a", b"b", b"c"], 1, 8) == (b"b", b"c", b"a")
    assert rotated([b"a", b"b", b"c"], 5, 2) == (b"c", b"a")
    assert rotated([], 5, 2) == ()
