"""The states of a claim: tables, and any order of events that the world can produce."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.payments.x402 import ClaimEvent, ClaimState, may_still_land, next_state
from parhelion.payments.x402.claims import BLOCKHASH_LIFE_S, EXPIRY_MARGIN_S, states_before
from parhelion.words import Problem

S, E = ClaimState, ClaimEvent
DEFINITE = {E.REFUSED, E.UNSENT, E.FAILED_ON_CHAIN, E.EXPIRED}


def after(state: ClaimState, event: ClaimEvent) -> ClaimState | None:
    try:
        return next_state(state, event)
    except Problem:
        return None


def test_nothing_leaves_settled() -> None:
    assert {after(S.SETTLED, event) for event in E} <= {S.SETTLED, None}
    assert after(S.SETTLED, E.CLAIM) is None


def test_only_definite_events_release_a_claim() -> None:
    released = {
        (state, event)
        for state, event in product((S.CLAIMED, S.PENDING), E)
        if after(state, event) is S.FAILED
    }
    assert {event for _, event in released} == DEFINITE
    assert {event for state, event in released if state is S.PENDING} == {
        E.FAILED_ON_CHAIN,
        E.EXPIRED,
    }, "once it may have been sent, only the chain's word counts"


def test_only_what_landed_settles() -> None:
    settling = {event for state, event in product(S, E) if after(state, event) is S.SETTLED}
    assert settling - {E.LANDED, E.RESTARTED, E.UNKNOWN, E.AMBIGUOUS} == set()
    for state in (S.CLAIMED, S.PENDING, S.FAILED):
        assert {e for e in E if after(state, e) is S.SETTLED} == {E.LANDED}


def test_a_claim_that_is_out_cannot_be_claimed() -> None:
    assert [state for state in S if after(state, E.CLAIM) is S.CLAIMED] == [S.FAILED]


def test_statements_look_for_the_states_that_the_rules_name() -> None:
    for event, state in product(E, S):
        for before in states_before(event, state):
            assert next_state(before, event) is state
    assert set(states_before(E.LANDED, S.SETTLED)) == {S.CLAIMED, S.PENDING, S.FAILED}


@given(st.lists(st.sampled_from(list(E))))
def test_no_order_of_events_grants_twice_or_releases_what_may_have_landed(
    events: list[ClaimEvent],
) -> None:
    state, grants, may_be_out = S.CLAIMED, 0, False
    for event in events:
        to = after(state, event)
        if to is None:
            continue
        if event in (E.AMBIGUOUS, E.RESTARTED, E.UNKNOWN) and state is S.CLAIMED:
            may_be_out = True
        if to is S.FAILED and state is not S.FAILED:
            assert event in ((E.FAILED_ON_CHAIN, E.EXPIRED) if may_be_out else DEFINITE)
            may_be_out = False
        grants += to is S.SETTLED and state is not S.SETTLED
        state = to
    assert grants <= 1
    assert (state is S.SETTLED) == (grants == 1)


@given(
    now_s=st.integers(10**9, 2 * 10**9),
    age_s=st.integers(0, 10_000),
    left_s=st.one_of(st.none(), st.integers(-10_000, 10_000)),
    expired=st.booleans(),
)
def test_nothing_is_called_dead_before_its_time_by_both_clocks(
    now_s: int, age_s: int, left_s: int | None, expired: bool
) -> None:
    alive = may_still_land(
        signed_before_ms=(now_s - age_s) * 1000,
        valid_before_s=None if left_s is None else now_s + left_s,
        now_ms=now_s * 1000,
        is_expired_there=expired,
    )
    over = age_s >= BLOCKHASH_LIFE_S if left_s is None else left_s < -EXPIRY_MARGIN_S
    assert alive is not (expired and over)


def test_a_lagging_node_that_never_saw_a_fresh_blockhash_frees_nothing() -> None:
    fresh: dict[str, Any] = {"valid_before_s": None, "is_expired_there": True}
    assert may_still_land(signed_before_ms=0, now_ms=BLOCKHASH_LIFE_S * 1000 - 1, **fresh)
    assert not may_still_land(signed_before_ms=0, now_ms=BLOCKHASH_LIFE_S * 1000, **fresh)


@pytest.mark.parametrize("state", list(S))
def test_a_restart_never_fails(state: ClaimState) -> None:
    assert next_state(state, E.RESTARTED) in {state, S.PENDING}
