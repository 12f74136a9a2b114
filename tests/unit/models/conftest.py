"""Small model files for the tests of this room."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest
import pytest_asyncio

from parhelion import store as store_room
from parhelion.models import MIGRATIONS
from parhelion.store import Store
from parhelion.words import AssetClass


def _load(name: str) -> ModuleType:
    # The tests are no package, so a helper beside them is loaded by its path.
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The writers of tiny vocabularies (tiny.py)."""
    return _load("tiny")


@pytest.fixture
def tiny_gguf(tiny: ModuleType, tmp_path: Path) -> Path:
    """A byte-level vocabulary with a ChatML template."""
    return tiny.write_bpe(tmp_path / "tiny.gguf")


class Clock:
    """A clock that stands still."""

    def now_ms(self) -> int:
        return 1_000_000

    def monotonic_s(self) -> float:
        return 0.0


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """An empty database with this room's tables."""
    migrations = (*store_room.MIGRATIONS, *MIGRATIONS)
    opened = await Store.open(tmp_path / "db", migrations, AssetClass.LOCAL, Clock())
    yield opened
    await opened.close()
