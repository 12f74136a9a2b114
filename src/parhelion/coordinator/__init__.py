"""Nodes, queue and running answers: who serves a prompt, what it comes to, and who is told."""

from __future__ import annotations

from parhelion.coordinator.answer import Answer, Replayed
from parhelion.coordinator.console import Console, Sights
from parhelion.coordinator.coordinator import Coordinator
from parhelion.coordinator.feed import NodeFeed, NodesEvent
from parhelion.coordinator.meter import Meter
from parhelion.coordinator.metrics import Metrics
from parhelion.coordinator.plan_view import PlanView
from parhelion.coordinator.quote import quote
from parhelion.coordinator.recovery import Recovered, recover
from parhelion.coordinator.relaying import Relays, RelayView
from parhelion.coordinator.traffic import STEP_S, Point, Traffic
from parhelion.coordinator.views import (
    ConsoleView,
    Health,
    LinkView,
    ModelNodes,
    ModelState,
    NodeView,
    PipelineView,
    StageView,
    StateMark,
    StreamView,
)

__all__ = [
    "STEP_S",
    "Answer",
    "Console",
    "ConsoleView",
    "Coordinator",
    "Health",
    "LinkView",
    "Meter",
    "Metrics",
    "ModelNodes",
    "ModelState",
    "NodeFeed",
    "NodeView",
    "NodesEvent",
    "PipelineView",
    "PlanView",
    "Point",
    "Recovered",
    "RelayView",
    "Relays",
    "Replayed",
    "Sights",
    "StageView",
    "StateMark",
    "StreamView",
    "Traffic",
    "quote",
    "recover",
]
