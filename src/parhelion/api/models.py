"""GET /v1/models: the catalogue with prices, context and digest."""

from __future__ import annotations

from decimal import Decimal

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope

from parhelion.api.rooms import Rooms, path_field, query_of
from parhelion.api.shapes import ModelBody, ModelList, Pricing, RateBody
from parhelion.api.wire import json_reply
from parhelion.models import Catalogue
from parhelion.words import DECIMALS, TOKENS_PER_RATE, ModelCard, Rate

OWNER = "parhelion"
"""OpenAI's field asks for an organisation; who made a model is not in its file for certain."""


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The routes of the catalogue."""

    @get("/v1/models", name="models.list")
    async def models(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        found = (model_body(m.card, rooms.catalogue) for m in rooms.catalogue.models())
        return json_reply(ModelList(data=tuple(found)))

    # An id may hold slashes, so the rest of the path is the id.
    @get("/v1/models/{id:path}", name="models.one")
    async def model(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        found = rooms.catalogue.resolve(path_field(scope, "id").strip("/"))
        return json_reply(model_body(found.card, rooms.catalogue))

    return [models, model]


def model_body(card: ModelCard, catalogue: Catalogue) -> ModelBody:
    """A model as the API shows it; never the path of its file."""
    rates = catalogue.rates(card.id)
    return ModelBody(
        id=card.id,
        created=card.created_s,
        owned_by=OWNER,
        context_length=card.context,
        default_max_tokens=card.default_max_tokens,
        digest=card.digest,
        architecture=card.architecture,
        purpose=card.purpose,
        demonstration=card.demonstration,
        size_bytes=card.size_bytes,
        memory_bytes=card.memory_bytes,
        pricing=_pricing(rates[0]) if rates else None,
        rates=tuple(_rate(rate) for rate in rates),
    )


def per_token(rate_micro: int) -> str:
    """Base units per million tokens as a decimal string of whole units per token, exactly."""
    places = DECIMALS + len(str(TOKENS_PER_RATE)) - 1
    text = format(Decimal(rate_micro).scaleb(-places), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _pricing(rate: Rate) -> Pricing:
    return Pricing(
        asset=rate.asset,
        prompt=per_token(rate.prompt_micro),
        completion=per_token(rate.completion_micro),
    )


def _rate(rate: Rate) -> RateBody:
    return RateBody(
        asset=rate.asset,
        version=rate.version,
        prompt=str(rate.prompt_micro),
        completion=str(rate.completion_micro),
    )
