"""One answer told step by step from the ledger and the receipt; pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from parhelion.api.shapes import Explanation, ShareLine
from parhelion.ledger import GUEST, Entry, Explained, amount_text
from parhelion.words import Receipt

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
            f"{amount_text(rate.prompt_micro, asset)} for 1,000,000 prompt tokens, "
            f"{amount_text(rate.completion_micro, asset)} for 1,000,000 completion tokens "
            f"(version {rate.version})"
        ),
        tokens=f"{told.prompt_tokens} prompt + {told.completion_tokens} completion",
        cost=f"{amount_text(told.cost_micro, asset)}, rounded up once ({told.reason})",
        debit=(
            f"held {amount_text(hold.amount_micro, asset)} from {hold.account}, "
            f"charged {amount_text(told.cost_micro, asset)}, "
            f"returned {amount_text(told.returned_micro, asset)}"
        ),
        dispatch=_dispatch(receipt),
        share=tuple(
            f"{leg.role or leg.kind}: {amount_text(leg.amount_micro, leg.asset)} to {leg.credit}"
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


def _sources(told: Explained, history: Sequence[Entry]) -> tuple[str, ...]:
    if told.hold.account == GUEST:
        return ("none: this model is free here",)
    found = [
        f"{entry.kind} of {amount_text(entry.amount_micro, entry.asset)} on {_day(entry.at_ms)}"
        for entry in history
        if entry.kind in {"grant", "deposit"}
        and entry.asset == told.rate.asset
        and entry.at_ms <= told.opened_at_ms
    ]
    return tuple(found[:SOURCES_SHOWN]) or ("older than the latest 200 entries of the history",)


def _dispatch(receipt: Receipt) -> tuple[str, ...]:
    lines = [
        f"node {part.node}: {_ids(part.start, part.to)}, "
        + ("signed" if part.signature is not None else f"unsigned ({part.reason})")
        for part in receipt.segments
    ]
    return (f"route {receipt.route}, {receipt.migrations} migrations", *lines)


def _ids(start: int, to: int) -> str:
    """A segment is [start, to): 11 ids from the start are 0 to 10."""
    if to <= start:
        return "no output id"
    count = "1 output id" if to == start + 1 else f"{to - start} output ids"
    return f"{count} ({start} to {to - 1})"


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
