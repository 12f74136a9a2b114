"""The operator's agent: joins a coordinator, runs its jobs on an engine, signs its segments."""

from __future__ import annotations

from parhelion.node.agent import Agent, AgentState

__all__ = ["Agent", "AgentState"]
