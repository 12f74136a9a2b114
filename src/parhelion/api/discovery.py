"""GET /.well-known/x402: what is for sale here, for agents that look before they buy."""

from __future__ import annotations

from urllib.parse import urlsplit

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope

from parhelion.api.rooms import Rooms, query_of
from parhelion.api.wire import json_reply, url_of
from parhelion.words import Problem, ProblemCode, Tier

PATH = "/.well-known/x402"


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The one document; anyone may read it."""

    @get(PATH, name="discovery")
    async def discovery(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        shop = rooms.shop
        if shop is None:
            raise Problem(
                ProblemCode.NOT_FOUND,
                "Nothing is sold by x402 here.",
                hint="the pool's owner makes keys; [[x402.networks]] opens the shop",
            )
        # Loaded here: a coordinator that is paid on no network never comes this way.
        from parhelion.payments.x402 import bazaar

        here = urlsplit(url_of(scope))
        terms = rooms.config.x402
        origin = f"{here.scheme}://{here.netloc}"
        document = bazaar.well_known(
            [_as_answered(rooms, tier) for tier in shop.checkout.tiers],
            terms.min_charge_micro,
            shop.payees,
            origin,
        )
        return json_reply(document)

    return [discovery]


def _as_answered(rooms: Rooms, tier: Tier) -> Tier:
    """A tier with the model that answers it now; as it is where that model is gone."""
    from parhelion.payments.x402.prices import as_sold

    try:
        return as_sold(tier, rooms.catalogue.resolve(tier.model or None).card.id)
    except Problem:
        # What else is for sale is listed all the same; buying this one says what is wrong.
        return tier
