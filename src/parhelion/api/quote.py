"""POST /v1/quote: the most that a chat request can cost; nothing is held and nothing runs."""

from __future__ import annotations

from typing import Any

from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from parhelion.api.chat import Chat
from parhelion.api.exchange import credentials_of
from parhelion.api.rooms import Rooms, query_of
from parhelion.api.shapes import Amount, Out
from parhelion.api.watch import Watch
from parhelion.api.wire import ClientLeft, json_reply, read_body, visit_of
from parhelion.words import Problem, ProblemCode

ROUTE = "/v1/quote"


class PaymentPrice(Out, frozen=True, kw_only=True):
    """What a payment that comes with the request costs."""

    cost: Amount
    asset: str


class QuoteBody(Out, frozen=True, kw_only=True):
    """What a request with the same body can cost at most: what a balance would hold for it.

    `payment` is the price of paying with the request itself, null where no payment is taken.
    """

    model: str
    prompt_tokens: int
    max_tokens: int
    context_length: int
    cost: Amount
    asset: str
    payment: PaymentPrice | None


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The route; a credential is needed where one is needed for the chat itself."""
    dialect = Chat()

    @post(ROUTE, name="quote", status_code=200)
    async def quote(request: Request[Any, Any, Any]) -> ASGIApp:
        scope, receive = request.scope, request.receive
        query_of(scope, ())
        credentials = credentials_of(scope)
        body = await read_body(scope, receive, rooms.config.api.max_body_bytes)
        ask = dialect.read(body, visit_of(scope).request).ask
        # Whoever left is not counted for: its turn at the tokeniser is somebody else's.
        try:
            async with Watch(receive):
                found = await rooms.coordinator.service.price(ask, credentials)
        except ClientLeft as left:
            raise Problem(ProblemCode.CANCELLED, "the client left") from left
        payment = None
        if found.sold is not None and found.payment_micro is not None:
            payment = PaymentPrice(cost=str(found.payment_micro), asset=found.sold.asset)
        card = found.offer.model
        return json_reply(
            QuoteBody(
                model=card.id,
                prompt_tokens=len(found.offer.prompt_ids),
                max_tokens=found.offer.max_tokens,
                context_length=card.context,
                cost=str(found.cost_micro),
                asset=found.rate.asset,
                payment=payment,
            )
        )

    return [quote]
