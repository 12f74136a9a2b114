"""So many at once, and so many a second after."""

from __future__ import annotations

from parhelion.allowance import Allowance, Allowances


def test_an_allowance_is_its_burst_and_then_its_rate() -> None:
    allowance = Allowance(per_s=2.0, burst=3.0)
    assert [allowance.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert [allowance.take(10.5), allowance.take(10.5)] == [True, False]
    assert [allowance.take(99.0) for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_went_back_gives_nothing() -> None:
    allowance = Allowance(per_s=1.0, burst=1.0)
    assert allowance.take(10.0) and not allowance.take(3.0) and not allowance.take(3.5)


def test_each_name_has_its_own_and_what_is_given_back_may_be_taken_again() -> None:
    allowances = Allowances(per_s=1.0, burst=2.0)
    assert [allowances.take("a", 0.0) for _ in range(3)] == [True, True, False]
    assert allowances.take("b", 0.0)
    allowances.give_back("a")
    assert [allowances.take("a", 0.0), allowances.take("a", 0.0)] == [True, False]
    for _ in range(9):
        allowances.give_back("b")
    assert [allowances.take("b", 0.0) for _ in range(3)] == [True, True, False]


def test_a_debt_is_paid_off_by_time_and_never_grows_beyond_the_burst() -> None:
    allowances = Allowances(per_s=1.0, burst=4.0)
    assert allowances.take("a", 0.0)
    allowances.give_back("a", -100.0)
    assert not allowances.take("a", 4.5)
    assert allowances.take("a", 5.0)


def test_whoever_was_away_for_longest_is_forgotten_first() -> None:
    allowances = Allowances(per_s=0.0, burst=1.0, limit=2)
    assert [allowances.take(name, 0.0) for name in "aba"] == [True, True, False]
    assert allowances.take("c", 0.0)
    assert len(allowances) == 2
    assert not allowances.take("a", 0.0), "b went, which came before a's last"
    assert allowances.take("b", 0.0)
