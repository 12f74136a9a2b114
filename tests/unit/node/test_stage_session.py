"""A session of a member of pipelines: its orders, its heartbeats, its end and its drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from parhelion.identity import NodeKey
from parhelion.link import (
    Bye,
    Carrier,
    Cut,
    Draining,
    FromNode,
    Heartbeat,
    JobFailed,
    LinkBroken,
    Signed,
    StageLoaded,
    StageOpened,
    StageSigned,
    Steps,
    Welcome,
)
from parhelion.node import Stages
from parhelion.node import session as attending
from parhelion.node.session import Session
from parhelion.words import Step
from tests.unit.node.staging import LAST, MIDDLE, Scene, close_at, ids, load, open_at, settle
from tests.unit.node.test_session import wires

BEAT_S = 0.05


class Member:
    """A session that runs, its stages, and the coordinator's end of it."""

    def __init__(self, session: Session, far: Carrier[FromNode]) -> None:
        self.session = session
        self.far = far
        self.run = asyncio.create_task(session.run())

    async def hear(self, kind: type[Any]) -> Any:
        async with asyncio.timeout(5):
            while not isinstance(message := await self.far.receive(), kind):
                pass
            return message

    async def has_a_job(self) -> None:
        """Load a stage in the middle, and open a job there."""
        await self.far.send(load(**MIDDLE))
        await self.hear(StageLoaded)
        await self.far.send(open_at("one", ids(), told=False))
        await self.hear(StageOpened)


@pytest.fixture
async def scene(clock: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(attending, "SILENT_BEATS", 100)  # No pause of this process is a silence.
    scene = Scene(clock)
    await scene.stages.end()
    yield scene
    await scene.stages.stop()


@asynccontextmanager
async def joined(scene: Scene, key: NodeKey, stages: Stages | None) -> AsyncIterator[Member]:
    async with wires(key) as (node, coordinator):
        session = Session(
            node,
            Welcome(coordinator="c", heartbeat_s=BEAT_S, accepted=()),
            key=key,
            engines={},
            clock=scene.clock,
            engine_faults=lambda: (),
            on_drain=lambda _drain: None,
            on_standing=lambda _standing: None,
            stages=stages,
            open_pipe=None if stages is None else scene._open_pipe,
        )
        member = Member(session, coordinator)
        yield member
        member.run.cancel()
        await asyncio.wait([member.run])


async def test_its_orders_are_obeyed_and_its_heartbeats_have_its_stages(
    scene: Scene, key: NodeKey
) -> None:
    async with joined(scene, key, scene.stages) as member:
        await member.far.send(load(**LAST))
        await member.hear(StageLoaded)
        beat = await member.hear(Heartbeat)
        assert [state.stage for state in beat.stages] == ["one"]
        await member.far.send(open_at("one", ids()))
        await member.hear(StageOpened)
        scene.host.makes(Step("job_a", 1, 0, (7,)))
        assert (await member.hear(Steps)).steps[0].ids == (7,)
        await member.far.send(Cut(job="job_a", attempt=1, n=1))
        assert (await member.hear(Signed)).segment.to == 1
        await member.far.send(close_at("one", to=1))
        assert (await member.hear(StageSigned)).segment.to == 1


async def test_who_is_no_member_is_not_given_stages(scene: Scene, key: NodeKey) -> None:
    async with joined(scene, key, None) as member:
        await member.far.send(load())
        assert (await member.hear(Bye)).code == "invalid_request"
        with pytest.raises(LinkBroken, match="LoadStage"):
            await member.run
        assert scene.hosts == []


async def test_a_drain_waits_for_the_jobs_of_stages_and_takes_no_new_ones(
    scene: Scene, key: NodeKey
) -> None:
    async with joined(scene, key, scene.stages) as member:
        await member.has_a_job()
        member.session.leave("its operator stopped it", 5)
        await member.hear(Draining)
        await member.far.send(open_at("one", ids("job_b"), told=False))
        assert (await member.hear(JobFailed)).code == "draining"
        assert not member.run.done()
        await member.far.send(close_at("one"))
        await member.hear(StageSigned)
        assert (await member.hear(Bye)).code == "draining"
        await member.run


async def test_at_the_end_of_a_drain_the_jobs_of_stages_are_handed_back(
    scene: Scene, key: NodeKey
) -> None:
    async with joined(scene, key, scene.stages) as member:
        await member.has_a_job()
        member.session.leave("its operator stopped it", 0.05)
        assert (await member.hear(JobFailed)).code == "draining"
        await member.hear(Bye)


async def test_a_lost_link_ends_jobs_and_leaves_the_stage_loaded(
    scene: Scene, key: NodeKey
) -> None:
    async with joined(scene, key, scene.stages) as member:
        await member.has_a_job()
        await member.far.abort()
        with pytest.raises(LinkBroken):
            await member.run
    await settle()
    assert scene.host.heard[-1] == ("close", "job_a", 1, ()) and not scene.host.stopped
    async with joined(scene, key, scene.stages) as member:
        await member.far.send(load(**MIDDLE))
        await member.hear(StageLoaded)
        assert len(scene.hosts) == 1
