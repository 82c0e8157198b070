"""Flights by themselves: how they end when the edge stops."""

import asyncio

import pytest

from edge.fetch.collapsing import Flights, FlightStopped


async def test_stopping_lets_what_has_come_be_stored_and_ends_what_has_not():
    flights, going_on, stored = Flights(), asyncio.Event(), []

    async def store(flight):
        flight.is_storing = True
        await going_on.wait()
        stored.append(flight.key)

    async def fetch(flight):
        await asyncio.Event().wait()

    flights.start("has come", store)
    coming = flights.start("is coming", fetch)
    await asyncio.sleep(0)  # both are under way now
    stopping = asyncio.create_task(flights.stop())
    with pytest.raises(FlightStopped):
        await asyncio.shield(coming.outcome)
    assert not stopping.done()
    going_on.set()
    await stopping
    assert stored == ["has come"]
    assert len(flights) == 0


async def test_a_client_that_leaves_takes_nothing_from_the_flight():
    flights, going_on = Flights(), asyncio.Event()

    async def fetch(flight):
        await going_on.wait()

    flight = flights.start("k", fetch)
    told = []
    with flights.joined(flight, lambda status, fields: told.append(status)):
        assert flight.clients == 1
        flight.tell_interim(103, ())
    flight.tell_interim(103, ())
    assert (flight.clients, told) == (0, [103])
    assert flights.find("k") is flight
    going_on.set()
    await flights.stop()
