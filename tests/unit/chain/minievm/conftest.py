"""A chain in a temporary folder for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.chain.minievm.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "chain")
    yield made
    made.file.close()


@pytest.fixture
def slow_world(tmp_path: Path) -> Iterator[World]:
    """A chain whose blocks are made when the test says so."""
    made = World(tmp_path / "chain", at_once=False)
    yield made
    made.file.close()
