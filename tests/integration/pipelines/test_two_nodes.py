"""Two nodes' stages, real processes and real links on loopback; the test is the coordinator."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from parhelion.bootstrap.node_stages import open_stages
from parhelion.config import Config, EngineConfig, NodeConfig
from parhelion.engines import EngineHost
from parhelion.identity import NodeKey
from parhelion.link import (
    CloseStage,
    Go,
    JobFailed,
    LoadStage,
    OpenStage,
    Pair,
    PairTicket,
    PairUp,
    Signed,
    StageFailed,
    StageLoaded,
    StageOpened,
    StageSigned,
    Steps,
    parse_address,
)
from parhelion.models import slices
from parhelion.models.digests import file_digest
from parhelion.node import Stages
from parhelion.node.doors import Doors
from parhelion.node.outbox import Outbox
from parhelion.proof import chain, opening_hash, segment_holds, stage_holds
from parhelion.words import Job, StageJob, StageSpec, Step

pytestmark = pytest.mark.slow

LAYERS, CUT = 30, 15
OPENING = b"o" * 32
PROMPTS = ((504, 2085, 282, 4649, 314), tuple(range(1000, 1040)), (28, 198, 2683))
TOKENS = 24
NOBODY = "127.0.0.1:9"
"""No coordinator's relay answers there: the nodes meet directly."""


class Node:
    """One node's stages, and what they say, as their coordinator hears it."""

    def __init__(self, stages: Stages, doors: Doors, key: NodeKey) -> None:
        self.stages = stages
        self.doors = doors
        self.key = key
        self.said: list[Any] = []
        self._news = asyncio.Event()

    async def begin(self) -> None:
        open_pipe, direct = await self.doors.open_at("127.0.0.1")
        self.stages.reachable(direct)
        self.stages.begin(Outbox(self._hear), open_pipe)

    def _hear(self, message: Any) -> None:
        self.said.append(message)
        self._news.set()

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.said if isinstance(message, kind)]

    async def when(self, holds: Callable[[], bool], timeout_s: float = 60) -> None:
        """Until it holds of what this node has said."""
        async with asyncio.timeout(timeout_s):
            while not holds():
                self._news.clear()
                await self._news.wait()

    async def until(self, kind: type[Any], count: int = 1, timeout_s: float = 60) -> list[Any]:
        await self.when(lambda: len(self.of(kind)) >= count, timeout_s)
        return self.of(kind)

    def steps(self, job: str) -> list[Step]:
        found = [step for message in self.of(Steps) for step in message.steps]
        return [step for step in found if step.job == job]

    async def finished(self, job: str) -> tuple[int, ...]:
        await self.when(lambda: any(step.finish for step in self.steps(job)))
        return tuple(id for step in self.steps(job) for id in step.ids)


@pytest.fixture
async def nodes(smollm2: Path, tmp_path: Path) -> AsyncIterator[list[Node]]:
    """A first and a last stage of the packaged model, loaded and linked to a ring."""
    digest = file_digest(smollm2)
    async with contextlib.AsyncExitStack() as stack:
        made: list[Node] = []
        for number in range(2):
            config = Config(
                data=str(tmp_path / f"node{number}"),
                node=NodeConfig(memory_limit="300MB"),
                engine=EngineConfig(threads=1),
            )
            key = NodeKey(bytes([number + 1]) * 32)
            address = parse_address(NOBODY)
            stages = await open_stages(stack, config, key, address, {digest: smollm2}, lambda: None)
            doors = Doors(key, address, listens=True)
            stack.push_async_callback(doors.close)
            made.append(Node(stages, doors, key))
            await made[-1].begin()
        for place, node in enumerate(made):
            node.stages.obey(order(smollm2, digest, place))
        await asyncio.gather(*(node.until(StageLoaded) for node in made))
        await link(made)
        yield made
        for node in made:
            await node.stages.end()


def order(model: Path, digest: str, place: int) -> LoadStage:
    start, end = (0, CUT) if place == 0 else (CUT, LAYERS)
    layout = slices.layout(model, start, end)
    spec = StageSpec(
        digest=digest,
        start=start,
        end=end,
        layers=LAYERS,
        stages=2,
        slots=4,
        context=512,
        kv_tokens=2048,
    )
    return LoadStage(
        stage=f"s{place}",
        spec=spec,
        size_bytes=layout.size_bytes,
        sha256=slices.slice_sha256(model, layout),
    )


async def link(nodes: Sequence[Node], number: int = 0) -> None:
    """Close the ring: from each stage to the next one."""
    for place, node in enumerate(nodes):
        other = nodes[1 - place]
        name = f"link{number}-{place}"
        direct = other.stages.offer.direct
        dials = PairTicket(
            link=name, secret=b"s" * 32, peer=other.key.peer, role="dial", direct=direct
        )
        accepts = msgspec.structs.replace(dials, peer=node.key.peer, role="accept", direct=())
        other.stages.obey(Pair(stage=f"s{1 - place}", side="previous", ticket=accepts))
        node.stages.obey(Pair(stage=f"s{place}", side="next", ticket=dials))
    await asyncio.gather(*(node.until(PairUp, 2 * (number + 1), 20) for node in nodes))


def ask(name: str, prompt: tuple[int, ...], digest: str) -> Job:
    return Job(
        job=name,
        attempt=1,
        digest=digest,
        cache_scope="",
        prompt_ids=prompt,
        max_tokens=TOKENS,
        opening=OPENING,
    )


async def run(nodes: Sequence[Node], job: Job) -> tuple[int, ...]:
    """One job round the ring, from its opening to every stage's signature."""
    told = StageJob(job=job.job, attempt=1, capacity=len(job.prompt_ids) + job.max_tokens)
    for place, node in enumerate(nodes):
        node.stages.obey(OpenStage(stage=f"s{place}", job=told, ids=job))
    for node in nodes:
        await opened(node, job.job)
    nodes[0].stages.obey(Go(stage="s0", job=job.job, attempt=1, reused=0))
    ids = await nodes[-1].finished(job.job)
    for place, node in enumerate(nodes):
        node.stages.obey(close(place, job, ids))
    return ids


def close(place: int, job: Job, ids: Sequence[int]) -> CloseStage:
    return CloseStage(
        stage=f"s{place}",
        job=job.job,
        attempt=1,
        start=0,
        to=len(ids),
        head=chain(OPENING, job.prompt_ids, ids).hex(),
        opening_hash=opening_hash(OPENING),
    )


async def opened(node: Node, job: str) -> None:
    await node.when(lambda: job in {one.job for one in node.of(StageOpened)}, 10)


async def whole_models(model: Path, jobs: Sequence[Job]) -> list[tuple[int, ...]]:
    host = await EngineHost.start(
        model, jobs[0].digest, EngineConfig(threads=1, slots=4, kv_tokens=2048), lambda _event: None
    )
    try:
        found: list[tuple[int, ...]] = []
        for job in jobs:
            found.append(tuple([id async for step in host.generate(job) for id in step.ids]))
        return found
    finally:
        await host.stop()


async def test_two_nodes_answer_as_the_whole_model_does_and_both_sign(
    nodes: list[Node], smollm2: Path
) -> None:
    digest = file_digest(smollm2)
    jobs = [ask(f"job_{number}", prompt, digest) for number, prompt in enumerate(PROMPTS)]
    answers = await asyncio.gather(*(run(nodes, job) for job in jobs))
    assert list(answers) == await whole_models(smollm2, jobs)
    for place, node in enumerate(nodes):
        signed = await node.until(StageSigned, len(jobs), 5)
        assert all(stage_holds(one.segment) for one in signed)
        assert {one.segment.layers for one in signed} == {((0, 15), (15, 30))[place]}
        assert all(one.segment.busy_ms > 0 for one in signed)
    segments = [one.segment for one in nodes[1].of(Signed)]
    heads = {one.segment.job: one.segment.head for one in nodes[0].of(StageSigned)}
    assert all(segment_holds(one) and one.head == heads[one.job] for one in segments)
    assert nodes[0].of(Signed) == []
    assert {up.path for node in nodes for up in node.of(PairUp)} == {"direct"}


async def test_a_new_link_takes_over_in_the_middle_of_an_answer(
    nodes: list[Node], smollm2: Path
) -> None:
    job = msgspec.structs.replace(ask("job_a", PROMPTS[0], file_digest(smollm2)), max_tokens=200)
    answer = asyncio.create_task(run(nodes, job))
    await nodes[1].when(lambda: len(nodes[1].steps("job_a")) > 4)
    await link(nodes, 1)
    before = len(nodes[1].steps("job_a"))
    assert not answer.done(), "the links were replaced after the answer"
    assert [await answer] == await whole_models(smollm2, [job])
    assert len(nodes[1].steps("job_a")) > before


async def test_a_killed_stage_is_told_of_in_one_breath_and_serves_again(
    nodes: list[Node], smollm2: Path
) -> None:
    digest, last = file_digest(smollm2), nodes[1]
    job = msgspec.structs.replace(ask("job_a", PROMPTS[0], digest), max_tokens=200)
    answer = asyncio.create_task(run(nodes, job))
    await last.when(lambda: len(last.steps("job_a")) > 4)
    host = last.stages.held()[0].host
    assert host is not None
    os.kill(host.pid, signal.SIGKILL)
    (failed,) = await last.until(JobFailed)
    (lost,) = await last.until(StageFailed)
    assert (failed.job, failed.code) == ("job_a", "engine_crashed")
    assert (lost.stage, lost.code) == ("s1", "engine_crashed")
    answer.cancel()
    delivered = [id for step in last.steps("job_a") for id in step.ids]
    (signed,) = await last.until(Signed)
    assert segment_holds(signed.segment) and signed.segment.to == len(delivered)
    await last.until(StageLoaded, 2)
    for place, node in enumerate(nodes):
        node.stages.obey(close(place, job, delivered))
        assert (await node.until(StageSigned))[0].segment.to == len(delivered)
    again = ask("job_b", PROMPTS[0], digest)
    assert [await run(nodes, again)] == await whole_models(smollm2, [again])
    assert last.of(JobFailed) == [failed] and last.of(StageFailed) == [lost]
