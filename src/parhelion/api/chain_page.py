"""A transaction as a page for people: everything in it is escaped, and nothing in it runs."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from html import escape

from parhelion.api.chain_shapes import ChangeBody, TransactionBody
from parhelion.api.page import framed
from parhelion.words import DECIMALS


def page(body: TransactionBody) -> bytes:
    """The whole page."""
    rows = [
        ("network", f"{body.network} {'LOCAL: play money' if body.local else ''}"),
        ("transaction", body.id),
        ("status", body.status),
        ("block", body.block),
        ("time", None if body.at_ms is None else _utc(body.at_ms)),
        ("error", body.error),
        ("fee", None if body.fee is None else f"{body.fee} {body.fee_unit}"),
        ("fee paid by", body.fee_payer),
    ]
    facts = "".join(_row("th", "td", name, value) for name, value in rows if value is not None)
    moved = "".join(
        _row("td", "td", change.owner or change.account or "", _gain(change))
        for change in body.changes
    )
    more = f"<p>and {body.omitted} more</p>" if body.omitted else ""
    label = "LOCAL: " if body.local else ""
    return framed(
        f"{label}transaction",
        f"<table>{facts}</table>\n<h2>Who gained what</h2>\n<table>{moved}</table>{more}\n"
        '<p><a href="/account">Back to the account</a></p>',
        f"{label}A transaction, read from the chain",
    )


def _utc(at_ms: int) -> str:
    try:
        return datetime.fromtimestamp(at_ms // 1000, UTC).isoformat(" ")
    except (OverflowError, ValueError, OSError):
        # A chain may say any number.
        return f"{at_ms} ms"


def _gain(change: ChangeBody) -> str:
    """In whole tokens of what we are paid in; of another token we know no decimals."""
    if change.symbol is None:
        return f"{change.amount} base units of {change.asset}"
    whole = Decimal(change.amount).scaleb(-DECIMALS)
    return f"{whole:+f} {change.symbol} ({change.amount} base units of {change.asset})"


def _row(first: str, second: str, name: object, value: object) -> str:
    told = (escape(str(name)), escape(str(value)))
    return f"<tr><{first}>{told[0]}</{first}><{second}>{told[1]}</{second}></tr>\n"
