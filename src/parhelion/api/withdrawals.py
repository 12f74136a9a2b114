"""POST /v1/credits/withdraw: available balance back to the wallet that paid; by key or session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope
from msgspec import Meta

from parhelion.api.admin import ID_LIMIT_CHARS, Micro
from parhelion.api.bodies import Closed
from parhelion.api.parse import body_hash, decode
from parhelion.api.payer import payer_of
from parhelion.api.rooms import Rooms, path_field, query_of
from parhelion.api.shapes import WithdrawalBody
from parhelion.api.topup import nothing_is_sold
from parhelion.api.wire import json_reply, read_body, visit_of
from parhelion.payments import check_idempotency_key
from parhelion.payments.rules import Payer
from parhelion.words import DECIMALS, Problem, ProblemCode

if TYPE_CHECKING:
    # A coordinator with keys alone never imports payments.x402.
    from parhelion.payments.x402.withdrawal_rows import Withdrawal
    from parhelion.payments.x402.withdrawals import Withdrawals

BODY_LIMIT_BYTES = 4 * 1024
"""An amount, a network and an address."""

ROUTE = "/v1/credits/withdraw"

Place = Annotated[str, Meta(min_length=1, max_length=ID_LIMIT_CHARS)]


class Withdraw(Closed, frozen=True, kw_only=True):
    """What to send back; by default all that is available, to the wallet that paid last."""

    amount: Micro | None = None
    network: Place | None = None
    to: Place | None = None


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The routes; without the key of a payee they say that nothing is sent from here."""

    @post(ROUTE, name="credits.withdraw", status_code=200)
    async def withdraw(request: Request[Any, Any, Any]) -> ASGIApp:
        query_of(request.scope, ())
        payer = await payer_of(request.scope, rooms)
        desk = _desk(rooms)
        _check_asset(payer, rooms)
        data = await read_body(request.scope, request.receive, BODY_LIMIT_BYTES)
        asked = decode(msgspec.json.Decoder(Withdraw), data)
        key = visit_of(request.scope).fields.get(b"idempotency-key")
        found = await desk.request(
            payer.account,
            key=payer.key,
            amount_micro=None if asked.amount is None else int(asked.amount),
            network=asked.network,
            to=asked.to,
            idempotency_key=None if key is None else check_idempotency_key(key.decode("latin-1")),
            body_hash=body_hash(ROUTE, data),
        )
        if found.refusal is not None:
            raise found.refusal
        return json_reply(_shown(found), 200 if found.is_final else 202)

    @get("/v1/credits/withdrawals/{id:str}", name="credits.withdrawal")
    async def withdrawal(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        payer = await payer_of(scope, rooms)
        desk = _desk(rooms)
        id = path_field(scope, "id")
        return json_reply(_shown(await desk.find(id, payer.account, key=payer.reads_key)))

    return [withdraw, withdrawal]


def _desk(rooms: Rooms) -> Withdrawals:
    if rooms.shop is None:
        raise nothing_is_sold()
    if rooms.shop.withdrawals is None:
        raise Problem(
            ProblemCode.NOT_FOUND,
            "This pool sends nothing back by itself: it has no key of the address that is paid.",
            hint="ask its operator, who names the key as pay_to_key_file in [[x402.networks]]",
        )
    return rooms.shop.withdrawals


def _shown(found: Withdrawal) -> WithdrawalBody:
    return WithdrawalBody(
        id=found.id,
        state=found.state.value,
        amount=str(found.amount_micro),
        asset=found.asset,
        decimals=DECIMALS,
        network=found.network,
        to=found.wallet,
        transaction=found.transaction,
        reason=found.reason,
        requested_at_ms=found.requested_at_ms,
        ended_at_ms=found.ended_at_ms,
        custody=found.custody,
    )


def _check_asset(payer: Payer, rooms: Rooms) -> None:
    """Problem for the key of another asset."""
    assert rooms.shop is not None
    asset = rooms.shop.checkout.asset
    if payer.asset != asset:
        raise Problem(
            ProblemCode.FORBIDDEN,
            f"This key spends {payer.asset}, and what is sent back is {asset}.",
            hint="sign in with the wallet that paid, or use a key that a top-up gave you",
        )
