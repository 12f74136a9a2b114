"""GET /v1/credits/*: what an account has, and every entry that made it; by key or session."""

from __future__ import annotations

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope

from parhelion.api.parse import invalid
from parhelion.api.payer import payer_of
from parhelion.api.rooms import Rooms, query_of
from parhelion.api.shapes import BalanceBody, EntryBody, History
from parhelion.api.wire import json_reply
from parhelion.ledger import Entry
from parhelion.payments.part import balance_of
from parhelion.payments.rules import LANDED_MEMO
from parhelion.words import DECIMALS

PAGE_LIMIT = 199
"""One less than the ledger's own page, so that one more entry tells whether there is a next."""

PAGE_DEFAULT = 50


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The routes of an account's money."""

    @get("/v1/credits/balance", name="credits.balance")
    async def balance(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        payer = await payer_of(scope, rooms)
        found = await balance_of(payer, rooms.ledger, rooms.keys)
        return json_reply(
            BalanceBody(
                account=payer.account,
                asset=payer.asset,
                decimals=DECIMALS,
                available=str(found.available_micro),
                held=str(found.held_micro),
            )
        )

    @get("/v1/credits/history", name="credits.history")
    async def history(scope: Scope) -> ASGIApp:
        payer = await payer_of(scope, rooms)
        query = query_of(scope, ("limit", "before"))
        limit = _limit(query.get("limit"))
        before = query.get("before")
        found = await rooms.ledger.history(
            payer.account, limit=limit + 1, before=before, key=payer.reads_key
        )
        page, more = found[:limit], len(found) > limit
        return json_reply(
            History(
                data=tuple(_entry(entry) for entry in page),
                has_more=more,
                next=page[-1].id if more else None,
            )
        )

    return [balance, history]


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE_DEFAULT
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= PAGE_LIMIT):
        raise invalid("limit", f"expected an integer from 1 to {PAGE_LIMIT}.")
    return int(text)


def _entry(entry: Entry) -> EntryBody:
    # What stands outside is `network:address`; only a CAIP-2 id has colons of its own.
    network, landed = None, None
    if entry.outside is not None and entry.memo.startswith(LANDED_MEMO):
        network = entry.outside.rpartition(":")[0]
        landed = entry.memo.removeprefix(LANDED_MEMO)
    return EntryBody(
        id=entry.id,
        at_ms=entry.at_ms,
        kind=entry.kind,
        asset=entry.asset,
        amount=str(entry.amount_micro),
        available=str(entry.available_micro),
        held=str(entry.held_micro),
        request=entry.request,
        memo=entry.memo,
        network=network,
        transaction=landed,
    )
