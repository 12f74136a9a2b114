"""Pools of echo nodes: the coordinator's own process, a node's own process, no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from parhelion.testing.processes import Running, start_echo, start_pool, start_run


@pytest.fixture
def paid(tmp_path: Path, smollm2: Path) -> Iterator[Callable[..., Running]]:
    """Start a paid pool with these settings, and an echo node in it."""
    started: list[Running] = []

    def start(**settings: int) -> Running:
        env = {f"PARHELION_{name}": str(value) for name, value in settings.items()}
        pool = start_pool(tmp_path / "pool", env=env)
        started.append(pool)
        echo = tmp_path / "echo"
        started.append(start_echo(echo, pool.ready["join"], tokens_per_s=0, slots=16))
        return pool

    yield start
    for running in reversed(started):
        assert running.stop() == 0


@pytest.fixture
def free(tmp_path: Path, smollm2: Path) -> Iterator[Running]:
    """A private pool of one echo node, in which no key is needed."""
    pool = start_run(tmp_path / "pool", 1)
    address = pool.api.removeprefix("http://")
    node = start_echo(tmp_path / "echo", address, tokens_per_s=0, slots=4)
    yield pool
    assert node.stop() == 0
    assert pool.stop() == 0
