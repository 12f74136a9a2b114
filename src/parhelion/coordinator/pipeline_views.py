"""Pipelines as anyone may see them: stages with their layers, links, what holds them up; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from parhelion.coordinator.deployment import Deployment
from parhelion.coordinator.pipeline import PipelineSession, Seat
from parhelion.coordinator.pipeline_pool import stage_id
from parhelion.coordinator.pipelines import STANDING, Pipelines
from parhelion.coordinator.registry import Node, Registry
from parhelion.coordinator.session import NodeSession
from parhelion.coordinator.views import LinkView, PipelineView, StageView
from parhelion.models import Catalogue


def pipeline_views(
    pipelines: Pipelines,
    registry: Registry,
    catalogue: Catalogue,
    name_of: Callable[[str], str],
) -> tuple[PipelineView, ...]:
    """Every pipeline of the plan, also one that is not up; `name_of` knows nodes that left."""
    return tuple(
        _view(deployment, registry, catalogue, name_of)
        for deployment in pipelines.deployments.values()
    )


def stages_of_nodes(views: tuple[PipelineView, ...]) -> Mapping[str, tuple[StageView, ...]]:
    """The stages of each node, by its peer id."""
    found: dict[str, tuple[StageView, ...]] = {}
    for view in views:
        for stage in view.stages:
            found[stage.peer] = (*found.get(stage.peer, ()), stage)
    return found


def is_standby(node: Node, stages: tuple[StageView, ...]) -> bool:
    """Whether it offers a stage, and the plan has none for it."""
    return node.card.stage is not None and not stages and node.state in STANDING


def _view(
    deployment: Deployment,
    registry: Registry,
    catalogue: Catalogue,
    name_of: Callable[[str], str],
) -> PipelineView:
    target, session = deployment.target, deployment.session
    model = catalogue.by_digest(deployment.digest)
    name = deployment.digest if model is None else model.card.id
    stages = tuple(
        _stage(deployment, place, registry, name, name_of)
        for place in range(0 if target is None else len(target.stages))
    )
    node = None if session is None else session.node
    return PipelineView(
        id=deployment.id,
        model=name,
        epoch=0 if target is None else target.epoch,
        state=str(deployment.state),
        reason=deployment.reason,
        since_ms=deployment.since_ms,
        slots=None if node is None else node.slots,
        slots_busy=None if node is None else node.slots_busy,
        tokens_per_s=None if node is None else node.tokens_per_s,
        first_id_s=None if node is None else node.first_id_s,
        served=deployment.served + (0 if node is None else node.served),
        failed=deployment.failed + (0 if node is None else node.failed),
        bottleneck=_bottleneck(session),
        wire=None if session is None else deployment.wire,
        stages=stages,
    )


def _stage(
    deployment: Deployment,
    place: int,
    registry: Registry,
    model: str,
    name_of: Callable[[str], str],
) -> StageView:
    assert deployment.target is not None
    stage = deployment.target.stages[place]
    member = registry.member(stage.peer)
    name = stage_id(deployment.digest, stage.start, stage.end)
    told = member.stages.get(name) if isinstance(member, NodeSession) else None
    seat = _seat(deployment, name, stage.peer)
    held = stage.peer, name
    resident_bytes = deployment.layers.held_bytes.get(held) if told is None else told.resident_bytes
    return StageView(
        pipeline=deployment.id,
        model=model,
        peer=stage.peer,
        name=name_of(stage.peer) if member is None else member.node.name,
        start=stage.start,
        end=stage.end,
        is_loaded=held in deployment.layers.held_bytes,
        resident_bytes=resident_bytes,
        step_ms=None if seat is None else seat.step_ms,
        next_link=None if seat is None else _link(deployment, seat),
    )


def _seat(deployment: Deployment, stage: str, peer: str) -> Seat | None:
    """Who works at this stage of the plan; None while the pipeline still is as it was before."""
    seats = () if deployment.session is None else deployment.session.seats
    return next((seat for seat in seats if (seat.stage, seat.peer) == (stage, peer)), None)


def _link(deployment: Deployment, seat: Seat) -> LinkView | None:
    assert deployment.session is not None
    seats = deployment.session.seats
    place = seats.index(seat)
    path = deployment.path(place)
    if path is None:
        return None
    return LinkView(
        peer=seats[(place + 1) % len(seats)].peer,
        path=path.path,
        rtt_ms=path.rtt_ms,
        mbit_s=path.mbit_s,
        sent_bytes=path.sent_bytes,
        received_bytes=path.received_bytes,
    )


def _bottleneck(session: PipelineSession | None) -> str | None:
    """The node whose stage takes longest; None where that was not measured."""
    if session is None or any(seat.step_ms is None for seat in session.seats):
        return None
    return max(session.seats, key=lambda seat: seat.step_ms or 0.0).peer
