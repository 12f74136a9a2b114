"""An idle host is asked whether it lives; nobody is declared dead whose owner was away."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from parhelion.hosts.pulse import PING_EVERY_S, SILENCE_LIMIT_S, Pulse

ANSWER_S = 0.01


def lived(
    pulse: Pulse,
    until_s: float,
    *,
    every_s: float = 0.5,
    idle: Callable[[float], bool] = lambda now_s: True,
    stopped_from_s: float = float("inf"),
) -> tuple[list[float], float | None]:
    """When a host was asked and declared dead that answers at once until it is stopped."""
    asked: list[float] = []
    now_s = 0.0
    while now_s <= until_s:
        need = pulse.look(now_s, idle(now_s))
        if need == "dead":
            return asked, now_s
        if need == "ask":
            asked.append(now_s)
            if now_s < stopped_from_s:
                pulse.heard()
        now_s += every_s
    return asked, None


def test_an_idle_host_is_asked_every_two_seconds_and_lives_on() -> None:
    asked, dead_s = lived(Pulse(), 3600.0)
    assert dead_s is None
    assert len(asked) == 3600 / PING_EVERY_S


def test_an_idle_host_that_stops_is_dead_four_to_six_and_a_half_seconds_later() -> None:
    for tenths in range(100, 140):
        stopped_s = tenths / 10
        _asked, dead_s = lived(Pulse(), 60.0, stopped_from_s=stopped_s)
        assert dead_s is not None
        assert SILENCE_LIMIT_S - PING_EVERY_S <= dead_s - stopped_s <= SILENCE_LIMIT_S + 0.5


def test_an_owner_that_looks_every_two_seconds_or_a_hair_early_is_as_quick() -> None:
    for every_s in (PING_EVERY_S - 1e-9, PING_EVERY_S, PING_EVERY_S + 0.01):
        for tenths in range(100, 140):
            stopped_s = tenths / 10
            _asked, dead_s = lived(Pulse(), 60.0, every_s=every_s, stopped_from_s=stopped_s)
            assert dead_s is not None
            assert dead_s - stopped_s <= SILENCE_LIMIT_S + 0.1


def test_a_host_at_work_is_not_asked_however_long_a_step_takes() -> None:
    asked, dead_s = lived(Pulse(), 500.0, idle=lambda now_s: False)
    assert (asked, dead_s) == ([], None)


def test_work_that_begins_starts_no_silence_of_its_own_before_it() -> None:
    pulse = Pulse()
    for half_s in range(3):
        assert pulse.look(half_s / 2, True) == "fine"
    assert pulse.look(1.5, False) == "fine" and pulse.silent_s == 0.0


def test_work_behind_an_unanswered_ping_does_not_hide_a_dead_host() -> None:
    pulse = Pulse()
    # Stopped from the beginning; a job comes half a second after the ping.
    asked, dead_s = lived(pulse, 60.0, idle=lambda now_s: now_s < 2.5, stopped_from_s=0.0)
    assert asked == [2.0] and dead_s == SILENCE_LIMIT_S


def test_a_host_that_answers_its_ping_late_and_goes_to_work_is_left_alone() -> None:
    pulse = Pulse()
    for half_s in range(10):
        pulse.look(half_s / 2, half_s < 5)
    assert pulse.owes
    pulse.heard()
    assert [pulse.look(5.0 + n, False) for n in range(100)] == ["fine"] * 100


def test_an_owner_that_slept_for_an_hour_asks_again_before_it_judges() -> None:
    pulse = Pulse()
    assert [pulse.look(n / 2, True) for n in range(5)][-1] == "ask"
    assert pulse.look(3602.0, True) == "fine"
    pulse.heard()  # The answer lay in the pipe.
    assert pulse.look(3602.5, True) == "fine"


def test_a_limit_of_its_own_is_kept_for_a_slow_engine() -> None:
    pulse = Pulse()
    needs = [pulse.look(n / 2, True, 30.0) for n in range(61)]
    assert needs.count("ask") == 1 and needs.index("dead") == 60


def test_who_is_asked_out_of_turn_is_asked_once() -> None:
    pulse = Pulse()
    assert pulse.ask() and not pulse.ask()
    assert pulse.look(0.0, False) == "fine" and pulse.owes
    pulse.heard()
    assert pulse.ask()


@given(st.lists(st.tuples(st.floats(0.0, 1e6), st.booleans()), max_size=200))
def test_who_answers_every_ping_never_dies_whatever_the_owner_does(
    looks: list[tuple[float, bool]],
) -> None:
    pulse, now_s = Pulse(), 0.0
    for passed_s, idle in looks:
        now_s += passed_s
        need = pulse.look(now_s, idle)
        assert need != "dead"
        if need == "ask":
            pulse.heard()
