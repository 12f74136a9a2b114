"""What is sold and for how much: pure functions of the request, at list rate, in base units."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

import msgspec

from parhelion.ledger import most_tokens, price
from parhelion.payments.rules import check_tier
from parhelion.words import DECIMALS, Problem, ProblemCode, Rate, Record, Tier

TIERS = (
    Tier(name="basic", price_micro=10_000, max_tokens=100, max_prompt_tokens=1000),
    Tier(name="standard", price_micro=50_000, max_tokens=256, max_prompt_tokens=2000),
    Tier(name="premium", price_micro=250_000, max_tokens=512, max_prompt_tokens=4000),
)
"""What is sold at a fixed price where the settings name no tiers."""

TOPUPS_MICRO = (250_000, 1_000_000, 5_000_000, 20_000_000)
"""$0.25, $1, $5 and $20: four choices are read at a glance, and a slip costs no $2,000."""

TOPUP_MICRO = 1_000_000
"""What `POST /v1/credits/topup` sells when no amount is named: the most that stock clients pay."""

STOCK_LIMIT_MICRO = 1_000_000
"""Stock x402 clients refuse a payment above $1 unless they are told otherwise."""

USD_SHOWN_CHARS = 16
"""So much of what was no amount is said again."""

_USD = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")


class Price(Record, frozen=True, kw_only=True):
    """What one payment costs and buys; `fits` is the `max_tokens` that stock clients would pay.

    `fits` is None where the price is within their limit, or where no answer would be. `terms` is
    what a tier's price buys: a payment for other terms is none for these, whatever the amount.
    """

    kind: Literal["request", "tier", "topup"]
    amount_micro: int
    words: str
    fits: int | None = None
    terms: str = ""

    @property
    def is_above_stock_limit(self) -> bool:
        """Whether stock clients refuse to pay it."""
        return self.amount_micro > STOCK_LIMIT_MICRO


def request_price(rate: Rate, prompt_tokens: int, max_tokens: int, min_charge_micro: int) -> Price:
    """The price of one request: all it can cost, and at least the smallest charge."""
    worst_micro = price(rate, prompt_tokens, max_tokens)
    amount_micro = max(worst_micro, min_charge_micro)
    fits = None
    if amount_micro > STOCK_LIMIT_MICRO:
        most = most_tokens(rate, prompt_tokens, STOCK_LIMIT_MICRO)
        fits = most if most is not None and most > 0 else None
    return Price(
        kind="request",
        amount_micro=amount_micro,
        words=f"{prompt_tokens} prompt tokens and up to {max_tokens} tokens of {rate.model}",
        fits=fits,
    )


def shelf(named: Sequence[Tier], *, private: bool) -> tuple[Tier, ...]:
    """What a pool sells at a fixed price: nothing where it is private, else the tiers it names."""
    return () if private else tuple(named) or TIERS


def as_sold(tier: Tier, model: str) -> Tier:
    """A tier with the model that answers, for what is sold keeps it when the default changes."""
    return msgspec.structs.replace(tier, model=model)


def tier_named(name: str, tiers: Sequence[Tier]) -> Tier:
    """The tier of this name; Problem NOT_FOUND that lists them."""
    for tier in tiers:
        if tier.name == name:
            return tier
    raise Problem(
        ProblemCode.NOT_FOUND,
        f"no tier {name[:32]!r}",
        hint=f"the tiers are {', '.join(tier.name for tier in tiers)}"
        if tiers
        else "this pool sells none: leave it out",
        param="tier",
    )


def tier_price(tier: Tier, prompt_tokens: int) -> Price:
    """The price of one answer of a tier as it is sold; Problem where the prompt is too long.

    Said before payment.
    """
    check_tier(tier, prompt_tokens)
    return Price(
        kind="tier",
        amount_micro=tier.price_micro,
        words=f"one {tier.name} answer of up to {tier.max_tokens} tokens",
        terms=_terms(tier),
    )


def topup_price(usd: str | None) -> Price:
    """The price of credits: a preset amount in dollars; Problem INVALID_REQUEST for any other."""
    amount_micro = TOPUP_MICRO if usd is None else _micro_of(usd)
    if amount_micro not in TOPUPS_MICRO:
        presets = ", ".join(usd_text(each) for each in TOPUPS_MICRO)
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            f"no top-up of {(usd or '')[:USD_SHOWN_CHARS]!r} dollars",
            hint=f"usd is one of {presets}",
            param="usd",
        )
    return Price(
        kind="topup", amount_micro=amount_micro, words=f"${usd_text(amount_micro)} of credits"
    )


def smallest_topup(missing_micro: int) -> Price:
    """The smallest top-up that brings at least what is missing; the largest where none does."""
    enough = [each for each in TOPUPS_MICRO if each >= missing_micro] or [max(TOPUPS_MICRO)]
    return topup_price(usd_text(min(enough)))


def usd_text(amount_micro: int) -> str:
    """Base units as dollars, without zeros that say nothing: `0.25`, `1`, `0.00568`."""
    text = f"{Decimal(amount_micro).scaleb(-DECIMALS):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _terms(tier: Tier) -> str:
    """What one answer of a tier is, in words that are the same for the same terms alone."""
    words = (
        tier.name,
        f"{tier.max_tokens} tokens",
        f"prompt {tier.max_prompt_tokens}",
        tier.model,
        "" if tier.temperature is None else f"temperature {tier.temperature}",
    )
    return ", ".join(word for word in words if word)


def _micro_of(usd: str) -> int:
    """Dollars as base units; -1 for what is no such amount."""
    return int(Decimal(usd).scaleb(DECIMALS)) if _USD.fullmatch(usd) else -1
