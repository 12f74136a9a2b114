"""Accounts without a wallet: opened and entered by a recovery code or a passkey."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope
from msgspec import Meta

from parhelion.api.account_ways import EndedBody
from parhelion.api.admin import Nothing
from parhelion.api.bodies import Closed
from parhelion.api.exchange import SIGN_IN
from parhelion.api.payer import owner_of
from parhelion.api.rooms import Rooms
from parhelion.api.session import cookie_of, session_token
from parhelion.api.shapes import Out
from parhelion.api.sign_in import body_of, signed_in
from parhelion.api.wire import Reply, json_reply, scheme_of, url_of, visit_of
from parhelion.identity import (
    CODE_LIMIT_CHARS,
    SESSION_TTL_S,
    Entered,
    Made,
    Place,
    Session,
    Shown,
    decoded,
    is_ours,
    place_of,
)

PART_LIMIT_CHARS = 8 * 1024
"""Of one part of a browser's answer, in base64url: identity says how much of it is read."""

ID_LIMIT_CHARS = 1364
"""WebAuthn's 1,023 bytes in base64url."""

Part = Annotated[
    str, Meta(min_length=1, max_length=PART_LIMIT_CHARS, description="Unpadded base64url.")
]
CredentialId = Annotated[
    str, Meta(min_length=1, max_length=ID_LIMIT_CHARS, description="Unpadded base64url.")
]
Code = Annotated[
    str,
    Meta(min_length=1, max_length=CODE_LIMIT_CHARS, description="Eight groups of four letters."),
]


class RecoveryCode(Closed, frozen=True, kw_only=True):
    """The code that was shown once; blanks, hyphens and small letters do not matter."""

    code: Code


class Attestation(msgspec.Struct, frozen=True, kw_only=True):
    """`response` of a RegistrationResponseJSON; what browsers say beside this is not read."""

    client_data: Part = msgspec.field(name="clientDataJSON")
    attestation: Part = msgspec.field(name="attestationObject")


class Assertion(msgspec.Struct, frozen=True, kw_only=True):
    """`response` of an AuthenticationResponseJSON."""

    client_data: Part = msgspec.field(name="clientDataJSON")
    authenticator_data: Part = msgspec.field(name="authenticatorData")
    signature: Part
    user: Annotated[str, Meta(min_length=1, max_length=128)] = msgspec.field(name="userHandle")


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """What `credential.toJSON()` gives of a new passkey (WebAuthn's RegistrationResponseJSON)."""

    id: CredentialId
    response: Attestation


class Authentication(msgspec.Struct, frozen=True, kw_only=True):
    """What `credential.toJSON()` gives of a passkey that signs in."""

    id: CredentialId
    response: Assertion


class NewPasskey(Closed, frozen=True, kw_only=True):
    """What the browser made of the options."""

    credential: Registration


class PasskeyAnswer(Closed, frozen=True, kw_only=True):
    """What the browser answered to the options."""

    credential: Authentication


class OptionsBody(Out, frozen=True, kw_only=True):
    """What the page gives to `PublicKeyCredential.parse...OptionsFromJSON`."""

    options: dict[str, Any]


class AccountBody(Out, frozen=True, kw_only=True):
    """An account and until when its session is good; the session itself is the cookie."""

    account: str
    asset: str
    expires_at_ms: int


class NewAccountBody(AccountBody, frozen=True, kw_only=True):
    """A new account with its recovery code, shown this once."""

    recovery_code: str


class RecoveryCodeBody(Out, frozen=True, kw_only=True):
    """A new recovery code, shown this once; the one before it is good until this is confirmed."""

    recovery_code: str


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The routes; they need no payment network."""
    return [*_code_routes(rooms), *_passkey_routes(rooms), *_passkey_sign_in(rooms)]


def _code_routes(rooms: Rooms) -> list[HTTPRouteHandler]:
    members = rooms.members

    @post("/v1/accounts/recovery", name="accounts.recovery", status_code=201)
    async def open_account(request: Request[Any, Any, Any]) -> ASGIApp:
        await body_of(request, Nothing)
        code, entered = await members.open_with_code(visit_of(request.scope).known_address)
        body = NewAccountBody(recovery_code=code, **_account(entered.session))
        return _with_cookie(json_reply(body, 201), entered, request.scope)

    @post("/v1/sign-in/recovery", name="sign-in.recovery", status_code=200)
    async def enter(request: Request[Any, Any, Any]) -> ASGIApp:
        asked = await body_of(request, RecoveryCode)
        address = visit_of(request.scope).known_address
        token, session = await members.enter_with_code(asked.code, address)
        return await signed_in(token, session, rooms, request.scope)

    @post("/v1/account/recovery", name="account.recovery", status_code=200)
    async def renew(request: Request[Any, Any, Any]) -> ASGIApp:
        owner = await owner_of(request.scope, rooms)
        await body_of(request, Nothing)
        code = await members.offer_code(owner)
        return json_reply(RecoveryCodeBody(recovery_code=code))

    @put("/v1/account/recovery", name="account.recovery.confirm", status_code=200)
    async def confirm(request: Request[Any, Any, Any]) -> ASGIApp:
        owner = await owner_of(request.scope, rooms)
        asked = await body_of(request, RecoveryCode)
        return json_reply(EndedBody(ended=await members.confirm_code(owner, asked.code)))

    return [open_account, enter, renew, confirm]


def _passkey_routes(rooms: Rooms) -> list[HTTPRouteHandler]:
    members = rooms.members

    @post("/v1/accounts/passkey/challenge", name="accounts.passkey.challenge", status_code=200)
    async def challenge(request: Request[Any, Any, Any]) -> ASGIApp:
        owner = await _adding_to(request.scope, rooms)
        await body_of(request, Nothing)
        account = None if owner is None else owner.account
        options = await members.passkey_creation(_place(request.scope), account)
        return json_reply(OptionsBody(options=options))

    @post("/v1/accounts/passkey", name="accounts.passkey", status_code=201)
    async def register(request: Request[Any, Any, Any]) -> ASGIApp:
        scope = request.scope
        owner = await _adding_to(scope, rooms)
        asked, place = (await body_of(request, NewPasskey)).credential, _place(scope)
        made = Made(
            decoded(asked.id),
            decoded(asked.response.client_data),
            decoded(asked.response.attestation),
        )
        if owner is not None:
            await members.add_passkey(made, place, owner.account)
            return json_reply(AccountBody(**_account(owner)), 201)
        entered = await members.open_with_passkey(made, place, visit_of(scope).known_address)
        body = AccountBody(**_account(entered.session))
        return _with_cookie(json_reply(body, 201), entered, scope)

    return [challenge, register]


def _passkey_sign_in(rooms: Rooms) -> list[HTTPRouteHandler]:
    members = rooms.members

    @post("/v1/sign-in/passkey/challenge", name="sign-in.passkey.challenge", status_code=200)
    async def challenge(request: Request[Any, Any, Any]) -> ASGIApp:
        await body_of(request, Nothing)
        return json_reply(OptionsBody(options=members.passkey_request(_place(request.scope))))

    @post("/v1/sign-in/passkey", name="sign-in.passkey", status_code=200)
    async def enter(request: Request[Any, Any, Any]) -> ASGIApp:
        asked = (await body_of(request, PasskeyAnswer)).credential
        said = asked.response
        shown = Shown(
            decoded(asked.id),
            decoded(said.client_data),
            decoded(said.authenticator_data),
            decoded(said.signature),
            decoded(said.user),
        )
        token, session = await members.enter_with_passkey(shown, _place(request.scope))
        return await signed_in(token, session, rooms, request.scope)

    return [challenge, enter]


async def _adding_to(scope: Scope, rooms: Rooms) -> Session | None:
    """The session whose account gets the passkey; None where nobody is signed in: a new one does.

    A credential of ours that may not add one is refused, and never falls through to a new account.
    """
    visit = visit_of(scope)
    ours = visit.bearer is not None and is_ours(visit.bearer)
    signs = SIGN_IN in visit.fields
    held = session_token(visit.fields, visit.bearer, scheme_of(scope))
    if not ours and not signs and held is None:
        return None
    return await owner_of(scope, rooms)


def _place(scope: Scope) -> Place:
    return place_of(url_of(scope))


def _account(session: Session) -> dict[str, Any]:
    return {
        "account": session.account,
        "asset": session.asset,
        "expires_at_ms": session.expires_at_ms,
    }


def _with_cookie(reply: Reply, entered: Entered, scope: Scope) -> Reply:
    reply.headers.append(cookie_of(entered.token, scheme_of(scope), SESSION_TTL_S))
    return reply
