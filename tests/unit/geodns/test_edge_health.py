"""The states of an edge."""

import pytest

from geodns.edge_health import (
    TRANSITIONS,
    CheckResult,
    EdgeHealth,
    EdgeState,
    Outcome,
    Thresholds,
    health_view,
)

WORDS = {"g": Outcome.GOOD, "l": Outcome.LATE, "f": Outcome.FAILED}


def after(outcomes: str, start: EdgeHealth | None = None) -> EdgeHealth:
    mark = start or EdgeHealth()
    for letter in outcomes:
        mark = mark.after(CheckResult(WORDS[letter]), Thresholds(fall=3, rise=2))
    return mark


def test_every_state_knows_what_every_outcome_means():
    assert set(TRANSITIONS) == {(state, outcome) for state in EdgeState for outcome in Outcome}


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ("", EdgeState.UNKNOWN),
        ("g", EdgeState.UP),
        ("f", EdgeState.DOWN),
        ("l", EdgeState.SLOW),
        ("gf", EdgeState.FAILING),
        ("gff", EdgeState.FAILING),
        ("gfff", EdgeState.DOWN),
        ("gffg", EdgeState.UP),
        ("gffgff", EdgeState.FAILING),
        ("gfffg", EdgeState.RECOVERING),
        ("gfffgg", EdgeState.UP),
        ("gfffgf", EdgeState.DOWN),
        ("gfffgfg", EdgeState.RECOVERING),
        ("gll", EdgeState.UP),
        ("glll", EdgeState.SLOW),
        ("glllg", EdgeState.SLOW),
        ("glllgg", EdgeState.UP),
        ("glllfff", EdgeState.DOWN),
        ("flg", EdgeState.UP),
        ("fgl", EdgeState.SLOW),
        ("fll", EdgeState.SLOW),
        ("glglglgl", EdgeState.UP),
        ("gfgfgfgf", EdgeState.FAILING),
    ],
)
def test_outcomes_lead_to_states(outcomes, state):
    assert after(outcomes).state is state


def test_late_answers_alone_never_take_an_edge_out():
    mark = EdgeHealth()
    for _ in range(100):
        mark = after("l", mark)
        assert not health_view({"edge": mark}).down


def test_only_down_and_recovering_edges_are_out_of_use():
    marks = {state.value: EdgeHealth(state) for state in EdgeState}
    view = health_view(marks)
    assert view.down == {"down", "recovering"}
    assert view.slow == {"slow"}
