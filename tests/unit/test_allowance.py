"""So many at once, and so many a second after."""

from __future__ import annotations

from parhelion.allowance import Allowance


def test_an_allowance_is_its_burst_and_then_its_rate() -> None:
    allowance = Allowance(per_s=2.0, burst=3.0)
    assert [allowance.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert [allowance.take(10.5), allowance.take(10.5)] == [True, False]
    assert [allowance.take(99.0) for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_went_back_gives_nothing() -> None:
    allowance = Allowance(per_s=1.0, burst=1.0)
    assert allowance.take(10.0) and not allowance.take(3.0) and not allowance.take(3.5)
