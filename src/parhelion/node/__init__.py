"""The operator's agent: joins a coordinator, runs its jobs on an engine, signs its segments."""

from __future__ import annotations

from parhelion.node.agent import FOR_GOOD, Agent, AgentState
from parhelion.node.session import knock

__all__ = ["FOR_GOOD", "Agent", "AgentState", "knock"]
