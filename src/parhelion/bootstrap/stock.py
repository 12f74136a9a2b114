"""The models of a pool and their first rates.

A rate is set when a model is new in an asset, and when the folder turns from a free pool into a
paid one or back; the settings' rates change nothing else, so what the owner set later stays.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from parhelion.config import MoneyConfig, pool_asset
from parhelion.models import Catalogue

PRICING_NAME = "pricing"
"""The file of the data folder that says `free` or `paid`: how the last start priced."""

File = tuple[str, Path]
"""A model's id and where it lies."""


async def stock(
    catalogue: Catalogue, money: MoneyConfig, data: Path, files: Sequence[File], *, free: bool
) -> None:
    """Enter the models at this pool's rates, and give all of them others if it has turned."""
    asset = pool_asset(money.asset_class)
    price = (0, 0) if free else (money.prompt_rate_micro, money.completion_rate_micro)
    now, before = "free" if free else "paid", _read(data / PRICING_NAME)
    if before is None:
        # Before any rate is set: a start that is cut here is still known for what it was.
        _write(data / PRICING_NAME, now)
    for known, path in files:
        await catalogue.add(known, path, rates={asset: price})
    if before not in (None, now):
        for model in catalogue.models():
            await _turn(catalogue, model.card.id, asset, price)
        # Last: a start that is cut before this turns the rest the next time.
        _write(data / PRICING_NAME, now)


async def _turn(catalogue: Catalogue, model: str, asset: str, price: tuple[int, int]) -> None:
    rate = next((rate for rate in catalogue.rates(model) if rate.asset == asset), None)
    if rate is None or (rate.prompt_micro, rate.completion_micro) == price:
        return
    await catalogue.set_rate(model, asset, prompt_micro=price[0], completion_micro=price[1])


def _read(path: Path) -> str | None:
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        return None


def _write(path: Path, word: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(f"{word}\n", "ascii")
    draft.replace(path)
