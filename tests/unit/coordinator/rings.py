"""Nodes that hold stages as a script says, and a pool that makes pipelines of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from parhelion import identity, proof
from parhelion.config import PipelinesConfig
from parhelion.coordinator.pipeline_state import PipelineState
from parhelion.coordinator.pipelines import Pipelines
from parhelion.coordinator.stage_orders import Orders
from parhelion.coordinator.workshop import Workshop
from parhelion.link import (
    CloseStage,
    Cut,
    Go,
    LoadStage,
    OpenStage,
    Pair,
    PairUp,
    ServeSlice,
    Signed,
    StageLoaded,
    StageOpened,
    StageSigned,
    StageTimed,
    Steps,
    TimeStage,
)
from parhelion.models import ModelWeight, SliceCard
from parhelion.models.stage_memory import STAGE_OVERHEAD_BYTES, buffer_bytes, vocabulary_bytes
from parhelion.words import (
    Job,
    ModelCard,
    Problem,
    ProblemCode,
    Record,
    StageOffer,
    StageSegment,
    Step,
)

LAYERS = 6
LAYER_BYTES = 1000
MIB = 1024 * 1024
SOON_S = 5.0
ROOM_BYTES = 65 * MIB
"""Of a node: what a stage's process takes beside its layers, and these."""


class Artefact(Record, frozen=True, kw_only=True):
    weight: ModelWeight | None
    refusal: str | None = None
    card: ModelCard | None = None


class Slices:
    """Cuts anything: six layers of 1,000 bytes and a KV cache of `kv_bytes` a token and layer."""

    def __init__(self, kv_bytes: int = 512) -> None:
        self.weight = ModelWeight(
            architecture="llama",
            layers=LAYERS,
            layer_bytes=(LAYER_BYTES,) * LAYERS,
            layer_active_bytes=(LAYER_BYTES,) * LAYERS,
            kv_bytes_per_token=(kv_bytes,) * LAYERS,
            head_bytes=100,
            tail_bytes=100,
            hidden_size=8,
            n_vocab=16,
        )

    refusal: str | None = None
    unreadable = False
    in_use: frozenset[tuple[str, int, int]] = frozenset()

    async def artefact(self, digest: str) -> Artefact:
        if self.unreadable:
            raise Problem(ProblemCode.ARTEFACT_UNAVAILABLE, "its file cannot be read")
        if self.refusal is not None:
            return Artefact(weight=None, refusal=self.refusal)
        return Artefact(weight=self.weight)

    def keep(self, in_use: Iterable[tuple[str, int, int]]) -> None:
        self.in_use = frozenset(in_use)

    async def describe(self, digest: str, start: int, end: int) -> SliceCard:
        return SliceCard(digest=digest, start=start, end=end, size_bytes=10, sha256="a" * 64)


@dataclass(eq=False)
class StageNode:
    """A fake node of the pool that does as it is told, unless `refuses` says otherwise."""

    node: Any
    clock: Any
    held: int = 0
    layer_s: float | None = None
    """What each of its layers takes of a step; None: any timing takes as long."""
    off_times: int = 0
    """So many orders to time it find it busy: it takes four times as long then."""
    load_s: float = 0.0
    device: str = "cpu: Abacus, 2 threads"
    keeps_fetching: bool = False
    refuses: set[type] = field(default_factory=set[type])
    loaded: list[str] = field(default_factory=list[str])
    loads: list[LoadStage] = field(default_factory=list[LoadStage])
    fetched: list[str] = field(default_factory=list[str])
    serves: list[ServeSlice] = field(default_factory=list[ServeSlice])
    opened: dict[str, OpenStage] = field(default_factory=dict[str, OpenStage])
    went: list[Go] = field(default_factory=list[Go])
    closed: list[CloseStage] = field(default_factory=list[CloseStage])
    links: list[str] = field(default_factory=list[str])

    @property
    def peer(self) -> str:
        return self.node.peer

    @property
    def hear(self) -> Any:
        return self.node.carrier.hear

    def obey(self, message: Any) -> None:
        if type(message) in self.refuses:
            return
        match message:
            case LoadStage(only_fetch=True) if self.keeps_fetching:
                pass
            case LoadStage(stage=stage, only_fetch=True):
                self.fetched.append(stage)
                loaded = StageLoaded(stage=stage, resident_bytes=0, took_ms=1, only_fetched=True)
                self.hear(loaded)
            case LoadStage(stage=stage):
                self.clock.s += self.load_s
                self.loaded.append(stage)
                self.loads.append(message)
                loaded = StageLoaded(
                    stage=stage, resident_bytes=1000, took_ms=1, device=self.device
                )
                self.hear(loaded)
            case ServeSlice():
                self.serves.append(message)
            case Pair(ticket=ticket):
                self.links.append(ticket.link)
                self.hear(PairUp(link=ticket.link, path="direct", rtt_ms=2.0))
            case TimeStage(stage=stage, ticket=ticket):
                self.clock.s += self.step_s(message)
                self.hear(StageTimed(stage=stage, ticket=ticket))
            case OpenStage(stage=stage, job=job):
                self.opened[job.job] = message
                self.hear(
                    StageOpened(stage=stage, job=job.job, attempt=job.attempt, held=self.held)
                )
            case Go():
                self.went.append(message)
            case CloseStage():
                self.closed.append(message)
                self.sign_part(message)
            case Cut():
                self.sign(message.job, message.n)
            case _:
                pass

    def step_s(self, order: TimeStage) -> float:
        if self.layer_s is None:
            return 0.08
        start, _, end = order.stage.rpartition(":")[2].partition("-")
        self.off_times -= 1
        each_s = self.layer_s * (4 if self.off_times >= 0 else 1)
        return each_s * (int(end) + 1 - int(start)) * order.repeats

    def job(self, name: str) -> Job:
        told = self.opened[name].ids
        assert told is not None, "this stage knows no ids"
        return told

    def made(self, name: str, start: int, ids: tuple[int, ...], finish: str | None = None) -> None:
        job = self.job(name)
        self.hear(Steps(steps=(Step(name, job.attempt, start, ids, finish),)))
        self.node.made.setdefault(name, list(job.output_ids)).extend(ids)
        if finish is not None:
            self.sign(name, start + len(ids))

    def sign(self, name: str, to: int) -> None:
        job = self.job(name)
        self.node.made.setdefault(name, list(job.output_ids))
        segment = self.node.segment(job, to)
        self.hear(Signed(segment=proof.sign_segment(self.node.key, segment)))

    def part(self, close: CloseStage) -> StageSegment:
        start, _, end = close.stage.rpartition(":")[2].partition("-")
        return StageSegment(
            node=self.peer,
            job=close.job,
            attempt=close.attempt,
            opening_hash=close.opening_hash,
            artefact=self.loads[-1].spec.digest,
            layers=(int(start), int(end) + 1),
            start=close.start,
            to=close.to,
            head=close.head,
            busy_ms=5,
        )

    def sign_part(self, close: CloseStage) -> None:
        part = proof.sign_stage(self.node.key, self.part(close))
        self.hear(StageSigned(segment=part))


class Rig:
    """A pool of `tests.unit.coordinator.conftest` with pipelines."""

    def __init__(
        self, pool: Any, slices: Slices | None = None, wire: Literal["fp32", "bf16"] = "fp32"
    ) -> None:
        self.pool = pool
        coordinator = pool.coordinator
        self.workshop = Workshop(
            orders=Orders(coordinator.relays, pool.clock),
            registry=coordinator.registry,
            catalogue=pool.catalogue,
            slices=slices or Slices(),  # type: ignore[arg-type]
            tokens=identity.FetchTokens(pool.clock, os.urandom),
            config=PipelinesConfig(slots=4, kv_tokens=256, wire=wire),
            clock=pool.clock,
            secret=b"s" * 32,
            meet=coordinator.prober.meet,
        )
        self.pipelines = Pipelines(self.workshop, coordinator.feed.touch)
        coordinator.pipelines = self.pipelines
        coordinator.places.why = self.pipelines.why_not
        coordinator.places.comes = self.pipelines.is_coming
        coordinator.places.on_want = self.pipelines.hurry
        self.pipelines.on_planned = coordinator.places.plan_changed
        coordinator._tasks.append(asyncio.create_task(self.pipelines.run(), name="pipelines"))
        self.nodes: dict[str, StageNode] = {}

    async def join(
        self,
        layers: int,
        *,
        direct: tuple[str, ...] = (),
        whole: tuple[str, ...] = (),
        wires: tuple[str, ...] = ("fp32",),
        **changes: Any,
    ) -> StageNode:
        """A node with memory for so many layers, and what the first or last one has beside."""
        each = LAYER_BYTES + 512 * 256
        beside_bytes = STAGE_OVERHEAD_BYTES + buffer_bytes(8, 256) + vocabulary_bytes(16, 4)
        memory_bytes = beside_bytes + layers * each + 200
        offer = StageOffer(memory_bytes=memory_bytes, direct=direct, whole=whole, wires=wires)
        fake = self.pool.fake(4)
        stage_node = StageNode(fake, self.pool.clock, **changes)
        obey = fake.obey

        def both(message: Any) -> None:
            if not isinstance(message, Cut):
                obey(message)
            stage_node.obey(message)

        fake.carrier.on_said = both
        # Without an engine of its own it has found no device yet.
        await self.pool.join(fake, models=(), stage=offer, device="")
        self.nodes[fake.peer] = stage_node
        return stage_node

    async def serving(self, epoch: int = 1) -> tuple[StageNode, ...]:
        """The nodes of the one pipeline in order, once it serves at this epoch or a later one."""
        async with asyncio.timeout(SOON_S):
            while True:
                for one in self.pipelines.deployments.values():
                    if (
                        one.state is PipelineState.SERVING
                        and one.session is not None
                        and one.target is not None
                        and one.target.epoch >= epoch
                        and one.target.peers == one.session.peers
                    ):
                        return tuple(self.nodes[peer] for peer in one.session.peers)
                await asyncio.sleep(0.01)

    def spare(self, stages: tuple[StageNode, ...]) -> StageNode:
        """The one node that is not among these."""
        (spare,) = [one for one in self.nodes.values() if one not in stages]
        return spare

    async def until(self, is_so: Any) -> None:
        async with asyncio.timeout(SOON_S):
            while not is_so():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def begun(self, first: StageNode) -> str:
        """The name of the newest job that the first stage was told to begin."""
        count = len(first.went)
        if count == 0:
            await self.until(lambda: first.went)
        return first.went[-1].job


__all__ = ["LAYERS", "Problem", "Rig", "Slices", "StageNode"]
