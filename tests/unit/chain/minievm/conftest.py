"""A chain in a temporary folder for each test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.chain.minievm.world import World

DEEP_LIMIT = 100_000
"""What py-evm and its curves ask for where they are imported: calls nest 1,024 deep."""


@pytest.fixture(autouse=True)
def deep_calls(pythons_own_limit_of_recursion: None) -> None:
    """The limit that the chain's own process has; every other test starts with Python's."""
    sys.setrecursionlimit(DEEP_LIMIT)


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
