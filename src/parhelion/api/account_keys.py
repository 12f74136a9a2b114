"""The API keys of an account: its owner's session makes and ends them, a whole key sees them.

Whoever finds a key must neither outlive its end by a key made with it, nor end its owner's others.
"""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope
from msgspec import Meta

from parhelion.api.admin import Micro, Name
from parhelion.api.bodies import Closed
from parhelion.api.payer import owner_of, payer_of, whole_of
from parhelion.api.rooms import Rooms, path_field, query_of
from parhelion.api.shapes import Amount, Out
from parhelion.api.sign_in import body_of
from parhelion.api.wire import json_reply
from parhelion.identity import KeyView
from parhelion.words import Problem, ProblemCode


class NewOwnKey(Closed, frozen=True, kw_only=True):
    """A key of the account; with a `limit` it spends so much and no more, until it expires."""

    name: Name
    limit: Micro | None = None
    expires_at_ms: Annotated[int, Meta(ge=1, le=2**53 - 1)] | None = None


class OwnKeyBody(Out, frozen=True, kw_only=True):
    """A key as its owner sees it; the secret itself is never kept."""

    id: str
    name: str
    prefix: str
    asset: str
    limit: Amount | None
    spent: Amount
    created_at_ms: int
    expires_at_ms: int | None
    revoked_at_ms: int | None


class NewOwnKeyBody(OwnKeyBody, frozen=True, kw_only=True):
    """A key just made, with its secret: shown this once."""

    secret: str


class OwnKeysBody(Out, frozen=True, kw_only=True):
    """The live keys first, then those that were revoked, the latest first."""

    keys: tuple[OwnKeyBody, ...]


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The three routes."""

    @get("/v1/account/keys", name="account.keys")
    async def keys(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        payer = await whole_of(scope, rooms)
        found = await rooms.keys.list_own(payer.account)
        return json_reply(OwnKeysBody(keys=tuple(OwnKeyBody(**_shown(view)) for view in found)))

    @post("/v1/account/keys", name="account.keys.create", status_code=201)
    async def create(request: Request[Any, Any, Any]) -> ASGIApp:
        owner = await owner_of(request.scope, rooms)
        asked = await body_of(request, NewOwnKey)
        if asked.expires_at_ms is not None and asked.expires_at_ms <= rooms.clock.now_ms():
            raise Problem(
                ProblemCode.CONFLICT,
                "That moment has passed already.",
                hint="expires_at_ms is in Unix milliseconds",
                param="expires_at_ms",
            )
        secret, view = await rooms.keys.create_own(
            owner.account,
            asset=owner.asset,
            name=asked.name,
            limit_micro=None if asked.limit is None else int(asked.limit),
            expires_at_ms=asked.expires_at_ms,
        )
        return json_reply(NewOwnKeyBody(**_shown(view), secret=secret), 201)

    @delete("/v1/account/keys/{id:str}", name="account.keys.revoke", status_code=200)
    async def revoke(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        id, payer = path_field(scope, "id"), await payer_of(scope, rooms)
        # A key may end itself: whoever finds it takes nothing from its owner by that.
        if payer.key != id:
            await owner_of(scope, rooms)
        view = await rooms.keys.revoke_own(id, payer.account)
        return json_reply(OwnKeyBody(**_shown(view)))

    return [keys, create, revoke]


def _shown(view: KeyView) -> dict[str, Any]:
    return {
        "id": view.id,
        "name": view.name,
        "prefix": view.prefix,
        "asset": view.asset,
        "limit": None if view.limit_micro is None else str(view.limit_micro),
        "spent": str(view.spent_micro),
        "created_at_ms": view.created_at_ms,
        "expires_at_ms": view.expires_at_ms,
        "revoked_at_ms": view.revoked_at_ms,
    }
