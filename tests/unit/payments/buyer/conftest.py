"""A wallet with a buyer's parts around it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from parhelion.chain import wallet
from parhelion.payments.buyer import Spending
from parhelion.testing.clock import ManualClock
from tests.unit.payments.buyer.sellers import NOON_MS, Purse


@pytest.fixture
def purse(tmp_path: Path) -> Purse:
    made = wallet.create(tmp_path / "wallet.json", os.urandom)
    clock = ManualClock(NOON_MS)
    return Purse(made, clock, Spending(made.path, clock.now_ms))
