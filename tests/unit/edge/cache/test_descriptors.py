"""Descriptors are shared out so that clients never take the last one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.cache.descriptors import RESERVED, DescriptorShares


@pytest.mark.parametrize(
    ("count", "wanted", "connections", "second_sockets"),
    [(65536, 16384, 16384, 48640), (20000, 10000, 10000, 9488), (20000, 16384, 14616, 4872), (1024, 16384, 384, 128)],
)
def test_files_get_what_connections_leave_and_never_nothing(count, wanted, connections, second_sockets):
    assert DescriptorShares.of(count, wanted) == DescriptorShares(connections, second_sockets)


@given(st.integers(2 * RESERVED, 1 << 24), st.integers(1, 1 << 24))
def test_the_reserve_stays_whatever_is_wanted(count, wanted):
    shares = DescriptorShares.of(count, wanted)
    assert shares.connections + shares.second_sockets == count - RESERVED
    assert 0 < shares.connections <= wanted
    assert shares.second_sockets > 0
