"""One answer told step by step from the ledger and the receipt, where there is one; pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from parhelion.api.shapes import Explanation, ShareLine
from parhelion.ledger import GUEST, Explained, HoldState, Transfer, amount_text, crew_of
from parhelion.words import Receipt, Segment, StageSegment

SOURCES_SHOWN = 5
"""The latest grants or deposits before the request; the history has them all."""


def explanation(
    told: Explained, receipt: Receipt | None, sources: Sequence[Transfer] | None
) -> Explanation:
    """The steps of `receipt explain`, from where the credits came to who earned.

    Without a receipt (the coordinator ended before it could sign one, or nothing was charged) the
    hold alone tells them. `sources` has one more than is shown, where there are more; None where
    whoever asks reads a part of the account only.
    """
    hold, rate, asset = told.hold, told.rate, told.rate.asset
    return Explanation(
        receipt=None if receipt is None else receipt.id,
        request=told.request,
        source=_sources(told, sources),
        sign_in="guest: no key was needed" if hold.key is None else f"API key {hold.key}",
        prompt=_prompt(told, receipt),
        rate=(
            f"{amount_text(rate.prompt_micro, asset)} for 1,000,000 prompt tokens, "
            f"{amount_text(rate.completion_micro, asset)} for 1,000,000 completion tokens "
            f"(version {rate.version})"
        ),
        tokens=f"{told.prompt_tokens} prompt + {told.completion_tokens} completion",
        cost=_cost(told),
        debit=_debit(told),
        dispatch=_journalled(told) if receipt is None else _dispatch(receipt),
        share=tuple(
            f"{leg.role or leg.kind}: {amount_text(leg.amount_micro, leg.asset)} to {leg.credit}"
            for leg in told.transfers
            if leg.role is not None
        ),
        proof=_proof(told, receipt),
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


def _sources(told: Explained, sources: Sequence[Transfer] | None) -> tuple[str, ...]:
    if told.hold.account == GUEST:
        return ("none: this model is free here",)
    if sources is None:
        return ("its account's credits: a key without a limit, or the wallet, sees where from",)
    found = [
        f"{leg.kind} of {amount_text(leg.amount_micro, leg.asset)} on {_day(leg.at_ms)}"
        for leg in sources
    ]
    if len(found) > SOURCES_SHOWN:
        return (*found[:SOURCES_SHOWN], "and earlier ones, which the history lists")
    return tuple(found) or (f"none of {told.rate.asset} before this request",)


def _prompt(told: Explained, receipt: Receipt | None) -> str:
    if receipt is None:
        return f"{told.prompt_tokens} tokens, bound by no receipt"
    return f"{receipt.prompt_tokens} tokens, bound by prompt_hmac {receipt.prompt_hmac[:16]}…"


def _cost(told: Explained) -> str:
    state = HoldState(told.hold.state)
    if state is HoldState.HELD:
        return "not known yet: the request is running"
    if state is not HoldState.POSTED:
        return f"nothing: the hold was {state} ({told.reason})"
    return f"{amount_text(told.cost_micro, told.rate.asset)}, rounded up once ({told.reason})"


def _debit(told: Explained) -> str:
    hold, asset = told.hold, told.rate.asset
    held = f"held {amount_text(hold.amount_micro, asset)} from {hold.account}"
    if hold.state == HoldState.HELD:
        return f"{held}, nothing charged or returned yet"
    return (
        f"{held}, charged {amount_text(told.cost_micro, asset)}, "
        f"returned {amount_text(told.returned_micro, asset)}"
    )


def _proof(told: Explained, receipt: Receipt | None) -> str:
    """What signs for all this; where nothing does, why not."""
    if receipt is not None:
        return f"{receipt.id}, signed by {receipt.coordinator}"
    state = HoldState(told.hold.state)
    if state is HoldState.HELD:
        return "none yet: the request is running"
    if state is not HoldState.POSTED:
        return "none: nothing was charged, so there was nothing to sign for"
    return (
        f"none: the coordinator could not end this request itself ({told.reason}); what its "
        "journal says was delivered was charged, and all above is told from the hold"
    )


def _journalled(told: Explained) -> tuple[str, ...]:
    """Who worked, as far as the journal came; nobody signed for it."""
    lines = tuple(
        f"node {' and '.join(_crew(part.operator))}: {_count(part.output_ids)} journalled, unsigned"
        for part in told.worked
    )
    return lines or ("no output id was journalled",)


def _dispatch(receipt: Receipt) -> tuple[str, ...]:
    lines = [
        f"node {part.node}{_layers(part)}: {_ids(part.start, part.to)}, "
        + ("signed" if part.signature is not None else f"unsigned ({part.reason})")
        for segment in receipt.segments
        for part in _parts(segment)
    ]
    return (f"route {receipt.route}, {receipt.migrations} migrations", *lines)


def _crew(operator: str) -> tuple[str, ...]:
    return tuple(account.removeprefix("node:") for account, _weight in crew_of(operator))


def _parts(segment: Segment) -> tuple[Segment | StageSegment, ...]:
    """Who signs for a stretch: its node, or every stage of its pipeline."""
    return (segment,) if segment.stages is msgspec.UNSET else segment.stages


def _layers(part: Segment | StageSegment) -> str:
    if isinstance(part, Segment):
        return ""
    return f" (layers {part.layers[0]} to {part.layers[1] - 1})"


def _ids(start: int, to: int) -> str:
    """A segment is [start, to): 11 ids from the start are 0 to 10."""
    if to <= start:
        return "no output id"
    return f"{_count(to - start)} ({start} to {to - 1})"


def _count(ids: int) -> str:
    return "1 output id" if ids == 1 else f"{ids} output ids"


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
