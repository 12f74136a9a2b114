"""The plan as anyone may see it: who holds what, from which numbers, and the reasons in words."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from parhelion.coordinator.pipeline_pool import times_of
from parhelion.coordinator.planner import (
    Member,
    Pipeline,
    PipelineFigures,
    Plan,
    Pool,
    Unplaced,
    explain,
    figures,
)
from parhelion.coordinator.stage_orders import Path
from parhelion.words import Clock, Record

FEW_MEMBERS = 32
"""Of so many the reasons take some 20 ms; of more they are found beside the event loop."""

KEPT_S = 0.5
REST_FACTOR = 10.0
"""A view is shown to all who ask for at least KEPT_S, and for ten times what it took to make: of
2,000 nodes that is seconds, and anyone may ask."""


class PlanModel(Record, frozen=True, kw_only=True):
    """A model that is planned for: `need_bytes` with the KV cache of a whole pipeline."""

    model: str
    digest: str
    layers: int
    need_bytes: int
    kv_tokens: int
    streams: int


class PlanMember(Record, frozen=True, kw_only=True):
    """A node that is planned for; `layer_ms`, one layer in a step, is null until it is measured:
    of the first model, where need be by what another one took.

    `overhead_bytes` of `memory_bytes` are what a stage takes beside weights and KV cache.
    """

    peer: str
    name: str
    memory_bytes: int
    overhead_bytes: int
    layer_ms: float | None


class PlanLink(Record, frozen=True, kw_only=True):
    """What was measured last between two nodes that are planned for."""

    peers: tuple[str, str]
    path: str
    rtt_ms: float | None
    mbit_s: float | None


class Uncut(Record, frozen=True, kw_only=True):
    """A model that cannot be served in parts, and why; no node has it whole."""

    digest: str
    model: str
    reason: str


class PlanView(Record, frozen=True, kw_only=True):
    """The plan, what it is made from, and why it is so.

    The figures of `pipelines` and the `reasons` are of what is measured by now: where a node or a
    link was not, the median of the others, or 30 ms, stands in. `left_out` are nodes at which
    layers could not be loaded again and again: they are planned for again after ten minutes.
    """

    epoch: int = 0
    models: tuple[PlanModel, ...] = ()
    pipelines: tuple[PipelineFigures, ...] = ()
    standby: tuple[str, ...] = ()
    broken: tuple[Pipeline, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()
    uncut: tuple[Uncut, ...] = ()
    left_out: tuple[str, ...] = ()
    members: tuple[PlanMember, ...] = ()
    links: tuple[PlanLink, ...] = ()
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """What a view is made of, as it is at one moment."""

    plan: Plan
    members: tuple[Member, ...]
    pool: Pool
    links: Mapping[tuple[str, str], Path]
    left_out: tuple[str, ...]
    uncut: tuple[Uncut, ...] = ()
    waits: str | None = None
    """Why nothing is planned yet, where the pool was told to wait for nodes."""


def as_measured(
    plan: Plan,
    pool: Pool,
    layer_ms: Mapping[tuple[str, str], float],
    links: Mapping[tuple[str, str], Path],
    left_out: Iterable[str] = (),
    uncut: Iterable[Uncut] = (),
    waits: str | None = None,
) -> Planned:
    """A plan and its pool with what was measured since it was made; `links` by both peers,
    the lower one first."""
    first = pool.models[0].digest if pool.models else ""
    here = {member.peer for member in pool.members}

    def measured(member: Member) -> Member:
        times = times_of(member.peer, layer_ms, pool.models) or member.layer_ms_of
        return msgspec.structs.replace(
            member, layer_ms=dict(times).get(first, member.layer_ms), layer_ms_of=times
        )

    members = tuple(map(measured, pool.members))
    known = {pair: path for pair, path in links.items() if here.issuperset(pair)}

    def rtt(one: str, other: str) -> float | None:
        path = known.get((one, other))
        return None if path is None else path.rtt_ms

    now = Pool(
        models=pool.models,
        members=members,
        rtt=rtt,
        streams=pool.streams,
        rtt_unknown_ms=pool.rtt_unknown_ms,
        wire=pool.wire,
    )
    return Planned(plan, members, now, known, tuple(left_out), tuple(uncut), waits)


def plan_view(planned: Planned) -> PlanView:
    """The view; pure, and of a large pool the work of seconds."""
    plan, pool = planned.plan, planned.pool
    if not planned.members:
        # Nobody offers anything, so that whole nodes may serve all there is; or not all are here.
        reasons = () if planned.waits is None else (planned.waits,)
        return PlanView(epoch=plan.epoch, left_out=planned.left_out, reasons=reasons)
    return PlanView(
        epoch=plan.epoch,
        models=tuple(
            PlanModel(
                model=model.name,
                digest=model.digest,
                layers=model.layers,
                need_bytes=model.whole_bytes,
                kv_tokens=model.kv_tokens,
                streams=pool.streams_of(model.digest),
            )
            for model in pool.models
        ),
        pipelines=figures(plan, pool),
        standby=plan.standby,
        broken=plan.broken,
        unplaced=plan.unplaced,
        uncut=planned.uncut,
        left_out=planned.left_out,
        members=tuple(
            PlanMember(
                peer=member.peer,
                name=member.name,
                memory_bytes=member.memory_bytes,
                overhead_bytes=member.overhead_bytes,
                layer_ms=member.layer_ms,
            )
            for member in planned.members
        ),
        links=tuple(
            PlanLink(peers=pair, path=path.path, rtt_ms=path.rtt_ms, mbit_s=path.mbit_s)
            for pair, path in sorted(planned.links.items())
        ),
        reasons=tuple([*_refused(planned), *explain(plan, pool), *_guessed(planned)]),
    )


def _refused(planned: Planned) -> Iterable[str]:
    """What no pipeline can serve, however many nodes there are."""
    for one in planned.uncut:
        yield f"{one.model} is served by nobody: {one.reason}; a node that has it serves it whole"


def _guessed(planned: Planned) -> Iterable[str]:
    """What the numbers above rest on that nobody has measured."""
    names = [member.name or member.peer for member in planned.members if member.layer_ms is None]
    if names and planned.plan.pipelines:
        said = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        yield f"not measured yet, and taken to be as fast as the others: {said}"
    yield from _unlinked(planned)


def _unlinked(planned: Planned) -> Iterable[str]:
    """Hops of the plan without a round trip: a link is measured while it is made, not before."""
    names = {member.peer: member.name or member.peer for member in planned.members}
    hops = (
        (min(one.peer, other.peer), max(one.peer, other.peer))
        for pipeline in planned.plan.pipelines
        for one, other in zip(
            pipeline.stages, (*pipeline.stages[1:], pipeline.stages[0]), strict=True
        )
        if one is not other
    )
    missing = [hop for hop in dict.fromkeys(hops) if planned.pool.rtt(*hop) is None]
    if missing:
        said = ", ".join(f"{names[one]} and {names[other]}" for one, other in missing[:8])
        said += f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        yield (
            f"not linked yet, and taken to be {planned.pool.rtt_unknown_ms:g} ms there and back: "
            f"{said}"
        )


class PlanBook:
    """Makes the view once for all who ask; one at a time, and not again within its time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._view = PlanView()
        self._until_s = -math.inf
        self._making: asyncio.Task[PlanView] | None = None

    async def view(self, seen: Callable[[], Planned]) -> PlanView:
        """The view of what is seen now, or the one that was made a moment ago."""
        if self._clock.monotonic_s() < self._until_s:
            return self._view
        if self._making is None:
            self._making = asyncio.create_task(self._make(seen()), name="plan-view")
        # Shielded: who asked first may leave, and the others wait for the same.
        return await asyncio.shield(self._making)

    async def _make(self, planned: Planned) -> PlanView:
        try:
            began_s = self._clock.monotonic_s()
            if len(planned.members) <= FEW_MEMBERS:
                self._view = plan_view(planned)
            else:
                self._view = await asyncio.to_thread(plan_view, planned)
            ended_s = self._clock.monotonic_s()
            self._until_s = ended_s + max(KEPT_S, REST_FACTOR * (ended_s - began_s))
            return self._view
        finally:
            self._making = None
