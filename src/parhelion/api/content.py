"""GET /content/{tier}: one answer of a tier for people, paid for with the page itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope

from parhelion.api import content_pages as pages
from parhelion.api import errors
from parhelion.api.exchange import NO_RETRY, PAYMENT, credentials_of
from parhelion.api.models import Served
from parhelion.api.page import CONTENT_TYPE, HEADERS
from parhelion.api.paying import response
from parhelion.api.rooms import Rooms, path_field, query_of
from parhelion.api.session import answer_cookies
from parhelion.api.shapes import SessionBody
from parhelion.api.topup import nothing_is_sold
from parhelion.api.wire import HEAD, NO_STORE, Header, Reply, json_reply, scheme_of, visit_of
from parhelion.words import Credentials, Problem, ProblemCode, Tier

if TYPE_CHECKING:
    from parhelion.payments.till import Opened, Till


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The only GET that settles (DESIGN 2)."""

    @get("/content/{tier:str}", name="content")
    async def content(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        if rooms.till is None:
            raise nothing_is_sold()
        credentials = credentials_of(scope)
        if HEAD in scope:
            # Who asks for the headers alone would pay for a token that it never sees.
            credentials = msgspec.structs.replace(credentials, payment=None)
        # What was bought is shown as it was sold, also where the tier is sold no more.
        tier = await rooms.till.terms(path_field(scope, "tier"), credentials)
        token = None if credentials.payment is not None else credentials.session
        # Who is signed in has bought nothing by that, and sees the offers.
        if token is not None and await rooms.till.has_answer(token, tier):
            return _page(pages.asking(tier), ())
        return await _sell(rooms, rooms.till, scope, tier, credentials)

    return [content]


async def _sell(
    rooms: Rooms, till: Till, scope: Scope, tier: Tier, credentials: Credentials
) -> ASGIApp:
    visit = visit_of(scope)
    model = rooms.catalogue.resolve(tier.model or None).card.id
    if not Served(rooms.coordinator).available(model):
        raise Problem(ProblemCode.NO_NODE, f"no node serves {model} now")
    try:
        opened = await till.session(tier, model, credentials, visit.request)
    except Problem as problem:
        refusal = errors.refusal(problem, scope)
        if PAYMENT in visit.fields:
            refusal.headers.append(NO_RETRY)
        if problem.offer is not None and _wants_page(scope):
            told = pages.paying(tier, problem)
            kept = [*refusal.headers, *HEADERS]
            return Reply(refusal.status, told, kept, CONTENT_TYPE)
        return refusal
    cookies = answer_cookies(opened.token, scheme_of(scope), opened.ttl_s, tier.name)
    headers = (response(opened.bought), *cookies)
    if _wants_page(scope):
        return _page(pages.asking(tier), headers)
    return _told(opened, tier, headers)


def _told(opened: Opened, tier: Tier, headers: tuple[Header, ...]) -> Reply:
    reply = json_reply(
        SessionBody(
            session=opened.token,
            tier=tier.name,
            max_tokens=tier.max_tokens,
            expires_at_ms=opened.session.expires_at_ms,
            ask=f"/{tier.name}/v1/chat/completions",
        )
    )
    reply.headers += headers
    return reply


def _page(told: bytes, headers: tuple[Header, ...]) -> Reply:
    return Reply(200, told, [*headers, NO_STORE, *HEADERS], CONTENT_TYPE)


def _wants_page(scope: Scope) -> bool:
    """Whether a browser asks; programs get JSON."""
    return b"text/html" in visit_of(scope).fields.get(b"accept", b"").lower()
