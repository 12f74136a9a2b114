"""A node that the pool keeps out says so, and why, for as long as it asks."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from parhelion.identity import NodeKey
from parhelion.link import Address, Bye, Carrier, Drain, FromCoordinator, Welcome, accept
from parhelion.link import parse_address as parsed
from parhelion.link.carrier import carry_from_coordinator
from parhelion.link.handshake import NodeHandshake
from parhelion.node import Agent
from parhelion.node.agent import AgentState
from parhelion.testing.sockets import socket_pair
from parhelion.words import ProblemCode

WHY = "drained by the pool's owner: new fan"


class Pool:
    """A coordinator that drains the node of its first visit, and refuses the later ones."""

    def __init__(self, digest: str, drains: bool) -> None:
        self.digest = digest
        self.drains = drains
        self.visits = 0
        self.tasks: list[asyncio.Task[None]] = []

    async def dial(self, address: Address, key: NodeKey) -> Carrier[FromCoordinator]:
        near, far = socket_pair()
        self.tasks.append(asyncio.create_task(self.meet(far)))
        handshake = NodeHandshake(key)
        await near.send(handshake.opening())
        await near.send(handshake.feed(await near.receive()))
        assert handshake.seal is not None and handshake.peer is not None
        return carry_from_coordinator(near, handshake.seal, handshake.peer)

    async def meet(self, far: Any) -> None:
        carrier = await accept(far, NodeKey(b"c" * 32))
        await carrier.receive()
        self.visits += 1
        if self.visits > 1:
            await carrier.close(Bye(code=ProblemCode.DRAINING, message=WHY, hint="wait"))
            return
        await carrier.send(Welcome(coordinator="c", heartbeat_s=1.0, accepted=(self.digest,)))
        if not self.drains:
            await carrier.close(Bye(code=ProblemCode.DRAINING, message="the coordinator stops"))
            return
        await carrier.send(Drain(reason=WHY, deadline_s=0.0))
        while not isinstance(await carrier.receive(), Bye):
            pass


async def shown(pool: Pool, engine: Any, key: NodeKey, clock: Any, visits: int) -> list[AgentState]:
    """What the node says of itself until the pool has seen it so often."""
    said: list[AgentState] = []
    agent = Agent(
        key, parsed("127.0.0.1:1"), {engine.card.digest: engine}, name="n", clock=clock,
        on_state=said.append, jitter=lambda: 0.0, dial=pool.dial,
    )  # fmt: skip
    running = asyncio.create_task(agent.run())
    async with asyncio.timeout(5):
        while pool.visits < visits or not said or agent.state.state != "joining":  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    running.cancel()
    await asyncio.wait([running, *pool.tasks])
    return said


@pytest.mark.parametrize("drains", [True, False])
async def test_a_drained_node_says_that_it_is_kept_out_and_why(
    engine: Any, key: NodeKey, clock: Any, drains: bool
) -> None:
    said = await shown(Pool(engine.card.digest, drains), engine, key, clock, visits=1)
    after = [(one.shown, one.reason) for one in said if one.state == "joining"]
    assert after == [("kept out", WHY) if drains else ("joining", "the coordinator stops")]


async def test_a_node_that_is_kept_out_for_long_repeats_nothing_in_its_log(
    engine: Any, key: NodeKey, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pool = Pool(engine.card.digest, drains=True)
    said = await shown(pool, engine, key, clock, visits=4)
    assert [one.shown for one in said if one.state == "joining"] == ["kept out"]
    told = [
        (record.__dict__["cause"], record.__dict__["hint"])
        for record in caplog.records
        if record.getMessage() == "no link to the coordinator"
    ]
    assert told and len(set(told)) == len(told)
    assert "link ended" not in {record.getMessage() for record in caplog.records}, "nothing failed"
