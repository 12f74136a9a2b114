"""The planner: which nodes hold which layers; pure, so that a plan can be tried without nodes."""

from __future__ import annotations

from parhelion.coordinator.planner.explain import explain
from parhelion.coordinator.planner.figures import (
    PipelineFigures,
    StageFigures,
    figures,
    wanted_ms,
)
from parhelion.coordinator.planner.plan import plan
from parhelion.coordinator.planner.repair import Event, Joined, Left, Measured, repair
from parhelion.coordinator.planner.shape import (
    Member,
    ModelShape,
    Pipeline,
    Plan,
    Pool,
    Rtt,
    Stage,
    Unplaced,
    Wire,
    agreed_wire,
)
from parhelion.coordinator.planner.simulate import pool_of

__all__ = [
    "Event",
    "Joined",
    "Left",
    "Measured",
    "Member",
    "ModelShape",
    "Pipeline",
    "PipelineFigures",
    "Plan",
    "Pool",
    "Rtt",
    "Stage",
    "StageFigures",
    "Unplaced",
    "Wire",
    "agreed_wire",
    "explain",
    "figures",
    "plan",
    "pool_of",
    "repair",
    "wanted_ms",
]
