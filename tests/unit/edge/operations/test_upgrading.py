"""Whether an edge can be replaced at all."""

import pytest

from cdn.errors import UsageError
from edge.operations.upgrading import Upgrade


class Edge:
    admin_socket = None
    has_successor = False
    sockets = ()
    is_draining = True

    async def retire_cache(self) -> None:
        raise AssertionError

    async def resume_cache(self) -> None:
        raise AssertionError


async def test_the_first_process_of_a_container_is_not_replaced():
    with pytest.raises(UsageError, match="the first process of a container cannot be replaced") as refused:
        await Upgrade(Edge(), "", pid=1).run()
    assert "--init" in str(refused.value)


async def test_an_edge_that_leaves_is_not_replaced():
    with pytest.raises(UsageError, match="upgraded or drained already"):
        await Upgrade(Edge(), "", pid=2).run()
