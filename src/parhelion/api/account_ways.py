"""The ways into an account as its owner sees them: its passkeys, and who else is signed in."""

from __future__ import annotations

from litestar import delete, get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope

from parhelion.api.payer import owner_of
from parhelion.api.rooms import Rooms, path_field, query_of
from parhelion.api.shapes import Out
from parhelion.api.wire import json_reply
from parhelion.identity import text_of


class PasskeyBody(Out, frozen=True, kw_only=True):
    """A passkey: its credential's id in base64url, the host it was made at, and when."""

    id: str
    host: str
    made_at_ms: int


class PasskeysBody(Out, frozen=True, kw_only=True):
    """The passkeys of the account, the oldest first."""

    passkeys: tuple[PasskeyBody, ...]


class EndedBody(Out, frozen=True, kw_only=True):
    """How many other sign-ins were ended."""

    ended: int


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The three routes."""
    members = rooms.members

    @get("/v1/account/passkeys", name="account.passkeys")
    async def passkeys(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        owner = await owner_of(scope, rooms)
        return json_reply(await _listed(owner.account, rooms))

    @delete("/v1/account/passkeys/{id:str}", name="account.passkeys.remove", status_code=200)
    async def remove(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        owner = await owner_of(scope, rooms)
        await members.remove_passkey(path_field(scope, "id"), owner.account)
        return json_reply(await _listed(owner.account, rooms))

    @delete("/v1/account/sessions", name="account.sessions.end", status_code=200)
    async def end(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        return json_reply(EndedBody(ended=await members.end_others(await owner_of(scope, rooms))))

    return [passkeys, remove, end]


async def _listed(account: str, rooms: Rooms) -> PasskeysBody:
    kept = await rooms.members.passkeys(account)
    return PasskeysBody(
        passkeys=tuple(
            PasskeyBody(id=text_of(each.credential), host=each.host, made_at_ms=each.made_at_ms)
            for each in kept
        )
    )
