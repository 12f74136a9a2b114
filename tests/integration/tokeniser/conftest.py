"""Small model files for the tokeniser's tests with real processes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest
import pytest_asyncio

from parhelion.models import DEFAULT_MODEL_ID, Model, TokeniserHost, inspect

_TINY = Path(__file__).parents[2] / "unit" / "models" / "tiny.py"


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The writers of tiny vocabularies (tests/unit/models/tiny.py)."""
    spec = importlib.util.spec_from_file_location("tiny", _TINY)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def smollm2_model(smollm2: Path) -> Model:
    """The packaged model as the catalogue would have it."""
    return Model(card=inspect(smollm2, DEFAULT_MODEL_ID), path=str(smollm2))


@pytest_asyncio.fixture
async def host() -> AsyncIterator[TokeniserHost]:
    """A running tokeniser host."""
    tokeniser = TokeniserHost()
    await tokeniser.start()
    yield tokeniser
    await tokeniser.stop()
