"""GET /v1/models: the catalogue with prices, context and digest."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope

from parhelion.api.rooms import Rooms, path_field, query_of
from parhelion.api.shapes import ModelBody, ModelList, Pricing, RateBody
from parhelion.api.wire import json_reply
from parhelion.models import Catalogue
from parhelion.words import (
    DECIMALS,
    TOKENS_PER_RATE,
    ModelCard,
    Problem,
    ProblemCode,
    Rate,
)

if TYPE_CHECKING:
    from parhelion.coordinator import Coordinator
    from parhelion.payments.till import Till

RATES = "/rates"
"""What ends the path of a model's rates; ids hold slashes, so Litestar cannot tell it apart."""

OWNER = "parhelion"
"""OpenAI's field asks for an organisation; who made a model is not in its file for certain."""


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The routes of the catalogue."""

    @get("/v1/models", name="models.list")
    async def models(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        served = Served(rooms.coordinator)
        found = (model_body(m.card, rooms.catalogue, served) for m in rooms.catalogue.models())
        return json_reply(ModelList(data=tuple(found)))

    # An id may hold slashes, so the rest of the path is the id.
    @get("/v1/models/{id:path}", name="models.one")
    async def model(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        name = path_field(scope, "id").strip("/")
        try:
            found = rooms.catalogue.resolve(name)
        except Problem:
            if name.endswith(RATES):
                raise not_a_method() from None
            raise
        return json_reply(model_body(found.card, rooms.catalogue, Served(rooms.coordinator)))

    return [models, model] if rooms.till is None else [models, model, _of_tiers(rooms, rooms.till)]


def _of_tiers(rooms: Rooms, till: Till) -> HTTPRouteHandler:
    """What an SDK lists below a tier's base URL: the one model that is sold there."""

    @get("/{tier:str}/v1/models", name="tier.models")
    async def sold(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        tier = till.checkout.tier(path_field(scope, "tier"))
        found = rooms.catalogue.resolve(tier.model or None)
        body = model_body(found.card, rooms.catalogue, Served(rooms.coordinator))
        # Tokens have no price here: an answer has, and GET /.well-known/x402 tells it.
        body = msgspec.structs.replace(
            body, pricing=None, rates=(), default_max_tokens=tier.max_tokens
        )
        return json_reply(ModelList(data=(body,)))

    return sold


class Served:
    """Who serves which model at this moment."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._open = coordinator.takes_prompts()
        self._nodes = coordinator.servers()

    def nodes(self, model: str) -> int:
        """How many ready nodes serve it; a pipeline's nodes each count."""
        return self._nodes.get(model, 0)

    def available(self, model: str) -> bool:
        """Whether a prompt would be served now."""
        return self._open and self.nodes(model) > 0


def not_a_method() -> Problem:
    """405 for a path that Litestar takes for a model's and that is none."""
    return Problem(
        ProblemCode.METHOD_NOT_ALLOWED,
        "This path does not take this method.",
        hint="the Allow header names the methods; GET /schema lists every route",
    )


def model_body(card: ModelCard, catalogue: Catalogue, served: Served) -> ModelBody:
    """A model as the API shows it; never the path of its file."""
    rates = catalogue.rates(card.id)
    return ModelBody(
        id=card.id,
        created=card.created_s,
        owned_by=OWNER,
        context_length=card.context,
        default_max_tokens=card.default_max_tokens,
        digest=card.digest,
        vocabulary=card.vocabulary_digest,
        template=card.template_digest,
        architecture=card.architecture,
        purpose=card.purpose,
        demonstration=card.demonstration,
        size_bytes=card.size_bytes,
        memory_bytes=card.memory_bytes,
        pricing=_pricing(rates[0]) if rates else None,
        rates=tuple(rate_body(rate) for rate in rates),
        nodes=served.nodes(card.id),
        available=served.available(card.id),
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


def rate_body(rate: Rate) -> RateBody:
    """A rate as the API shows it."""
    return RateBody(
        asset=rate.asset,
        version=rate.version,
        prompt=str(rate.prompt_micro),
        completion=str(rate.completion_micro),
    )
