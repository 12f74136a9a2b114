"""The operator's agent: joins a coordinator, runs its jobs on an engine, signs its segments."""

from __future__ import annotations

from parhelion.node.agent import FOR_GOOD, REFUSED_HINT, Agent, AgentState, Dial
from parhelion.node.session import knock
from parhelion.node.state import NodeState, is_running, read_state, write_state

__all__ = [
    "FOR_GOOD",
    "REFUSED_HINT",
    "Agent",
    "AgentState",
    "Dial",
    "NodeState",
    "is_running",
    "knock",
    "read_state",
    "write_state",
]
