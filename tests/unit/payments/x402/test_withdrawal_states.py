"""The states of a withdrawal: nothing is given back, nor signed anew, while something may land."""

from __future__ import annotations

import itertools

import pytest

from parhelion.payments.x402.withdrawal_states import (
    FINAL,
    WithdrawalEvent,
    WithdrawalState,
    next_state,
)
from parhelion.words import Problem, ProblemCode

S, E = WithdrawalState, WithdrawalEvent
OUT = (S.SIGNED, S.SENT)
SURE = (E.FAILED_ON_CHAIN, E.EXPIRED, E.LANDED)


def after(state: WithdrawalState, event: WithdrawalEvent) -> WithdrawalState | None:
    try:
        return next_state(state, event)
    except Problem as problem:
        assert problem.code is ProblemCode.CONFLICT
        return None


def test_the_straight_way_ends_confirmed() -> None:
    state = S.REQUESTED
    for event in (E.SIGNED, E.BROADCAST, E.LANDED):
        state = next_state(state, event)
    assert state is S.CONFIRMED


@pytest.mark.parametrize("state", OUT)
def test_what_is_out_is_given_back_by_the_chains_word_alone(state: WithdrawalState) -> None:
    to_returned = [event for event in E if after(state, event) is S.RETURNED]
    to_requested = [event for event in E if after(state, event) is S.REQUESTED]
    assert to_returned == [E.FAILED_ON_CHAIN]
    assert to_requested == [E.EXPIRED]


@pytest.mark.parametrize("state", OUT)
def test_what_is_out_is_signed_anew_only_where_the_chain_takes_one_of_both(
    state: WithdrawalState,
) -> None:
    assert after(state, E.SIGNED) is None
    assert after(state, E.RENEWED) is S.SIGNED


def test_an_end_is_the_end() -> None:
    for state, event in itertools.product(FINAL, E):
        assert after(state, event) is None


def test_what_landed_is_confirmed_from_wherever_it_was_believed_to_be() -> None:
    for state in S:
        if state not in FINAL:
            assert after(state, E.LANDED) is S.CONFIRMED


def test_every_state_is_reached_and_every_event_happens() -> None:
    steps = [(s, e, a) for s, e in itertools.product(S, E) if (a := after(s, e)) is not None]
    assert {a for _, _, a in steps} == set(S)
    assert {e for _, e, _ in steps} == set(E)
    assert all(e in SURE or s is S.REQUESTED for s, e, a in steps if a in FINAL)
