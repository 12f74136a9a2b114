"""Chains in processes of their own; whoever is left at the end is killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from parhelion.testing.minisol import MinisolProcess

Start = Callable[..., MinisolProcess]


@pytest.fixture(scope="session")
def minisol(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinisolProcess]:
    """One chain for all tests that bring their own wallets and leave it running."""
    process = MinisolProcess(tmp_path_factory.mktemp("minisol") / "chain")
    yield process
    process.close(kill=True)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a chain with options, on a folder of the test's own."""
    started: list[MinisolProcess] = []

    def make(*options: str) -> MinisolProcess:
        started.append(MinisolProcess(tmp_path / f"chain-{len(started)}", *options))
        return started[-1]

    yield make
    for process in started:
        process.close(kill=True)
