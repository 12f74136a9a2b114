"""A pool as a person starts it: `parhelion up` with the packaged model, real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from parhelion.testing.processes import Running, start_up


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Running]:
    """One running `parhelion up` for all tests that leave it as they found it."""
    running = start_up(tmp_path_factory.mktemp("pool") / "data")
    yield running
    assert running.stop() == 0
