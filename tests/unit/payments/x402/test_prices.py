"""What is sold and for how much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.ledger import price, tier_cost, tier_max_tokens
from parhelion.payments.x402 import (
    TIERS,
    request_price,
    smallest_topup,
    tier_named,
    tier_price,
    topup_price,
)
from parhelion.payments.x402.prices import STOCK_LIMIT_MICRO, usd_text
from parhelion.words import Problem, ProblemCode, Rate

MIN_MICRO = 1_000
RATE = Rate(
    model="m", asset="USDC.local", version=1, prompt_micro=4_000_000, completion_micro=4_000_000
)


def test_the_tiers_are_those_of_the_issue() -> None:
    told = {
        tier.name: (tier.price_micro, tier.max_tokens, tier.max_prompt_tokens) for tier in TIERS
    }
    assert told == {
        "basic": (10_000, 100, 1_000),
        "standard": (50_000, 256, 2_000),
        "premium": (250_000, 512, 4_000),
    }


def test_a_request_costs_all_it_can_and_at_least_the_smallest_charge() -> None:
    assert request_price(RATE, 420, 1_000, MIN_MICRO).amount_micro == 5_680
    assert request_price(RATE, 1, 1, MIN_MICRO).amount_micro == MIN_MICRO


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(0, 10**8))
def test_what_is_paid_always_covers_what_it_can_cost(prompt: int, most: int, micro: int) -> None:
    rate = Rate(model="m", asset="USDC", version=1, prompt_micro=micro, completion_micro=micro)
    told = request_price(rate, prompt, most, MIN_MICRO)
    assert told.amount_micro >= price(rate, prompt, most)
    assert told.amount_micro >= MIN_MICRO
    if told.fits is not None:
        assert price(rate, prompt, told.fits) <= STOCK_LIMIT_MICRO < told.amount_micro
        assert price(rate, prompt, told.fits + 1) > STOCK_LIMIT_MICRO


def test_above_a_dollar_the_max_tokens_that_fits_is_named() -> None:
    told = request_price(RATE, 1_000, 300_000, MIN_MICRO)
    assert told.is_above_stock_limit
    assert told.fits == 249_000
    assert request_price(RATE, 300_000, 10, MIN_MICRO).fits is None, "no answer would fit"


def test_a_prompt_that_a_tier_does_not_take_is_refused_before_payment() -> None:
    basic = tier_named("basic", TIERS)
    assert tier_price(basic, 1_000).amount_micro == 10_000
    with pytest.raises(Problem) as caught:
        tier_price(basic, 1_001)
    assert caught.value.code is ProblemCode.CONTEXT_LENGTH_EXCEEDED


def test_an_unknown_tier_is_told_the_known_ones() -> None:
    with pytest.raises(Problem) as caught:
        tier_named("gold", TIERS)
    assert "premium" in caught.value.hint


def test_a_tiers_answer_is_clamped_to_what_is_sold() -> None:
    basic = tier_named("basic", TIERS)
    assert [tier_max_tokens(basic, asked) for asked in (None, 5, 1_000)] == [100, 5, 100]


def test_a_whole_answer_costs_its_tier_and_a_cut_one_its_share() -> None:
    basic = tier_named("basic", TIERS)
    assert tier_cost(basic, 3, is_whole=True) == 10_000
    assert [tier_cost(basic, ids, is_whole=False) for ids in (0, 1, 33, 100, 999)] == [
        0,
        100,
        3_300,
        10_000,
        10_000,
    ]


@pytest.mark.parametrize(
    ("usd", "micro"),
    [(None, 10**6), ("0.25", 250_000), ("1", 10**6), ("5.00", 5 * 10**6), ("20", 2 * 10**7)],
)
def test_topups_are_the_presets(usd: str | None, micro: int) -> None:
    assert topup_price(usd).amount_micro == micro


@pytest.mark.parametrize("usd", ["", "0", "2", "-1", "1e99999", "nan", "inf", "1" * 99, "１", "$1"])
def test_any_other_topup_is_refused_with_the_presets(usd: str) -> None:
    with pytest.raises(Problem) as caught:
        topup_price(usd)
    assert "0.25, 1, 5, 20" in caught.value.hint


def test_the_smallest_topup_that_is_enough_is_offered() -> None:
    told = [smallest_topup(missing).amount_micro for missing in (1, 250_001, 6 * 10**6, 10**9)]
    assert told == [250_000, 10**6, 2 * 10**7, 2 * 10**7]


def test_dollars_are_written_without_empty_zeros() -> None:
    assert [usd_text(micro) for micro in (5_680, 1_000, 250_000, 10**7)] == [
        "0.00568",
        "0.001",
        "0.25",
        "10",
    ]
