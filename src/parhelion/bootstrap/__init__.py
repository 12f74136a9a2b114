"""The only place that joins rooms: a coordinator, a node, and the two together."""

from __future__ import annotations

from parhelion.bootstrap.coordinator import run_coordinator
from parhelion.bootstrap.node import model_file, run_node
from parhelion.bootstrap.ready import Ready, SystemClock, folder

__all__ = ["Ready", "SystemClock", "folder", "model_file", "run_coordinator", "run_node"]
