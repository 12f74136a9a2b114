"""Price, split and the states of a hold: pure."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.ledger import (
    INFRASTRUCTURE,
    TREASURY,
    HoldEvent,
    HoldState,
    Shares,
    Worked,
    class_of,
    crew,
    crew_of,
    next_state,
    price,
    split,
)
from parhelion.words import AssetClass, Problem, ProblemCode, Rate

H, P, V, X = HoldState.HELD, HoldState.POSTED, HoldState.VOIDED, HoldState.EXPIRED

DEFAULT = Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)


def rate(prompt_micro: int, completion_micro: int) -> Rate:
    return Rate(
        model="m",
        asset="PRLX.local",
        version=1,
        prompt_micro=prompt_micro,
        completion_micro=completion_micro,
    )


@pytest.mark.parametrize(
    ("event", "after"),
    [
        (HoldEvent.POST, {H: P, P: P, V: None, X: None}),
        (HoldEvent.VOID, {H: V, P: None, V: V, X: None}),
        (HoldEvent.EXPIRE, {H: X, P: None, V: None, X: X}),
    ],
)
def test_a_hold_ends_once_and_the_same_end_again_is_no_change(
    event: HoldEvent, after: dict[HoldState, HoldState | None]
) -> None:
    assert set(after) == set(HoldState)
    for state, expected in after.items():
        if expected is not None:
            assert next_state(state, event) == expected
            continue
        with pytest.raises(Problem) as caught:
            next_state(state, event)
        assert caught.value.code == ProblemCode.CONFLICT


def test_the_golden_example_is_exact() -> None:
    """0.0000040 a token x 1,420 tokens = 0.00568, that is 5,680 base units."""
    assert price(rate(4_000_000, 4_000_000), 420, 1000) == 5680
    assert price(rate(4_000_000, 4_000_000), 1420, 0) == 5680
    assert [(leg.role, leg.amount_micro) for leg in split(5680, DEFAULT, [_by("a", 1000)])] == [
        ("operator", 4828),
        ("infrastructure", 284),
        ("treasury", 568),
    ]


counts = st.integers(0, 10**7)
rates = st.integers(0, 10**12)


@given(counts, counts, rates, rates)
def test_a_price_is_rounded_up_once(p: int, c: int, prompt: int, completion: int) -> None:
    exact = Fraction(p * prompt + c * completion, 1_000_000)
    assert 0 <= price(rate(prompt, completion), p, c) - exact < 1


@given(counts, counts, counts, rates, rates)
def test_more_tokens_never_cost_less(
    p: int, c: int, more: int, prompt: int, completion: int
) -> None:
    r = rate(prompt, completion)
    assert price(r, p, c) <= price(r, p, c + more) <= price(r, p + more, c + more)


def test_a_rate_of_nothing_costs_nothing() -> None:
    assert price(rate(0, 0), 10**6, 10**6) == 0


def test_negative_counts_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="never negative"):
        price(rate(1, 1), 1, -1)


shares = st.integers(0, 100).flatmap(
    lambda operators: st.integers(0, 100 - operators).map(
        lambda treasury: Shares(
            operators_percent=operators,
            treasury_percent=treasury,
            infrastructure_percent=100 - operators - treasury,
        )
    )
)


def _by(operator: str, ids: int) -> Worked:
    return Worked(operator=operator, output_ids=ids)


works = st.lists(st.builds(_by, st.sampled_from(["a", "b", "c", "d"]), counts), max_size=6)


@given(st.integers(0, 2**53), shares, works)
def test_a_split_loses_nothing_and_rounds_operators_down(
    cost: int, parts: Shares, worked: list[Worked]
) -> None:
    legs = split(cost, parts, worked)
    assert sum(leg.amount_micro for leg in legs) == cost
    assert all(leg.amount_micro > 0 for leg in legs)
    assert len({leg.account for leg in legs}) == len(legs)
    total_ids = sum(part.output_ids for part in worked)
    for leg in legs:
        if leg.role == "operator":
            ids = sum(part.output_ids for part in worked if part.operator == leg.account)
            whole = cost * parts.operators_percent // 100
            assert leg.amount_micro == whole * ids // total_ids
    got = {leg.account: leg.amount_micro for leg in legs}
    assert got.get(INFRASTRUCTURE, 0) == cost * parts.infrastructure_percent // 100
    assert got.get(TREASURY, 0) >= cost * parts.treasury_percent // 100


@given(
    st.integers(0, 2**53),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 10**7)), min_size=1, max_size=6),
    counts,
)
def test_a_crew_shares_by_weight_and_nothing_is_lost(
    cost: int, weights: list[tuple[str, int]], ids: int
) -> None:
    legs = split(cost, DEFAULT, [_by(crew(weights), ids), _by("d", 1)])
    assert sum(leg.amount_micro for leg in legs) == cost
    whole = cost * DEFAULT.operators_percent // 100
    all_of_it = sum(weight for _, weight in weights)
    for account in "abc":
        own = sum(weight for name, weight in weights if name == account)
        if not all_of_it:
            own, total = sum(name == account for name, _ in weights), len(weights)
        else:
            total = all_of_it
        got = sum(leg.amount_micro for leg in legs if leg.account == account)
        assert got == whole * ids * own // (total * (ids + 1))


@pytest.mark.parametrize("text", ["a*1+", "a*-1", "*1", "a*1+b", "a*1+b*x"])
def test_a_text_that_names_no_crew_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no crew"):
        crew_of(text)


def test_without_delivered_ids_the_operators_share_stays_in_the_treasury() -> None:
    for worked in ([], [_by("a", 0)]):
        legs = split(1000, DEFAULT, worked)
        assert {leg.account: leg.amount_micro for leg in legs} == {
            TREASURY: 950,
            INFRASTRUCTURE: 50,
        }


def test_operators_of_one_request_share_by_ids_and_the_treasury_gets_the_rest() -> None:
    legs = split(100, DEFAULT, [_by("a", 1), _by("b", 1), _by("a", 1)])
    assert {leg.account: leg.amount_micro for leg in legs} == {
        "a": 56,
        "b": 28,
        INFRASTRUCTURE: 5,
        TREASURY: 11,
    }


@pytest.mark.parametrize("parts", [(85, 10, 4), (101, -1, 0), (50, 50, 50)])
def test_shares_that_are_not_a_hundred_are_refused(parts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="add up to 100"):
        Shares(
            operators_percent=parts[0], treasury_percent=parts[1], infrastructure_percent=parts[2]
        )


def test_the_class_of_an_asset_is_its_suffix() -> None:
    assert class_of("PRLX.local") == AssetClass.LOCAL
    assert class_of("USDC.test") == AssetClass.TEST
    assert class_of("USDC") == AssetClass.MAIN
    with pytest.raises(ValueError, match="elsewhere"):
        class_of("USDC.elsewhere")
