"""Who may change what, and until when."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn.errors import LeaseHeldError
from stratum0.lease import Lease, StateLeases, obstacle
from stratum0.state import State

NOW = 1_000.0


def lease(subtree: str, expires: float = NOW + 10) -> Lease:
    return Lease("token", subtree, "somebody@here", NOW, expires)


@pytest.fixture
def leases(tmp_path):
    with State(tmp_path / "state.sqlite") as state:
        yield StateLeases(state)


@pytest.mark.parametrize(
    ("one", "other"), [("", ""), ("", "/a"), ("/a", "/a"), ("/a", "/a/b"), ("/a/b/c", "/a"), ("/\udcff", "/\udcff/x")]
)
def test_a_lease_excludes_one_on_the_same_subtree_on_what_is_above_and_on_what_is_below(one, other):
    assert lease(one).excludes(other)
    assert lease(other).excludes(one)


@pytest.mark.parametrize(("one", "other"), [("/a", "/b"), ("/a", "/ab"), ("/a/b", "/a/c"), ("/a.b", "/a")])
def test_leases_on_disjoint_subtrees_exist_side_by_side(one, other):
    assert not lease(one).excludes(other)
    assert not lease(other).excludes(one)


PATHS = st.lists(st.sampled_from(["a", "b", "ab"]), max_size=4).map(lambda names: "".join(f"/{name}" for name in names))


@given(PATHS, PATHS)
def test_two_leases_exclude_each_other_exactly_if_a_path_lies_in_both(one, other):
    deeper = max(one, other, key=len)
    in_both = all(f"{deeper}/".startswith(f"{subtree}/") for subtree in (one, other))
    assert lease(one).excludes(other) == in_both


def test_an_expired_lease_is_no_obstacle():
    assert obstacle([lease("/a", expires=NOW)], "/a", NOW) is None
    assert obstacle([lease("/a", expires=NOW + 0.1)], "/a", NOW) is not None


def test_the_refusal_names_subtree_holder_and_end(leases):
    leases.acquire("/software", "alice@build1 (process 7)", 60, 1_700_000_000)
    with pytest.raises(LeaseHeldError) as refused:
        leases.acquire("/software/gcc", "bob", 60, 1_700_000_000)
    assert str(refused.value) == (
        "/software/gcc cannot be changed now: alice@build1 (process 7) holds a lease on /software "
        "until 2023-11-14 22:14:20 UTC"
    )
    assert not refused.value.permanent


def test_a_released_lease_is_free_and_releasing_it_again_is_no_error(leases):
    held = leases.acquire("/a", "alice", 60, NOW)
    leases.release(held.token)
    leases.release(held.token)
    assert leases.acquire("", "bob", 60, NOW).holder == "bob"


def test_an_expired_lease_can_be_taken_over_and_is_then_gone_for_its_holder(leases):
    held = leases.acquire("/a", "alice", 60, NOW)
    leases.acquire("/a/b", "bob", 60, NOW + 60)
    assert leases.renew(held, 60, NOW + 61) is None
    assert leases.find(held.token) is None


def test_an_expired_lease_that_nobody_took_can_be_renewed(leases):
    held = leases.acquire("/a", "alice", 60, NOW)
    renewed = leases.renew(held, 60, NOW + 500)
    assert renewed.expires == NOW + 560
    with pytest.raises(LeaseHeldError):
        leases.acquire("/a", "bob", 60, NOW + 501)


def test_renewing_for_less_time_does_not_shorten_a_lease(leases):
    held = leases.acquire("/a", "alice", 600, NOW)
    assert leases.renew(held, 1, NOW).expires == NOW + 600


def test_tokens_are_long_and_never_the_same(leases):
    tokens = {leases.acquire(f"/{number}", "alice", 60, NOW).token for number in range(20)}
    assert len(tokens) == 20
    assert all(len(token) == 32 for token in tokens)


def test_only_what_is_not_expired_is_listed(leases):
    leases.acquire("/b", "alice", 60, NOW)
    leases.acquire("/a", "alice", 10, NOW)
    assert [each.subtree for each in leases.held(NOW)] == ["/a", "/b"]
    assert [each.subtree for each in leases.held(NOW + 30)] == ["/b"]


def _grab(path: str, number: int, barrier, won) -> None:
    with State(path) as state:
        barrier.wait()
        try:
            StateLeases(state).acquire("/a" if number % 2 else "/a/b", f"process {number}", 60, NOW)
        except LeaseHeldError:
            return
        won.put(number)


def test_of_many_processes_that_want_overlapping_subtrees_exactly_one_gets_its(tmp_path: Path):
    path = str(tmp_path / "state.sqlite")
    State(path).close()
    context = multiprocessing.get_context("spawn")
    barrier, won = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_grab, args=(path, number, barrier, won)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    winner = won.get(timeout=10)
    assert won.empty()
    with State(path) as state:
        assert [each.holder for each in StateLeases(state).held(NOW)] == [f"process {winner}"]
