"""The models of a pool and their first rates.

A rate is set when a model is new in an asset, and when the folder turns from a free pool into a
paid one or back; the settings' rates change nothing else, so what the owner set later stays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from parhelion.config import MoneyConfig, pool_asset
from parhelion.models import Catalogue, Prices, Pricing

LOOSE_NAME = "pricing"
"""The file of the data folder that said `free` or `paid` before the database did."""

File = tuple[str, Path]
"""A model's id and where it lies."""


async def stock(
    catalogue: Catalogue,
    money: MoneyConfig,
    data: Path,
    files: Sequence[File],
    *,
    free: bool,
    sold_for: Prices | None = None,
) -> None:
    """Enter the models at this pool's rates, first of all, and reprice all if it has turned.

    `sold_for` has what they cost in other assets than the pool's own: those that payments come in.
    """
    own = (money.prompt_rate_micro, money.completion_rate_micro)
    asset = pool_asset(money.asset_class)
    prices = {asset: own, **(sold_for or {})}
    if free:
        prices = dict.fromkeys(prices, (0, 0))
    now: Pricing = "free" if free else "paid"
    before = catalogue.pricing or _loose(data) or _guessed(catalogue) or now
    if catalogue.pricing is None:
        # Before any rate is set: a start that is cut here is still known for what it was.
        await catalogue.turn(before, {})
    # Only now that the database says it: one that is left would speak for a time long past.
    (data / LOOSE_NAME).unlink(missing_ok=True)
    entered = [await catalogue.add(known, path, rates=prices) for known, path in files]
    catalogue.put_first([model.card.id for model in entered])
    if before != now:
        await catalogue.turn(now, prices)
    del prices[asset]
    await _price_all(catalogue, prices)


async def _price_all(catalogue: Catalogue, prices: Prices) -> None:
    """Rates for the models of earlier starts, where an asset has become one that is sold for."""
    for model in catalogue.models():
        has = {rate.asset for rate in catalogue.rates(model.card.id)}
        for asset, (prompt_micro, completion_micro) in prices.items():
            if asset not in has:
                await catalogue.set_rate(
                    model.card.id,
                    asset,
                    prompt_micro=prompt_micro,
                    completion_micro=completion_micro,
                )


def _loose(data: Path) -> Pricing | None:
    """What the file says, in a folder that was last started before the database said it."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return _pricing((data / LOOSE_NAME).read_text("ascii").strip())
    return None


def _pricing(word: str) -> Pricing | None:
    return "free" if word == "free" else "paid" if word == "paid" else None


def _guessed(catalogue: Catalogue) -> Pricing | None:
    """How a restored folder priced whose backup lost the file: free where nothing cost a thing.

    None for a new folder.
    """
    rates = [rate for model in catalogue.models() for rate in catalogue.rates(model.card.id)]
    if not rates:
        return None
    return "paid" if any(rate.prompt_micro or rate.completion_micro for rate in rates) else "free"
