"""The arithmetic and the states of money; pure."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Literal

from parhelion.words import (
    DECIMALS,
    TOKENS_PER_RATE,
    AssetClass,
    Problem,
    ProblemCode,
    Rate,
    Record,
)

TREASURY = "treasury"
INFRASTRUCTURE = "infrastructure"
ISSUANCE = "issuance"
GUEST = "guest"
MIRROR = "chain:"
"""Before the name of a place outside: accounts that mirror what lies there."""

REQUEST = "req_"
"""Holds of requests: their coordinator closes them, and recovery what a crash left of them. Holds
with other prefixes are closed by whoever took them, or run out."""

WITHDRAWAL = "wd_"
"""Holds of withdrawals: they never run out, for a transaction that was sent may still land."""

NEVER_MS = 2**53
"""When a hold runs out that does not."""

LARGEST_AMOUNT_MICRO = 2**53
"""Nine billion whole tokens in one move: exact in every JSON reader; 64 bits hold 1,023 of it."""

PERCENT = 100


class HoldState(StrEnum):
    """Where a hold stands; all but HELD are final."""

    HELD = "held"
    POSTED = "posted"
    VOIDED = "voided"
    EXPIRED = "expired"


class HoldEvent(StrEnum):
    """What can happen to a hold."""

    POST = "post"
    VOID = "void"
    EXPIRE = "expire"


_AFTER = {
    HoldEvent.POST: HoldState.POSTED,
    HoldEvent.VOID: HoldState.VOIDED,
    HoldEvent.EXPIRE: HoldState.EXPIRED,
}


def next_state(state: HoldState, event: HoldEvent) -> HoldState:
    """Where `event` takes a hold; the same event again stays there, any other is a Problem."""
    after = _AFTER[event]
    if state in (HoldState.HELD, after):
        return after
    raise Problem(ProblemCode.CONFLICT, f"a hold that is {state} cannot {event}")


class Shares(Record, frozen=True, kw_only=True):
    """How a cost is divided; the three are whole percents and add up to 100."""

    operators_percent: int
    treasury_percent: int
    infrastructure_percent: int

    def __post_init__(self) -> None:
        parts = (self.operators_percent, self.treasury_percent, self.infrastructure_percent)
        if min(parts) < 0 or sum(parts) != PERCENT:
            raise ValueError(f"shares {parts} are not percents that add up to {PERCENT}")


class Worked(Record, frozen=True, kw_only=True):
    """Who delivered how many of the accepted output ids; `operator` may be a `crew`."""

    operator: str
    output_ids: int


class Leg(Record, frozen=True, kw_only=True):
    """One part of a cost and the account it goes to."""

    account: str
    amount_micro: int
    role: Literal["operator", "treasury", "infrastructure"]


class Bill(Record, frozen=True, kw_only=True):
    """What a request came to: counts, cost, who gets it, and why it ended."""

    prompt_tokens: int
    completion_tokens: int
    cost_micro: int
    legs: tuple[Leg, ...]
    reason: str


def price(rate: Rate, prompt_tokens: int, completion_tokens: int) -> int:
    """The cost in base units: rounded up, once, over prompt and completion together."""
    if prompt_tokens < 0 or completion_tokens < 0:
        raise ValueError("token counts are never negative")
    exact = prompt_tokens * rate.prompt_micro + completion_tokens * rate.completion_micro
    return -(-exact // TOKENS_PER_RATE)


def most_tokens(rate: Rate, prompt_tokens: int, amount_micro: int) -> int | None:
    """The most completion tokens that the amount pays for after the prompt; None: any number.

    Below 0 where it does not even pay for the prompt.
    """
    left = amount_micro * TOKENS_PER_RATE - prompt_tokens * rate.prompt_micro
    if rate.completion_micro == 0:
        return None if left >= 0 else -1
    return left // rate.completion_micro


def crew(weights: Sequence[tuple[str, int]]) -> str:
    """The operators of a pipeline in one text, each with the weight of its part: `a*120+b*80`."""
    if not weights or any(weight < 0 for _, weight in weights):
        raise ValueError("a crew has members, and no weight is negative")
    if not any(weight for _, weight in weights):
        weights = [(operator, 1) for operator, _ in weights]
    return "+".join(f"{operator}*{weight}" for operator, weight in weights)


def crew_of(operator: str) -> tuple[tuple[str, int], ...]:
    """Who is behind the operator of a Worked, each with a weight; ValueError for no such text."""
    if "*" not in operator:
        return ((operator, 1),)
    members: list[tuple[str, int]] = []
    for part in operator.split("+"):
        account, star, weight = part.rpartition("*")
        if not (account and star and weight.isascii() and weight.isdigit()):
            raise ValueError(f"{operator!r} names no crew")
        members.append((account, int(weight)))
    return tuple(members)


def split(cost_micro: int, shares: Shares, worked: Sequence[Worked]) -> tuple[Leg, ...]:
    """Who gets how much of a cost: every share is rounded down, the treasury takes the rest.

    The operators' share goes by output ids delivered, those of a crew by its weights; where none
    were (a prompt that made no output, our own fallback engine) it stays in the treasury. Legs of
    nothing are left out.
    """
    if cost_micro < 0 or any(part.output_ids < 0 for part in worked):
        raise ValueError("neither a cost nor a count of ids is negative")
    for_operators = cost_micro * shares.operators_percent // PERCENT
    infrastructure = cost_micro * shares.infrastructure_percent // PERCENT
    ids_by_operator: dict[str, int | Fraction] = {}
    for part in worked:
        for operator, ids in _dealt(part):
            ids_by_operator[operator] = ids_by_operator.get(operator, 0) + ids
    delivered = sum(part.output_ids for part in worked)
    legs = [
        Leg(account=operator, amount_micro=for_operators * ids // delivered, role="operator")
        for operator, ids in ids_by_operator.items()
        if ids
    ]
    legs.append(Leg(account=INFRASTRUCTURE, amount_micro=infrastructure, role="infrastructure"))
    rest = cost_micro - sum(leg.amount_micro for leg in legs)
    legs.append(Leg(account=TREASURY, amount_micro=rest, role="treasury"))
    return tuple(leg for leg in legs if leg.amount_micro)


def _dealt(part: Worked) -> Sequence[tuple[str, int | Fraction]]:
    """The ids of one part, each operator's own."""
    members = crew_of(part.operator)
    if len(members) == 1:
        return ((members[0][0], part.output_ids),)
    whole = sum(weight for _, weight in members)
    return [(operator, Fraction(part.output_ids * weight, whole)) for operator, weight in members]


def amount_text(amount_micro: int, asset: str) -> str:
    """Base units as whole units of the asset, all decimals shown, exactly."""
    return f"{Decimal(amount_micro).scaleb(-DECIMALS):f} {asset}"


def class_of(asset: str) -> AssetClass:
    """The class of money an asset is: `PRLX.local`, `USDC.test`, or plain `USDC` for main."""
    _, _, suffix = asset.partition(".")
    return AssetClass(suffix) if suffix else AssetClass.MAIN
