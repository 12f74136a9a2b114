"""GET /v1/receipts/{id}: a receipt for its owner, what opens it, and where the money went.

A guest has no key: a guest's receipt answers to whoever holds its id, which has 80 random bits
and is told to the asker and, as the job's id, to the node that saw the prompt anyway.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope

from parhelion.api.exchange import SIGN_IN, credentials_of
from parhelion.api.explain import SOURCES_SHOWN, explanation
from parhelion.api.parse import invalid
from parhelion.api.payer import only_an_answer, proven_of
from parhelion.api.rooms import Rooms, path_field, query_of
from parhelion.api.session import HEADER, bought_token
from parhelion.api.shapes import Explanation, Opened
from parhelion.api.wire import NO_STORE, Reply, json_reply, scheme_of, visit_of
from parhelion.identity import is_ours, is_session
from parhelion.ledger import GUEST
from parhelion.payments.rules import Payer
from parhelion.proof import canonical
from parhelion.words import Problem, ProblemCode, Receipt

T = TypeVar("T")

ID = re.compile("(?:rcpt_|req_|hold_|job_|chatcmpl-|cmpl-)(.+)", re.DOTALL)
"""The ids of one request, in answers, histories and logs, share all but what they start with."""


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The routes of receipts."""

    @get("/v1/receipts/{id:str}", name="receipts.one")
    async def receipt(scope: Scope) -> ASGIApp:
        wanted = query_of(scope, ("evidence",)).get("evidence", "0")
        if wanted not in {"0", "1"}:
            raise invalid("evidence", "expected 0 or 1.")
        id = of_request(path_field(scope, "id"), "rcpt")

        async def read(owner: Payer) -> tuple[Receipt, str]:
            return await rooms.receipts.get(id, owner.account), owner.account

        found, account = await _owned(scope, rooms, id, read)
        if wanted == "1":
            evidence = rooms.receipts.evidence(found.id, account)
            return json_reply(Opened(receipt=found, evidence=evidence))
        # The bytes that were signed over (RFC 8785), so that a saved file is the receipt itself.
        return Reply(200, canonical(found), [NO_STORE])

    @get("/v1/receipts/{id:str}/explain", name="receipts.explain")
    async def explain(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        id = path_field(scope, "id")

        async def read(owner: Payer) -> Explanation:
            return await _explained(id, owner, rooms)

        return json_reply(await _owned(scope, rooms, id, read))

    return [receipt, explain]


def of_request(id: str, prefix: str) -> str:
    """The id of a request with this prefix, from any of its ids; not_found if `id` is none."""
    parts = ID.fullmatch(id)
    if parts is None:
        raise Problem(
            ProblemCode.NOT_FOUND,
            f"no request {id[:64]} of this account",
            hint="an answer's `id` or usage.receipt names it, and so does `request` in the history",
            param="id",
        )
    return f"{prefix}_{parts[1]}"


async def _explained(id: str, owner: Payer, rooms: Rooms) -> Explanation:
    """Told from the hold, whose account is the owner: a charge may have no receipt."""
    account = owner.account
    told = await rooms.ledger.explain(of_request(id, "req"), account)
    receipt = await rooms.receipts.find(of_request(id, "rcpt"), account)
    if owner.reads_key is not None or owner.answer is not None:
        return explanation(told, receipt, None)
    asset, until_ms = told.rate.asset, told.opened_at_ms
    sources = await rooms.ledger.sources(account, asset, until_ms=until_ms, limit=SOURCES_SHOWN + 1)
    return explanation(told, receipt, sources)


async def _owned(scope: Scope, rooms: Rooms, id: str, read: Callable[[Payer], Awaitable[T]]) -> T:
    """What `read` gives to the owner: the account of key, session or wallet, or a guest.

    The cookie of an answer that was bought opens that answer's receipt; for any other it is none,
    so that who is signed in too, or is a guest, reads what is theirs.
    """
    said = credentials_of(scope)
    bearer = said.bearer
    bought = await _bought(scope, id, rooms)
    if isinstance(bought, Payer):
        return await read(bought)
    is_wallet = said.session is not None or said.sign_in is not None
    if is_wallet or (bearer is not None and is_ours(bearer)):
        owner = await proven_of(scope, rooms)
        await _check_own(owner, of_request(id, "req"), rooms)
        return await read(owner)
    try:
        return await read(Payer(GUEST, None, ""))
    except Problem as missing:
        if bought is not None:
            raise bought from missing
        if bearer is not None:
            # No guest's, so a key was needed, and what came is none.
            rooms.keys.authenticate(bearer)
        raise


async def _bought(scope: Scope, id: str, rooms: Rooms) -> Payer | Problem | None:
    """Whose answer the cookie of one bought, or why it opens not this one; None without it.

    What a request says of itself (a key, a session in a header, a signature) counts alone.
    """
    visit = visit_of(scope)
    bearer, fields = visit.bearer, visit.fields
    is_key = bearer is not None and (is_ours(bearer) or is_session(bearer))
    is_told = is_key or fields.get(HEADER, b"").strip() or SIGN_IN in fields
    token = None if is_told else bought_token(fields, scheme_of(scope))
    if token is None:
        return None
    try:
        session = await rooms.sessions.find(token)
    except Problem as problem:
        if problem.code is not ProblemCode.INVALID_SESSION:
            raise
        return problem
    if session.tier is None or session.spent_by != of_request(id, "req"):
        return only_an_answer(session)
    return Payer(session.account, None, session.asset, session)


async def _check_own(owner: Payer, request: str, rooms: Rooms) -> None:
    """Problem where a credential that spends a part asks for what it did not buy itself."""
    if owner.answer is not None and owner.answer.spent_by != request:
        raise only_an_answer(owner.answer)
    if owner.reads_key is not None:
        await rooms.ledger.explain(request, owner.account, key=owner.reads_key)
