from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn.client.variables import expand

SET = {"ARCH": "x86_64", "EMPTY": ""}


@pytest.mark.parametrize(
    ("target", "expanded"),
    [
        ("plain/target", "plain/target"),
        ("$(ARCH)", "x86_64"),
        ("pre-$(ARCH)-post/$(UNSET:-d)", "pre-x86_64-post/d"),
        ("$(UNSET)", ""),
        ("$(UNSET:-)", ""),
        ("$(EMPTY:-default)", ""),
        ("$(ARCH:-other)", "x86_64"),
        ("$(A:-b:-c)", "b:-c"),
        ("$(NOT_CLOSED", "$(NOT_CLOSED"),
        ("$(ARCH)/$(NOT_CLOSED", "x86_64/$(NOT_CLOSED"),
        ("$()", ""),
        ("$", "$"),
        ("$(", "$("),
        ("$ARCH", "$ARCH"),
        ("$((ARCH))", ")"),
    ],
)
def test_variables_are_replaced_as_real_clients_replace_them(target, expanded):
    assert expand(target, SET) == expanded


@given(
    st.text(alphabet="$():-aA/", max_size=40),
    st.dictionaries(st.text("aA", min_size=1, max_size=2), st.text(max_size=5)),
)
def test_any_target_can_be_expanded_and_one_without_variables_stays_itself(target, variables):
    expanded = expand(target, variables)
    if "$(" not in target:
        assert expanded == target


def test_what_a_variable_holds_is_not_expanded_again():
    assert expand("$(A)", {"A": "$(B)", "B": "no"}) == "$(B)"
