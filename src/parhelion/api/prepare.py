"""Paying from a page: a payment made ready for the wallet to sign, and play money on LOCAL chains.

POST /v1/x402/prepare stores nothing and moves nothing; what it gives is signed by the wallet, and
sent by the page as any x402 client sends its payment.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope
from msgspec import UNSET, Meta, UnsetType

from parhelion.api.bodies import Closed
from parhelion.api.models import Served
from parhelion.api.node_socket import whence
from parhelion.api.parse import decode, invalid
from parhelion.api.payer import caller_of
from parhelion.api.rooms import Rooms, query_of
from parhelion.api.shapes import Amount, Out
from parhelion.api.sign_in import Address, Chain
from parhelion.api.topup import nothing_is_sold
from parhelion.api.wire import here, json_reply, read_body, visit_of
from parhelion.words import Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.payments.x402.prepared import Prepared
    from parhelion.payments.x402.prices import Price
    from parhelion.payments.x402.shop import Shop

T = TypeVar("T")

PREPARE = "/v1/x402/prepare"
FAUCET = "/v1/local/faucet"

BODY_LIMIT_BYTES = 4 * 1024
"""A network, an address and what is bought."""

VERSION = 2
"""Of x402."""

Name = Annotated[str, Meta(min_length=1, max_length=32)]


class Buys(Closed, frozen=True, kw_only=True):
    """What is bought: credits of a preset amount in dollars, or one answer of a tier."""

    topup_usd: Name | UnsetType = UNSET
    tier: Name | UnsetType = UNSET


class PrepareAsk(Closed, frozen=True, kw_only=True):
    """Which wallet on which network pays for what."""

    network: Chain
    address: Address
    buys: Annotated[Buys, Meta(extra_json_schema={"minProperties": 1, "maxProperties": 1})]


class SignTypedData(Out, frozen=True, kw_only=True, tag_field="kind", tag="typed_data"):
    """For `eth_signTypedData_v4`; its `message` is the payment's `payload.authorization`."""

    typed_data: dict[str, Any]


class SignTransaction(Out, frozen=True, kw_only=True, tag_field="kind", tag="solana_transaction"):
    """For `solana:signTransaction`: a v0 transaction in base64, its signatures empty."""

    transaction: str


class RequestBody(Out, frozen=True, kw_only=True):
    """The request that the payment goes with."""

    method: str
    path: str


class PreparedBody(Out, frozen=True, kw_only=True):
    """What a wallet signs, in words too, and what is sent with its signature until it expires.

    `account` gets the credits: whose key or session came; null where none did, or for a tier.
    `holds` is what the wallet has of the token before it pays.
    """

    x402_version: int
    accepted: dict[str, Any]
    resource: dict[str, Any]
    sign: SignTypedData | SignTransaction
    words: tuple[str, ...]
    expires_at_ms: int
    request: RequestBody
    account: str | None
    holds: Amount


class FaucetAsk(Closed, frozen=True, kw_only=True):
    """Which wallet gets play money."""

    network: Chain
    address: Address


class GiftBody(Out, frozen=True, kw_only=True):
    """Play money that was given."""

    transaction: str
    amount: Amount
    asset: str


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The routes; without a payment network both say that nothing is sold here."""

    @post(PREPARE, name="x402.prepare", status_code=200)
    async def prepare(request: Request[Any, Any, Any]) -> ASGIApp:
        shop, asked = _shop(rooms), await _body(request, PrepareAsk)
        price, then = _bought(asked.buys, shop, rooms)
        scope = request.scope
        caller = await caller_of(scope, rooms)
        found = await shop.preparing.prepare(
            asked.network,
            asked.address,
            price,
            f"{here(scope)}{then.path}",
            caller=caller,
        )
        # Whoever planted a session here would be paid: so the page says who is credited.
        account = None if asked.buys.topup_usd is UNSET else caller.account or None
        return json_reply(_shown(found, then, account))

    @post(FAUCET, name="local.faucet", status_code=200)
    async def faucet(request: Request[Any, Any, Any]) -> ASGIApp:
        shop, asked = _shop(rooms), await _body(request, FaucetAsk)
        if not _is_local(request.scope, rooms):
            raise Problem(
                ProblemCode.FORBIDDEN,
                "Play money is given on the machine of the pool only.",
                hint="open the page there, at http://localhost, on a pool without public_url and "
                "allowed_hosts, or pay with a wallet that has some",
            )
        gift = await shop.faucet.give(asked.network, asked.address)
        return json_reply(
            GiftBody(transaction=gift.transaction, amount=str(gift.amount_micro), asset=gift.asset)
        )

    return [prepare, faucet]


def _is_local(scope: Scope, rooms: Rooms) -> bool:
    """Whether a person on this machine asks, and nobody through a proxy that runs on it.

    Settings that a proxy needs say that one stands here, though it may hide itself.
    """
    api = rooms.config.api
    if api.public_url or api.allowed_hosts:
        return False
    return whence(visit_of(scope).address, scope["headers"]) == "near"


def _shop(rooms: Rooms) -> Shop:
    if rooms.shop is None:
        raise nothing_is_sold()
    return rooms.shop


def _bought(buys: Buys, shop: Shop, rooms: Rooms) -> tuple[Price, RequestBody]:
    """The price of what is bought, and the request that buys it; Problem where it cannot be."""
    from parhelion.payments.x402.prices import as_sold, tier_price, topup_price

    if (buys.topup_usd is UNSET) == (buys.tier is UNSET):
        raise invalid("buys", "expected one of topup_usd and tier.")
    if not isinstance(buys.topup_usd, UnsetType):
        price = topup_price(buys.topup_usd)
        path = f"/v1/credits/topup?usd={buys.topup_usd}"
        return price, RequestBody(method="POST", path=path)
    assert not isinstance(buys.tier, UnsetType)
    tier = shop.checkout.tier(buys.tier)
    # Said before anybody signs: the payment itself would be refused for it.
    model = rooms.catalogue.resolve(tier.model or None).card.id
    if not Served(rooms.coordinator).available(model):
        raise Problem(ProblemCode.NO_NODE, f"no node serves {model} now")
    price = tier_price(as_sold(tier, model), 0)
    return price, RequestBody(method="GET", path=f"/content/{tier.name}")


def _shown(found: Prepared, then: RequestBody, account: str | None) -> PreparedBody:
    from parhelion.payments.x402.prepared import TypedData

    sign: SignTypedData | SignTransaction
    if isinstance(found.sign, TypedData):
        sign = SignTypedData(typed_data=found.sign.typed_data)
    else:
        sign = SignTransaction(transaction=base64.b64encode(found.sign.wire).decode())
    return PreparedBody(
        x402_version=VERSION,
        # As the offer of a 402 is written, to the letter: it goes back with the payment.
        accepted=msgspec.to_builtins(found.accepted),
        resource=msgspec.to_builtins(found.resource),
        sign=sign,
        words=found.words,
        expires_at_ms=found.expires_at_ms,
        request=then,
        account=account,
        holds=str(found.holds_micro),
    )


async def _body(request: Request[Any, Any, Any], shape: type[T]) -> T:
    query_of(request.scope, ())
    data = await read_body(request.scope, request.receive, BODY_LIMIT_BYTES)
    return decode(msgspec.json.Decoder(shape), data)
