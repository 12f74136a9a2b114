"""The day's limit: durable before anything leaves, shared by processes, closed when in doubt."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from parhelion.payments.buyer import Spending
from parhelion.testing.clock import ManualClock
from parhelion.words import Problem, ProblemCode
from tests.unit.payments.buyer.sellers import NOON_MS

DAY_S = 24 * 3600


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON_MS)


@pytest.fixture
def spending(tmp_path: Path, clock: ManualClock) -> Spending:
    return Spending(tmp_path / "wallet.json", clock.now_ms)


def test_what_was_spent_counts_for_the_next_process_until_the_day_ends(
    spending: Spending, clock: ManualClock
) -> None:
    assert spending.reserve("USDC", 600, 1000) == 400
    again = Spending(spending.path.with_name("wallet.json"), clock.now_ms)
    with pytest.raises(Problem) as caught:
        again.reserve("USDC", 401, 1000)
    assert caught.value.code is ProblemCode.KEY_LIMIT_REACHED
    assert again.reserve("USDC", 400, 1000) == 0
    assert again.left_micro("USDC", 1000) == 0
    clock.advance(DAY_S / 2 + 1)
    assert again.reserve("USDC", 1000, 1000) == 0


def test_play_money_is_not_counted_with_real_money(spending: Spending) -> None:
    spending.reserve("USDC.test", 1000, 1000)
    assert spending.left_micro("USDC", 1000) == 1000


def test_a_clock_set_back_begins_no_new_day(tmp_path: Path, spending: Spending) -> None:
    spending.reserve("USDC", 1000, 1000)
    earlier = Spending(tmp_path / "wallet.json", ManualClock(NOON_MS - DAY_S * 1000).now_ms)
    with pytest.raises(Problem):
        earlier.reserve("USDC", 1, 1000)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"\xff" * 9,
        b"[" * 60_000,
        b'{"version":1,"day":"2025-11-22","spent":{"USDC":-5}}',
        b'{"version":1,"day":"2025-11-22","spent":{"USDC":"1"}}',
        b'{"version":1,"day":"soon","spent":{}}',
        b'{"version":2,"day":"2025-11-22","spent":{}}',
    ],
)
def test_a_record_that_cannot_be_understood_closes_the_wallet(
    spending: Spending, content: bytes
) -> None:
    spending.path.touch(0o600)
    spending.path.write_bytes(content)
    for refused in (
        lambda: spending.reserve("USDC", 1, 1000),
        lambda: spending.left_micro("USDC", 1000),
    ):
        with pytest.raises(Problem) as caught:
            refused()
        assert caught.value.code is ProblemCode.STORE_UNAVAILABLE
    assert spending.path.read_bytes() == content


def test_a_record_that_others_can_write_closes_the_wallet(spending: Spending) -> None:
    spending.reserve("USDC", 1, 1000)
    spending.path.chmod(0o666)
    with pytest.raises(Problem, match="can be written by others"):
        spending.reserve("USDC", 1, 1000)


def test_a_record_that_cannot_be_written_closes_the_wallet(
    spending: Spending, monkeypatch: pytest.MonkeyPatch
) -> None:
    spending.reserve("USDC", 1, 1000)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Problem, match="cannot be written"):
        spending.reserve("USDC", 1, 1000)


def test_who_hangs_with_the_lock_lets_nobody_pay(spending: Spending, clock: ManualClock) -> None:
    waited: list[float] = []
    other = Spending(spending.path.with_name("wallet.json"), clock.now_ms, pause=waited.append)
    with spending._alone(), pytest.raises(Problem, match="another payment that hangs"):
        other.reserve("USDC", 1, 1000)
    assert sum(waited) >= 5
    assert other.reserve("USDC", 1, 1000) == 999


def spend(folder: str) -> int:
    spending = Spending(Path(folder) / "wallet.json", ManualClock(NOON_MS).now_ms)
    taken = 0
    for _ in range(10):
        try:
            spending.reserve("USDC", 10, 250)
            taken += 1
        except Problem:
            pass
    return taken


def test_four_processes_at_once_spend_the_limit_exactly(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert sum(pool.map(spend, [str(tmp_path)] * 4)) == 25


@pytest.mark.parametrize("amount", [0, -1])
def test_nothing_is_no_amount(spending: Spending, amount: int) -> None:
    with pytest.raises(ValueError, match="above 0"):
        spending.reserve("USDC", amount, 1000)
