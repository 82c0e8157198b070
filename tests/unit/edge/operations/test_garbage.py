"""The search for garbage: what survived it once is not looked at again, and is freed all the same."""

import gc
import weakref

import pytest

from edge.operations.garbage import settle


@pytest.fixture
def settled():
    settle()


class Kept:
    """Something that is looked at."""


def test_what_survived_is_not_looked_at_again_and_is_freed_with_its_last_reference(settled):
    kept = [Kept() for _ in range(1000)]
    gone = weakref.ref(kept[0])
    gc.collect()
    assert not any(isinstance(each, Kept) for each in gc.get_objects())
    del kept
    assert gone() is None


def test_cycles_that_did_not_survive_are_still_found(settled):
    first, second = Kept(), Kept()
    first.other, second.other = second, first
    gone = weakref.ref(first)
    del first, second
    gc.collect()
    assert gone() is None
