"""What an answer at a fixed price comes to: all of it when whole, its share when cut; pure."""

from __future__ import annotations

from parhelion.words import TOKENS_PER_RATE, Rate, Tier

VERSION = 0
"""Of a tier's rate: rates of the catalogue begin at 1."""

PREFILL_PERCENT = 10
"""Of its price, for the prompt of an answer that its client left: who leaves at once would have
prefills for nothing, as often as he likes. Of the longest prompt a prefill takes some hundredths of
the whole answer's time on a GPU and up to half of it on a CPU; this is nearer to the former."""


def tier_max_tokens(tier: Tier, asked: int | None) -> int:
    """How long an answer of the tier may be: what was asked for, clamped to what is sold."""
    return tier.max_tokens if asked is None else max(1, min(asked, tier.max_tokens))


def tier_rate(tier: Tier, model: str, asset: str) -> Rate:
    """A tier as a rate, which bills a cut answer by its share: the price over all its tokens."""
    rate_micro = _rate_micro(tier)
    return Rate(
        model=model, asset=asset, version=VERSION, prompt_micro=0, completion_micro=rate_micro
    )


def tier_cost(
    tier: Tier, tokens: int, *, is_whole: bool, was_left: bool = False, already_billed: int = 0
) -> int:
    """What an answer of `tokens` comes to, less the share that an earlier, cut run was billed.

    `was_left`: its client went away after its prompt was begun. Where we lost it, it is its share.
    """
    cost_micro = tier.price_micro if is_whole else tier_share(tier, tokens)
    if was_left:
        cost_micro = max(cost_micro, -(-tier.price_micro * PREFILL_PERCENT // 100))
    return cost_micro - tier_share(tier, already_billed)


def tier_share(tier: Tier, tokens: int) -> int:
    """The part of a tier's price that so many tokens are, to the unit what its rate bills.

    Recovery knows the rate alone.
    """
    return min(tier.price_micro, -(-_rate_micro(tier) * tokens // TOKENS_PER_RATE))


def _rate_micro(tier: Tier) -> int:
    return -(-tier.price_micro * TOKENS_PER_RATE // tier.max_tokens)
