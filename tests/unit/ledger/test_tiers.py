"""A fixed price and its shares: never more than the price, never the whole of it for a part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.ledger import price, tier_cost, tier_max_tokens, tier_rate
from parhelion.words import Tier

tiers = st.builds(
    Tier,
    name=st.just("t"),
    price_micro=st.integers(1, 10**9),
    max_tokens=st.integers(1, 100_000),
    max_prompt_tokens=st.just(1000),
)


@given(tier=tiers, tokens=st.integers(0, 200_000))
def test_a_cut_answer_costs_its_share_and_at_most_the_price(tier: Tier, tokens: int) -> None:
    cost = tier_cost(tier, tokens, is_whole=False)
    assert 0 <= cost <= tier.price_micro
    assert (cost == 0) == (tokens == 0)
    # Rounded up once: less than a base unit above the exact share.
    exact = tier.price_micro * min(tokens, tier.max_tokens)
    assert 0 <= cost * tier.max_tokens - exact < tier.max_tokens


@given(tier=tiers, tokens=st.integers(0, 200_000))
def test_a_whole_answer_costs_the_price_however_short(tier: Tier, tokens: int) -> None:
    assert tier_cost(tier, tokens, is_whole=True) == tier.price_micro


@given(
    tier=tiers, billed=st.integers(0, 100_000), more=st.integers(0, 100_000), whole=st.booleans()
)
def test_a_cut_run_and_its_rerun_cost_what_one_run_would_have(
    tier: Tier, billed: int, more: int, whole: bool
) -> None:
    first = tier_cost(tier, billed, is_whole=False)
    rest = tier_cost(tier, billed + more, is_whole=whole, already_billed=billed)
    assert first + rest == tier_cost(tier, billed + more, is_whole=whole)
    assert rest >= 0


@given(tier=tiers, tokens=st.integers(0, 100_000), billed=st.integers(0, 100_000))
def test_whoever_leaves_pays_for_the_prompt_at_least(tier: Tier, tokens: int, billed: int) -> None:
    left = tier_cost(tier, tokens, is_whole=False, was_left=True)
    share = tier_cost(tier, tokens, is_whole=False)
    assert left == max(share, -(-tier.price_micro // 10)) <= tier.price_micro
    # After a run that we lost, and billed by its share, no token of it is billed again.
    billed = min(billed, tokens)
    rest = tier_cost(tier, tokens, is_whole=False, was_left=True, already_billed=billed)
    assert rest + tier_cost(tier, billed, is_whole=False) == left and rest >= 0


@given(tier=tiers, tokens=st.integers(0, 100_000))
def test_the_rate_bills_a_crash_by_the_share_to_the_unit_a_token(tier: Tier, tokens: int) -> None:
    """Recovery knows a hold's rate and no tier: it may never bill less than the share."""
    rate = tier_rate(tier, "m", "USDC.local")
    share = tier_cost(tier, tokens, is_whole=False)
    by_rate = min(tier.price_micro, price(rate, 7, tokens))
    assert share <= by_rate <= share + 1
    assert rate.prompt_micro == 0


@pytest.mark.parametrize(
    ("asked", "sold"), [(None, 16), (1, 1), (16, 16), (17, 16), (10**9, 16), (0, 1), (-5, 1)]
)
def test_no_more_is_asked_of_an_engine_than_is_sold(asked: int | None, sold: int) -> None:
    tier = Tier(name="cool", price_micro=3000, max_tokens=16, max_prompt_tokens=50)
    assert tier_max_tokens(tier, asked) == sold
