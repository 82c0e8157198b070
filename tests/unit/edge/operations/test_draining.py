"""How far an edge is on its way out, and which way leads back."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn.errors import UsageError
from edge.operations.draining import Drain, DrainOrder, Phase, Step, next_phase, parse_drain_order
from tests.fakes.edge import until


class Visitor:
    """A connection that is busy until told otherwise."""

    def __init__(self, connections: set, *, is_idle: bool = False) -> None:
        self._connections = connections
        self.is_idle = is_idle
        self.ended = ""
        connections.add(self)

    def close(self) -> None:
        self._end("closed")

    def abort(self) -> None:
        self._end("aborted")

    def _end(self, how: str) -> None:
        self.ended = self.ended or how
        self._connections.discard(self)


class House:
    """What a drain acts on."""

    def __init__(self) -> None:
        self.visitors: set = set()
        self.told: list[Phase] = []
        self.closed = 0
        self.greeting = 0
        self.drain = Drain(self.visitors, lambda: self.greeting, self.close, self.told.append)

    async def close(self) -> None:
        self.closed += 1

    def begin(self, **changes):
        return self.drain.begin(**{"delay_seconds": 0.0, "timeout_seconds": 60.0, **changes})


@given(st.lists(st.sampled_from(Step)))
def test_from_closed_doors_no_step_leads_back(steps):
    phase = Phase.SERVING
    for step in steps:
        before = phase
        try:
            phase = next_phase(phase, step)
        except UsageError:
            assert phase is before
        if before in {Phase.CLOSED, Phase.DRAINED}:
            assert phase in {Phase.CLOSED, Phase.DRAINED}


async def test_the_doors_stay_open_for_the_delay_and_close_before_answers_are_waited_for():
    house = House()
    busy = Visitor(house.visitors)
    task = house.begin(delay_seconds=60.0)
    await asyncio.sleep(0)  # it waits for the delay now
    assert (house.drain.phase, house.closed, busy.ended) == (Phase.LEAVING, 0, "")
    house.drain.undo()
    task = house.begin()
    await until(lambda: house.drain.phase is Phase.CLOSED)
    assert house.closed
    assert not task.done()
    busy.close()
    await task
    assert house.told == [Phase.LEAVING, Phase.SERVING, Phase.LEAVING, Phase.CLOSED, Phase.DRAINED]


async def test_draining_twice_is_draining_once():
    house = House()
    assert house.begin() is house.begin()
    await house.begin()
    assert house.told.count(Phase.DRAINED) == 1


async def test_an_unused_connection_is_closed_and_a_busy_one_finishes():
    house = House()
    idle, busy = Visitor(house.visitors, is_idle=True), Visitor(house.visitors)
    task = house.begin()
    await until(lambda: idle.ended)
    assert (idle.ended, busy.ended) == ("closed", "")
    busy.is_idle = True
    await task
    assert busy.ended == "closed"


async def test_with_a_successor_unused_connections_get_one_more_answer():
    house = House()
    idle = Visitor(house.visitors, is_idle=True)
    task = house.begin(waits_for_idle=True, timeout_seconds=0.2)
    await until(lambda: house.drain.phase is Phase.CLOSED)
    assert idle.ended == ""
    await task
    assert idle.ended == "closed"


async def test_what_takes_too_long_is_broken_off():
    house = House()
    busy = Visitor(house.visitors)
    await house.begin(timeout_seconds=0.0)
    assert busy.ended == "aborted"


async def test_handshakes_under_way_are_waited_for():
    house = House()
    house.greeting = 1
    task = house.begin()
    await until(lambda: house.drain.phase is Phase.CLOSED)
    await asyncio.sleep(0)  # a turn in which it would end if it did not wait
    assert not task.done()
    house.greeting = 0
    await task


async def test_after_the_doors_closed_nothing_is_undone():
    house = House()
    await house.begin()
    with pytest.raises(UsageError, match="drained cannot undo"):
        house.drain.undo()
    assert house.drain.phase is Phase.DRAINED


async def test_undoing_what_did_not_begin_is_no_mistake():
    house = House()
    house.drain.undo()
    assert house.told == []


@pytest.mark.parametrize("begins", [False, True])
async def test_breaking_off_waits_for_nobody(begins):
    house = House()
    busy = Visitor(house.visitors)
    if begins:
        house.begin(delay_seconds=60.0)
    await house.drain.break_off()
    assert (busy.ended, house.drain.phase) == ("aborted", Phase.DRAINED)
    assert house.closed


def test_orders_are_read():
    assert parse_drain_order({}) == DrainOrder()
    assert parse_drain_order({"stop": True, "undo": False}) == DrainOrder(stop=True)


@pytest.mark.parametrize("document", [{"undo": 1}, {"stop": "yes"}, {"undo": True, "stop": True}, {"now": True}])
def test_an_order_that_is_not_sound_is_refused(document):
    with pytest.raises(UsageError, match="a drain is"):
        parse_drain_order(document)
