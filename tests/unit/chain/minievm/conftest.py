"""A chain in a temporary folder for each test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PYTHONS_LIMIT = sys.getrecursionlimit()

# py-evm and its curves raise the whole process's limit of recursion where they are imported; deep
# JSON would then end this process, whose other tests parse what strangers send.
from tests.unit.chain.minievm.world import World  # noqa: E402

DEEP_LIMIT = sys.getrecursionlimit()
sys.setrecursionlimit(PYTHONS_LIMIT)


@pytest.fixture(autouse=True)
def deep_calls() -> Iterator[None]:
    """What the chain's own process has: calls of contracts nest 1,024 deep."""
    sys.setrecursionlimit(DEEP_LIMIT)
    yield
    sys.setrecursionlimit(PYTHONS_LIMIT)


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
