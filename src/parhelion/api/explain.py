"""One answer told step by step from the ledger and the receipt; pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from parhelion.api.shapes import Explanation, ShareLine
from parhelion.ledger import GUEST, Entry, Explained
from parhelion.words import DECIMALS, Receipt

SOURCES_SHOWN = 5
"""The latest grants or deposits before the request; the history has them all."""


def explanation(receipt: Receipt, told: Explained, history: Sequence[Entry]) -> Explanation:
    """The nine steps of `receipt explain`, from where the credits came to who earned."""
    hold, rate, asset = told.hold, told.rate, told.rate.asset
    return Explanation(
        receipt=receipt.id,
        request=told.request,
        source=_sources(told, history),
        sign_in="guest: no key was needed" if hold.key is None else f"API key {hold.key}",
        prompt=f"{receipt.prompt_tokens} tokens, bound by prompt_hmac {receipt.prompt_hmac[:16]}…",
        rate=(
            f"{amount(rate.prompt_micro, asset)} for 1,000,000 prompt tokens, "
            f"{amount(rate.completion_micro, asset)} for 1,000,000 completion tokens "
            f"(version {rate.version})"
        ),
        tokens=f"{told.prompt_tokens} prompt + {told.completion_tokens} completion",
        cost=f"{amount(told.cost_micro, asset)}, rounded up once ({told.reason})",
        debit=(
            f"held {amount(hold.amount_micro, asset)} from {hold.account}, "
            f"charged {amount(told.cost_micro, asset)}, "
            f"returned {amount(told.returned_micro, asset)}"
        ),
        dispatch=_dispatch(receipt),
        share=tuple(
            f"{leg.role or leg.kind}: {amount(leg.amount_micro, leg.asset)} to {leg.credit}"
            for leg in told.transfers
            if leg.role is not None
        ),
        transfers=tuple(
            ShareLine(
                id=leg.id,
                at_ms=leg.at_ms,
                kind=leg.kind,
                role=leg.role,
                debit=leg.debit,
                credit=leg.credit,
                amount=str(leg.amount_micro),
                memo=leg.memo,
            )
            for leg in told.transfers
        ),
    )


def amount(micro: int, asset: str) -> str:
    """Base units as whole units of the asset, all decimals shown, exactly."""
    return f"{Decimal(micro).scaleb(-DECIMALS):f} {asset}"


def _sources(told: Explained, history: Sequence[Entry]) -> tuple[str, ...]:
    if told.hold.account == GUEST:
        return ("none: this model is free here",)
    found = [
        f"{entry.kind} of {amount(entry.amount_micro, entry.asset)} on {_day(entry.at_ms)}"
        for entry in history
        if entry.kind in {"grant", "deposit"}
        and entry.asset == told.rate.asset
        and entry.at_ms <= told.opened_at_ms
    ]
    return tuple(found[:SOURCES_SHOWN]) or ("older than the latest 200 entries of the history",)


def _dispatch(receipt: Receipt) -> tuple[str, ...]:
    lines = [
        f"node {part.node}: output ids {part.start} to {part.to}, "
        + ("signed" if part.signature is not None else f"unsigned ({part.reason})")
        for part in receipt.segments
    ]
    return (f"route {receipt.route}, {receipt.migrations} migrations", *lines)


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
