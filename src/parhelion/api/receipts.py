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

from parhelion.api.explain import SOURCES_SHOWN, explanation
from parhelion.api.parse import invalid
from parhelion.api.rooms import Rooms, key_of, path_field, query_of
from parhelion.api.shapes import Explanation, Opened
from parhelion.api.wire import NO_STORE, Reply, json_reply, visit_of
from parhelion.identity import is_ours
from parhelion.ledger import GUEST
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

        async def read(account: str) -> tuple[Receipt, str]:
            return await rooms.receipts.get(id, account), account

        found, account = await _owned(scope, rooms, read)
        if wanted == "1":
            evidence = rooms.receipts.evidence(found.id, account)
            return json_reply(Opened(receipt=found, evidence=evidence))
        # The bytes that were signed over (RFC 8785), so that a saved file is the receipt itself.
        return Reply(200, canonical(found), [NO_STORE])

    @get("/v1/receipts/{id:str}/explain", name="receipts.explain")
    async def explain(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        id = path_field(scope, "id")

        async def read(account: str) -> Explanation:
            return await _explained(id, account, rooms)

        return json_reply(await _owned(scope, rooms, read))

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


async def _explained(id: str, account: str, rooms: Rooms) -> Explanation:
    """Told from the hold, whose account is the owner: a charge may have no receipt."""
    told = await rooms.ledger.explain(of_request(id, "req"), account)
    receipt = await rooms.receipts.find(of_request(id, "rcpt"), account)
    asset, until_ms = told.rate.asset, told.opened_at_ms
    sources = await rooms.ledger.sources(account, asset, until_ms=until_ms, limit=SOURCES_SHOWN + 1)
    return explanation(told, receipt, sources)


async def _owned(scope: Scope, rooms: Rooms, read: Callable[[str], Awaitable[T]]) -> T:
    """What `read` gives to the owner: the key's account, or a guest."""
    bearer = visit_of(scope).bearer
    if bearer is not None and is_ours(bearer):
        return await read(key_of(scope, rooms.keys).account)
    try:
        return await read(GUEST)
    except Problem:
        if bearer is not None:
            # No guest's, so a key was needed, and what came is none.
            rooms.keys.authenticate(bearer)
        raise
