"""A session over a wire in memory: beats, silence, drain and the end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from parhelion.identity import NodeKey
from parhelion.link import (
    Bye,
    Carrier,
    Cut,
    Drain,
    Draining,
    EngineState,
    FromNode,
    Heartbeat,
    JobFailed,
    LinkBroken,
    Open,
    Register,
    Signed,
    Standing,
    Steps,
    Welcome,
    accept,
)
from parhelion.link.carrier import carry_from_coordinator
from parhelion.link.handshake import NodeHandshake
from parhelion.node import session as attending
from parhelion.node.session import Session, register
from parhelion.testing.sockets import socket_pair
from parhelion.words import Job, NodeCard, ProblemCode

COORDINATOR = NodeKey(b"c" * 32)
BEAT_S = 0.05


class Scene:
    """A session that runs, the coordinator's end of it, and what it was told."""

    def __init__(self, session: Session, far: Carrier[FromNode]) -> None:
        self.session = session
        self.far = far
        self.drained: list[Drain] = []
        self.standings: list[Standing] = []
        self.engine_faults: tuple[EngineState, ...] = ()
        self.run = asyncio.create_task(session.run())

    async def hear(self, kind: type[Any]) -> Any:
        """The next message of one kind, others left aside."""
        async with asyncio.timeout(5):
            while True:
                message = await self.far.receive()
                if isinstance(message, kind):
                    return message


@asynccontextmanager
async def wires(key: NodeKey) -> AsyncIterator[tuple[Any, Carrier[FromNode]]]:
    near, far = socket_pair()

    async def shake() -> Any:
        handshake = NodeHandshake(key)
        await near.send(handshake.opening())
        await near.send(handshake.feed(await near.receive()))
        assert handshake.seal is not None and handshake.peer is not None
        return carry_from_coordinator(near, handshake.seal, handshake.peer)

    node, coordinator = await asyncio.gather(shake(), accept(far, COORDINATOR))
    yield node, coordinator
    await node.abort()
    await coordinator.abort()


@pytest.fixture
def beat_s() -> float:
    return BEAT_S


@pytest.fixture
def silent_beats() -> int:
    """So many that no pause of this process is taken for a silence of the coordinator's."""
    return 100


@pytest.fixture
async def scene(
    engine: Any,
    key: NodeKey,
    clock: Any,
    beat_s: float,
    silent_beats: int,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Scene]:
    monkeypatch.setattr(attending, "SILENT_BEATS", silent_beats)
    async with wires(key) as (node, coordinator):
        made: list[Scene] = []
        session = Session(
            node,
            Welcome(coordinator="c", heartbeat_s=beat_s, accepted=(engine.card.digest,)),
            key=key,
            engines={engine.card.digest: engine},
            clock=clock,
            engine_faults=lambda: made[0].engine_faults if made else (),
            on_drain=lambda drain: made[0].drained.append(drain),
            on_standing=lambda standing: made[0].standings.append(standing),
        )
        made.append(Scene(session, coordinator))
        yield made[0]
        made[0].run.cancel()
        await asyncio.wait([made[0].run])


async def test_it_beats_at_the_pace_it_was_told(scene: Scene) -> None:
    loop = asyncio.get_running_loop()
    await scene.hear(Heartbeat)
    began_s = loop.time()
    for _ in range(4):
        await scene.hear(Heartbeat)
    assert 3 * BEAT_S < loop.time() - began_s < 5 * 4 * BEAT_S


@pytest.mark.parametrize("beat_s", [30.0])
async def test_it_beats_at_once_when_the_engine_changes(scene: Scene) -> None:
    await scene.hear(Heartbeat)
    scene.engine_faults = (EngineState(digest="d", state="crashed", reason="signal 9"),)
    scene.session.beat()
    beat = await scene.hear(Heartbeat)
    assert (beat.engine, beat.reason) == ("crashed", "signal 9")
    assert beat.engines == scene.engine_faults


@pytest.mark.parametrize(("beat_s", "silent_beats"), [(0.2, attending.SILENT_BEATS)])
async def test_an_answering_coordinator_is_never_silent(scene: Scene) -> None:
    for _ in range(5):  # The first at once, the others in four beats: three would be silence.
        await scene.hear(Heartbeat)
    assert not scene.run.done()


@pytest.mark.parametrize("silent_beats", [attending.SILENT_BEATS])
async def test_a_silent_coordinator_is_left_after_three_beats_with_the_cause(scene: Scene) -> None:
    # Nobody receives at the far end, so no beat is answered.
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(LinkBroken, match="silence"):
        await asyncio.wait_for(scene.run, 5)
    assert asyncio.get_running_loop().time() - began_s > 2.5 * BEAT_S
    assert "silence" in (await scene.hear(Bye)).message


@pytest.mark.parametrize("told_s", [0.0, -1.0, 1e9, math.inf, math.nan])
def test_whatever_pace_it_is_told_it_beats_and_finds_a_lost_link(told_s: float) -> None:
    assert attending.BEAT_SHORTEST_S <= attending.pace_s(told_s) <= attending.BEAT_LONGEST_S
    assert attending.pace_s(2.0) == 2.0


async def test_an_open_job_streams_and_a_cut_is_signed(
    scene: Scene, engine: Any, job: Callable[..., Job]
) -> None:
    await scene.far.send(Open(job=job()))
    engine.give(job(), 7, 8, 9)
    beat = await scene.hear(Heartbeat)
    while beat.slots_busy != 1:
        beat = await scene.hear(Heartbeat)
    await scene.far.send(Cut(job="job_a", attempt=1, n=1))
    assert (await scene.hear(Signed)).segment.to == 1


async def test_a_drained_node_finishes_its_job_then_says_goodbye(
    scene: Scene, engine: Any, job: Callable[..., Job]
) -> None:
    await scene.far.send(Open(job=job("a")))
    engine.give(job("a"), 7)
    await scene.hear(Steps)
    scene.session.leave("updating", 5)
    assert (await scene.hear(Draining)).reason == "updating"
    await scene.far.send(Open(job=job("b")))
    assert (await scene.hear(JobFailed)).code == "draining"
    engine.give(job("a"), 8, finish="eog")
    assert (await scene.hear(Signed)).segment.to == 2
    assert await scene.hear(Bye) == Bye(code=ProblemCode.DRAINING, message="updating")
    assert (await asyncio.wait_for(scene.run, 5)).message == "updating"


async def test_a_cut_that_crosses_the_last_id_of_a_draining_node_is_still_signed(
    scene: Scene, engine: Any, job: Callable[..., Job]
) -> None:
    await scene.far.send(Open(job=job()))
    engine.give(job(), 7, 8)
    await scene.hear(Steps)
    scene.session.leave("updating", 5)
    engine.give(job(), 9, finish="eog")
    assert (await scene.hear(Signed)).segment.to == 3
    await scene.far.send(Cut(job="job_a", attempt=1, n=2))
    assert (await scene.hear(Signed)).segment.to == 2
    await scene.hear(Bye)


async def test_a_node_that_has_done_nothing_lately_leaves_at_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As long as a Cut may need: no job has ended that one could be for.
    monkeypatch.setattr(attending, "LINGER_S", 60.0)
    scene.session.leave("updating", 5)
    await scene.hear(Bye)


async def test_a_drain_that_takes_too_long_hands_jobs_back(
    scene: Scene, engine: Any, job: Callable[..., Job]
) -> None:
    await scene.far.send(Open(job=job()))
    engine.give(job(), 7)
    await scene.hear(Steps)
    scene.session.leave("updating", 0.05)
    assert (await scene.hear(JobFailed)).code == "draining"
    assert (await scene.hear(Signed)).segment.to == 1
    await scene.hear(Bye)
    await asyncio.wait_for(scene.run, 5)


async def test_a_drain_from_the_coordinator_is_the_agents_to_obey(scene: Scene) -> None:
    await scene.far.send(Drain(reason="rest", deadline_s=3.0))
    await scene.hear(Heartbeat)
    await scene.hear(Heartbeat)
    assert scene.drained == [Drain(reason="rest", deadline_s=3.0)]


async def test_its_standing_is_told_to_the_agent(scene: Scene) -> None:
    told = [Standing(paid_work=False, reason="x", state="measuring"), Standing(paid_work=True)]
    for standing in told:
        await scene.far.send(standing)
    await scene.hear(Heartbeat)
    await scene.hear(Heartbeat)
    assert scene.standings == told


async def test_a_bye_ends_the_session_and_cancels_its_jobs(
    scene: Scene, engine: Any, job: Callable[..., Job]
) -> None:
    await scene.far.send(Open(job=job()))
    await scene.far.close(Bye(code="draining", message="restarting"))
    assert (await asyncio.wait_for(scene.run, 5)).message == "restarting"
    assert engine.running == set()


async def test_a_lost_link_cancels_the_jobs(
    scene: Scene, engine: Any, job: Callable[..., Job]
) -> None:
    await scene.far.send(Open(job=job()))
    await scene.hear(Heartbeat)
    await scene.hear(Heartbeat)
    await scene.far.abort()
    with pytest.raises(LinkBroken):
        await asyncio.wait_for(scene.run, 5)
    assert engine.cancelled == [("job_a", 1)] and engine.running == set()


async def test_a_second_welcome_breaks_the_rules(scene: Scene) -> None:
    await scene.far.send(Welcome(coordinator="c", heartbeat_s=1, accepted=()))
    with pytest.raises(LinkBroken, match="Welcome"):
        await asyncio.wait_for(scene.run, 5)
    assert "Welcome" in (await scene.hear(Bye)).message


CARD = NodeCard(
    peer="p", name="n", version="0", device="d", backend="b", slots=1, kv_tokens=1, models=()
)


async def test_registration_gives_the_welcome_or_the_bye(key: NodeKey) -> None:
    for answer in (
        Welcome(coordinator="c", heartbeat_s=2, accepted=()),
        Bye(code="link_refused", message="no invite", hint="ask for one"),
    ):
        async with wires(key) as (node, far):
            asked = asyncio.create_task(register(node, CARD, "inv"))
            heard = await far.receive()
            assert heard == Register(card=CARD, invite="inv")
            await (far.close(answer) if isinstance(answer, Bye) else far.send(answer))
            assert await asyncio.wait_for(asked, 5) == answer


async def test_registration_ends_at_silence_and_at_the_wrong_word(
    key: NodeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with wires(key) as (node, _):
        with monkeypatch.context() as short, pytest.raises(LinkBroken, match="silence"):
            short.setattr(attending, "REGISTER_DEADLINE_S", 0.05)
            await register(node, CARD, None)
    async with wires(key) as (node, far):
        await far.send(Drain(reason="r"))
        with pytest.raises(LinkBroken, match="before Welcome"):
            await register(node, CARD, None)
