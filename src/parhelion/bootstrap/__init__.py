"""The only place that joins rooms: a coordinator, a node, and the two together."""

from __future__ import annotations

from parhelion.bootstrap.node import knock, run_node
from parhelion.bootstrap.node_engines import model_file
from parhelion.bootstrap.pool import run_coordinator
from parhelion.bootstrap.ready import Pool, Ready, SystemClock, folder

__all__ = [
    "Pool",
    "Ready",
    "SystemClock",
    "folder",
    "knock",
    "model_file",
    "run_coordinator",
    "run_node",
]
