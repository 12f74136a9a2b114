"""Nodes, queue and running answers: who serves a prompt, what it comes to, and who is told."""

from __future__ import annotations

from parhelion.coordinator.answer import Answer, Replayed
from parhelion.coordinator.coordinator import Coordinator
from parhelion.coordinator.feed import NodeFeed, NodesEvent
from parhelion.coordinator.meter import Meter
from parhelion.coordinator.metrics import Metrics
from parhelion.coordinator.quote import quote
from parhelion.coordinator.recovery import Recovered, recover
from parhelion.coordinator.views import Health, ModelState, NodeView

__all__ = [
    "Answer",
    "Coordinator",
    "Health",
    "Meter",
    "Metrics",
    "ModelState",
    "NodeFeed",
    "NodeView",
    "NodesEvent",
    "Recovered",
    "Replayed",
    "quote",
    "recover",
]
