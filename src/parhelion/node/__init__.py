"""The operator's agent: joins a coordinator, runs its jobs on an engine, signs its segments."""

from __future__ import annotations

from parhelion.node.agent import FOR_GOOD, Agent, AgentState, Dial, refused_hint
from parhelion.node.herald import Herald
from parhelion.node.session import knock
from parhelion.node.stages import Stages
from parhelion.node.state import HeldStage, NodeState, is_running, read_state, write_state

__all__ = [
    "FOR_GOOD",
    "Agent",
    "AgentState",
    "Dial",
    "HeldStage",
    "Herald",
    "NodeState",
    "Stages",
    "is_running",
    "knock",
    "read_state",
    "refused_hint",
    "write_state",
]
