"""The JSON of the set-up: what a pool is, what it still lacks, and what its owner may choose."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from parhelion.api.admin import Micro, ModelId, NewRate
from parhelion.api.bodies import Closed, form
from parhelion.api.shapes import Amount, Out, RateBody
from parhelion.config import TEMPERATURE_LIMIT, TIER_NAME, TIER_TOKENS_LIMIT, TIERS_LIMIT
from parhelion.setup import NODES_LIMIT

Tokens = Annotated[int, Meta(ge=1, le=TIER_TOKENS_LIMIT)]


class TierBody(Out, frozen=True, kw_only=True):
    """One answer at a fixed price; `model` null means the pool's default."""

    name: str
    asset: str
    price: Amount
    max_tokens: int
    max_prompt_tokens: int
    model: str | None
    temperature: float | None


class SetupBody(Out, frozen=True, kw_only=True):
    """What this pool is, and what is missing until it serves, in lines for a person.

    `private`: it costs nothing and needs no key. `paid`: payments on networks are taken. `rates`
    are the default model's, `tiers` what is sold now. `nodes_joined` are ready ones.
    `next_start` says what was chosen and holds from the next start on. `next_tiers` are the tiers
    that are not sold now and will be: from the next start on, or of a private pool that is paid on
    networks as soon as it is made paid; null where there are none. It and `join`, the command for
    another machine, are for the admin key alone.
    """

    model: str | None
    models: tuple[str, ...]
    nodes_wanted: int
    nodes_joined: int
    missing: tuple[str, ...]
    paid: bool
    private: bool
    tiers: tuple[TierBody, ...]
    rates: tuple[RateBody, ...]
    next_start: tuple[str, ...]
    next_tiers: tuple[TierBody, ...] | None
    join: str | None
    peer: str


class NewTier(Closed, frozen=True, kw_only=True):
    """An answer at a fixed price in base units of USDC; its routes begin with its name."""

    name: Annotated[str, form(TIER_NAME, "small letters, digits and -, a letter first")]
    price: Micro
    max_tokens: Tokens
    max_prompt_tokens: Tokens
    model: ModelId | None = None
    temperature: Annotated[float, Meta(ge=0, le=TEMPERATURE_LIMIT)] | None = None


class NewSetup(Closed, frozen=True, kw_only=True):
    """What the pool is to be: its default model, how many nodes it waits for, whether it is free.

    `rates` are the model's, in the assets that are named. `tiers` are all that is to be sold at a
    fixed price, at once where payments on networks are taken; without it they stay.
    """

    model: ModelId
    nodes: Annotated[int, Meta(ge=1, le=NODES_LIMIT)]
    private: bool
    rates: Annotated[list[NewRate], Meta(max_length=8)] | None = None
    tiers: Annotated[list[NewTier], Meta(min_length=1, max_length=TIERS_LIMIT)] | None = None
