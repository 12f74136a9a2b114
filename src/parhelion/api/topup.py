"""POST /v1/credits/topup: credits for a key's or a wallet's account, paid by x402."""

from __future__ import annotations

from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope

from parhelion.api.exchange import NO_RETRY, PAYMENT, credentials_of
from parhelion.api.paying import response
from parhelion.api.rooms import Rooms, query_of
from parhelion.api.shapes import BalanceBody, TopupBody
from parhelion.api.wire import json_reply, visit_of
from parhelion.words import DECIMALS, Problem, ProblemCode


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The route; without a payment network it says that nothing is sold here."""

    @post("/v1/credits/topup", name="credits.topup", status_code=200)
    async def topup(scope: Scope) -> ASGIApp:
        usd = query_of(scope, ("usd",)).get("usd")
        if rooms.till is None:
            raise nothing_is_sold()
        visit = visit_of(scope)
        if PAYMENT in visit.fields:
            visit.headers.append(NO_RETRY)
        bought = await rooms.till.topup(usd, credentials_of(scope), visit.request)
        balance = bought.balance
        visit.headers.append(response(bought.bought))
        return json_reply(
            TopupBody(
                credited=str(bought.bought.amount_micro),
                transaction=bought.bought.transaction,
                network=bought.bought.network,
                balance=BalanceBody(
                    account=balance.account,
                    asset=balance.asset,
                    decimals=DECIMALS,
                    available=str(balance.available_micro),
                    held=str(balance.held_micro),
                ),
                key=bought.key,
                expires_at_ms=bought.expires_at_ms,
                custody=rooms.till.custody,
            )
        )

    return [topup]


def nothing_is_sold() -> Problem:
    """404 of what only a payment network can buy."""
    return Problem(
        ProblemCode.NOT_FOUND,
        "nothing is sold here: this pool takes no payments",
        hint="the operator names networks in [[x402.networks]]; keys are made by hand until then",
    )
