"""Rows of the ledger's tables as records; pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from parhelion.ledger.records import AssetTotals, Balance, Entry, Explained, OpenHold, Transfer
from parhelion.ledger.rules import MIRROR, HoldState, Worked
from parhelion.store import Row
from parhelion.words import Hold, Problem, ProblemCode, Rate

_NEWEST = (2**62, 9, "")
"""A place after every entry there can be."""

_decode_rate = msgspec.json.Decoder(Rate).decode
_decode_earlier = msgspec.json.Decoder(list[tuple[str, int]]).decode


class HoldRow(NamedTuple):
    """A row of `holds`, its first columns as the Hold that other rooms know."""

    hold: Hold
    request: str
    rate: Rate
    prompt_tokens: int
    completion_tokens: int
    operator: str | None
    earlier: tuple[tuple[str, int], ...]
    cost_micro: int
    reason: str
    opened_at_ms: int
    closed_at_ms: int | None


def hold_row(row: Row) -> HoldRow:
    """The row as it is stored (see `sql.GET_HOLD` for the order of its columns)."""
    hold: Any = row[:9]
    rest: Any = row[9:]
    names = Hold.__struct_fields__
    request, rate, prompt_tokens, completion_tokens, operator, earlier, *end = rest
    return HoldRow(
        Hold(**dict(zip(names, hold, strict=True))),
        request,
        _decode_rate(rate),
        prompt_tokens,
        completion_tokens,
        operator,
        tuple(_decode_earlier(earlier)),
        *end,
    )


def open_hold(row: HoldRow) -> OpenHold:
    """What recovery needs of a hold that is still open."""
    return OpenHold(
        hold=row.hold,
        request=row.request,
        rate=row.rate,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        operator=row.operator,
        worked=_worked(row),
    )


def explained(row: HoldRow, legs: Sequence[Row]) -> Explained:
    """One request's hold, cost and transfers."""
    returned_micro = 0
    if row.hold.state != HoldState.HELD:
        returned_micro = row.hold.amount_micro - row.cost_micro
    return Explained(
        request=row.request,
        hold=row.hold,
        rate=row.rate,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        cost_micro=row.cost_micro,
        returned_micro=returned_micro,
        opened_at_ms=row.opened_at_ms,
        closed_at_ms=row.closed_at_ms,
        reason=row.reason,
        operator=row.operator,
        worked=_worked(row),
        transfers=tuple(transfer([leg]) for leg in legs),
    )


def balance(row: Row) -> Balance:
    """An account's balance of one asset."""
    values: Any = row
    account, asset, available_micro, held_micro = values
    return Balance(
        account=account, asset=asset, available_micro=available_micro, held_micro=held_micro
    )


def transfer(rows: Sequence[Row]) -> Transfer:
    """The one transfer among `rows`."""
    values: Any = rows[0]
    return Transfer(**dict(zip(Transfer.__struct_fields__, values, strict=True)))


def entry(row: Row) -> Entry:
    """A line of a history; its id says where it stands: time, place in that moment, row."""
    values: Any = row
    id, at_ms, kind, place, asset, amount_micro, available_micro, held_micro, *rest = values
    request, memo, outside = rest
    return Entry(
        id=f"{at_ms}-{place}-{id}",
        at_ms=at_ms,
        kind=kind,
        asset=asset,
        amount_micro=amount_micro,
        available_micro=available_micro,
        held_micro=held_micro,
        request=request,
        memo=memo,
        outside=None if outside is None else str(outside).removeprefix(MIRROR),
    )


def cursor(before: str | None) -> tuple[int, int, str]:
    """Where the page before that entry begins; Problem INVALID_REQUEST if it is no entry's id."""
    if before is None:
        return _NEWEST
    at_ms, _, rest = before.partition("-")
    place, dash, id = rest.partition("-")
    # 18 digits stay inside SQLite's 64 bits.
    if not (dash and _is_number(at_ms, 18) and _is_number(place, 1)):
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            "no entry has that id",
            hint="send `next` of the page before, as it came",
            param="before",
        )
    return int(at_ms), int(place), id


def _is_number(text: str, most_digits: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= most_digits


def _worked(row: HoldRow) -> tuple[Worked, ...]:
    """Ids delivered by each attempt's operator: how far each came past the one before it."""
    ends = [("", 0), *row.earlier]
    if row.operator is not None:
        ends.append((row.operator, row.hold.accepted_ids))
    return tuple(
        Worked(operator=operator, output_ids=end - start)
        for (_, start), (operator, end) in pairwise(ends)
        if end > start
    )


def asset_totals(row: Row) -> AssetTotals:
    """A row of `sql.TOTALS`."""
    return msgspec.convert(dict(zip(AssetTotals.__struct_fields__, row, strict=True)), AssetTotals)
