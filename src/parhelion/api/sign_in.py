"""Signing in with a wallet: a text to sign, a session for its signature, and its end."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from litestar import Request, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope
from msgspec import Meta

from parhelion.api.bodies import Closed
from parhelion.api.parse import decode
from parhelion.api.payer import owner_of
from parhelion.api.rooms import Rooms, query_of
from parhelion.api.session import cookie_of, session_token
from parhelion.api.shapes import Amount, Out
from parhelion.api.wire import Reply, json_reply, read_body, scheme_of, url_of, visit_of
from parhelion.identity import (
    SESSION_TTL_S,
    SIGNATURE_LIMIT_CHARS,
    Session,
    SignIns,
    Ways,
    place_of,
)
from parhelion.words import Problem, ProblemCode

T = TypeVar("T")

BODY_LIMIT_BYTES = 16 * 1024
"""A text of at most 4,096 characters, however its JSON is escaped, and a signature; or what a
browser sends of a passkey."""

Address = Annotated[str, Meta(min_length=1, max_length=64)]
Chain = Annotated[str, Meta(min_length=1, max_length=64, description="CAIP-2.")]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Signature = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=SIGNATURE_LIMIT_CHARS,
        description="Hexadecimal with 0x of an EVM wallet, base58 of a Solana one.",
    ),
]


class ChallengeAsk(Closed, frozen=True, kw_only=True):
    """Which wallet wants to sign in."""

    address: Address
    chain: Chain


class SignedMessage(Closed, frozen=True, kw_only=True):
    """The text of a challenge as it was, and the wallet's signature of it."""

    message: Text
    signature: Signature


class ChallengeBody(Out, frozen=True, kw_only=True):
    """`message` is what to sign; the rest are its fields, for wallets that make the text."""

    message: str
    domain: str
    address: str
    statement: str
    uri: str
    version: str
    chain: str
    nonce: str
    issued_at: str
    expiration_time: str


class SignedInBody(Out, frozen=True, kw_only=True):
    """A session just opened, shown once; `balance` is what it may spend."""

    session: str
    account: str
    wallet: str | None
    asset: str
    expires_at_ms: int
    balance: Amount


class WhoBody(Out, frozen=True, kw_only=True):
    """Whose session this is; with a `tier` it is worth one answer of it, unless it is `spent`.

    `wallet` opened it, null where a passkey or a recovery code did. `wallets` (CAIP-10), the number
    of `passkeys`, and whether there is a `recovery` code are the ways back to the account; a
    session of one answer is told none of them.
    """

    account: str
    wallet: str | None
    wallets: tuple[str, ...]
    passkeys: int
    recovery: bool
    asset: str
    tier: str | None
    spent: bool
    expires_at_ms: int


class SignedOutBody(Out, frozen=True, kw_only=True):
    """The session is over."""

    signed_out: bool


class WalletsBody(Out, frozen=True, kw_only=True):
    """All wallets of an account (CAIP-10), the first linked first."""

    account: str
    wallets: tuple[str, ...]


class Desk(NamedTuple):
    """What signing in with a wallet needs; there is none of it where no network is paid on."""

    sign_ins: SignIns
    asset: str


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The routes; without a payment network each says that no wallet has anything here."""

    @post("/v1/sign-in/challenge", name="sign-in.challenge", status_code=200)
    async def challenge(request: Request[Any, Any, Any]) -> ASGIApp:
        desk, asked = _desk(rooms), await body_of(request, ChallengeAsk)
        place = place_of(url_of(request.scope))
        made = await desk.sign_ins.challenge(place.domain, place.origin, asked.chain, asked.address)
        told = made.message
        return json_reply(
            ChallengeBody(
                message=made.text or "",
                domain=told.domain,
                address=told.address,
                statement=told.statement or "",
                uri=told.uri,
                version=told.version,
                chain=told.chain_id,
                nonce=told.nonce,
                issued_at=told.issued_at,
                expiration_time=told.expiration_time or "",
            )
        )

    @post("/v1/sign-in", name="sign-in", status_code=200)
    async def sign_in(request: Request[Any, Any, Any]) -> ASGIApp:
        desk, signed = _desk(rooms), await body_of(request, SignedMessage)
        place = place_of(url_of(request.scope))
        account, wallet = await desk.sign_ins.prove_text(signed.message, signed.signature, place)
        token, opened = await rooms.sessions.open(account, desk.asset, wallet, SESSION_TTL_S)
        return await signed_in(token, opened, rooms, request.scope)

    return [challenge, sign_in, *_session_routes(rooms), _link(rooms)]


def _session_routes(rooms: Rooms) -> list[HTTPRouteHandler]:
    @get("/v1/session", name="session")
    async def who(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        return json_reply(await _who(await rooms.sessions.find(_token(scope)), rooms))

    @delete("/v1/session", name="session.end", status_code=200)
    async def end(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        await rooms.sessions.end(_token(scope))
        reply = json_reply(SignedOutBody(signed_out=True))
        reply.headers.append(cookie_of("", scheme_of(scope), 0))
        return reply

    return [who, end]


def _link(rooms: Rooms) -> HTTPRouteHandler:
    @post("/v1/wallets/link", name="wallets.link", status_code=200)
    async def link(request: Request[Any, Any, Any]) -> ASGIApp:
        # A wallet is a way in, for good: it would outlast any key that let it in. Asked first of
        # all: who may not link hears that, whatever this pool is paid on.
        account = (await owner_of(request.scope, rooms)).account
        desk = _desk(rooms)
        signed = await body_of(request, SignedMessage)
        place = place_of(url_of(request.scope))
        wallet = await desk.sign_ins.verify_text(signed.message, signed.signature, place)
        await rooms.wallets.link(wallet, account)
        linked = await rooms.wallets.of_account(account)
        return json_reply(WalletsBody(account=account, wallets=linked))

    return link


def _desk(rooms: Rooms) -> Desk:
    if rooms.shop is None or rooms.sign_ins is None:
        raise Problem(
            ProblemCode.NOT_FOUND,
            "No wallet signs in here: this pool takes no payments.",
            hint="the operator names networks in [[x402.networks]]; use a key, a passkey or a "
            "recovery code until then",
        )
    return Desk(rooms.sign_ins, rooms.shop.checkout.asset)


async def body_of(request: Request[Any, Any, Any], shape: type[T]) -> T:
    """The body of one of the routes of accounts, which are all short."""
    query_of(request.scope, ())
    data = await read_body(request.scope, request.receive, BODY_LIMIT_BYTES)
    return decode(msgspec.json.Decoder(shape), data)


def _token(scope: Scope) -> str:
    visit = visit_of(scope)
    token = session_token(visit.fields, visit.bearer, scheme_of(scope))
    if token is None:
        raise Problem(
            ProblemCode.MISSING_CREDENTIALS,
            "You did not send a session.",
            hint="sign in: POST /v1/sign-in with a wallet, or POST /v1/sign-in/passkey, or "
            "POST /v1/sign-in/recovery",
        )
    return token


async def _who(session: Session, rooms: Rooms) -> WhoBody:
    wallets, ways = (), Ways(0, False)
    if session.tier is None:
        wallets = await rooms.wallets.of_account(session.account)
        ways = await rooms.members.ways(session.account)
    return WhoBody(
        account=session.account,
        wallet=session.wallet,
        wallets=wallets,
        passkeys=ways.passkeys,
        recovery=ways.has_recovery_code,
        asset=session.asset,
        tier=session.tier,
        spent=session.spent_by is not None,
        expires_at_ms=session.expires_at_ms,
    )


async def signed_in(token: str, session: Session, rooms: Rooms, scope: Scope) -> Reply:
    """The answer to who has signed in, in whatever way, with the session as a cookie."""
    found = await rooms.ledger.balance(session.account, session.asset)
    reply = json_reply(
        SignedInBody(
            session=token,
            account=session.account,
            wallet=session.wallet,
            asset=session.asset,
            expires_at_ms=session.expires_at_ms,
            balance=str(found.available_micro),
        )
    )
    reply.headers.append(cookie_of(token, scheme_of(scope), SESSION_TTL_S))
    return reply
