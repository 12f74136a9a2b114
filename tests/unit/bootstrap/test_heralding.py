"""A node's herald is begun when it can be, hears whom to tell, and never outlives its node."""

from __future__ import annotations

import asyncio
from typing import Any

from parhelion.bootstrap.node_herald import Heralding
from parhelion.bootstrap.ready import Ready
from parhelion.identity import NodeKey
from parhelion.link import Address, parse_address
from parhelion.words import Problem, ProblemCode

READY = Ready(node="n", coordinator="c")


class Dialled:
    """A dial that is never answered, and the addresses that it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Address] = []
        self.was_asked = asyncio.Event()

    async def __call__(self, address: Address, key: NodeKey) -> Any:
        self.asked.append(address)
        self.was_asked.set()
        await asyncio.Event().wait()


def heralding(address: Any, dial: Any) -> Heralding:
    return Heralding(NodeKey(b"k" * 32), "n", address, dial)


async def test_it_waits_for_an_address_that_is_the_nodes_own_to_wait_for() -> None:
    address: asyncio.Future[Address] = asyncio.get_running_loop().create_future()
    dial = Dialled()
    mine = heralding(address, dial)
    mine.begin()
    await asyncio.sleep(0)
    assert not dial.asked
    other = heralding(address, dial)
    other.begin()
    await asyncio.sleep(0)
    await other.end()
    assert not address.cancelled(), "the node waits for it still"
    address.set_result(parse_address("127.0.0.1:9"))
    async with asyncio.timeout(5):
        await dial.was_asked.wait()
        await mine.end()


async def test_the_first_registration_ends_it_and_is_told_on() -> None:
    dial, told = Dialled(), list[Ready]()
    mine = heralding(parse_address("127.0.0.1:9"), dial)
    mine.begin()
    async with asyncio.timeout(5):
        await dial.was_asked.wait()
        mine.until(told.append)(READY)
        assert mine._task is not None
        await asyncio.wait([mine._task])
        await mine.end()
    assert told == [READY] and mine._task.cancelled()


async def test_one_whose_node_has_failed_already_never_begins() -> None:
    dial = Dialled()
    mine = heralding(parse_address("127.0.0.1:9"), dial)
    mine.fail(ProblemCode.ENGINE_FAILED)
    await mine.end()
    mine.begin()
    assert mine._task is None


async def test_a_fault_of_the_herald_is_no_fault_of_the_node() -> None:
    async def broken(address: Address, key: NodeKey) -> Any:
        raise RuntimeError("a bug of ours")

    async def refused(address: Address, key: NodeKey) -> Any:
        raise Problem(ProblemCode.LINK_REFUSED, "another program")

    for dial in (broken, refused):
        mine = heralding(parse_address("127.0.0.1:9"), dial)
        mine.begin()
        mine.tell("loading", 1)
        assert mine._task is not None
        async with asyncio.timeout(5):
            await asyncio.wait([mine._task])
            await mine.end()
        assert not mine._task.cancelled() and mine._task.exception() is None
