"""GET /v1/receipts/{id}: a receipt for its owner, what opens it, and where the money went.

A guest has no key: a guest's receipt answers to whoever holds its id, which has 80 random bits
and is told to the asker and, as the job's id, to the node that saw the prompt anyway.
"""

from __future__ import annotations

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope

from parhelion.api.explain import explanation
from parhelion.api.parse import invalid
from parhelion.api.rooms import Rooms, key_of, path_field, query_of
from parhelion.api.shapes import Opened
from parhelion.api.wire import NO_STORE, Reply, json_reply, visit_of
from parhelion.identity import is_ours
from parhelion.ledger import GUEST
from parhelion.proof import canonical
from parhelion.words import Problem, Receipt, kin


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The routes of receipts."""

    @get("/v1/receipts/{id:str}", name="receipts.one")
    async def receipt(scope: Scope) -> ASGIApp:
        wanted = query_of(scope, ("evidence",)).get("evidence", "0")
        if wanted not in {"0", "1"}:
            raise invalid("evidence", "expected 0 or 1.")
        found, account = await _receipt(scope, rooms)
        if wanted == "1":
            evidence = rooms.receipts.evidence(found.id, account)
            return json_reply(Opened(receipt=found, evidence=evidence))
        # The bytes that were signed over (RFC 8785), so that a saved file is the receipt itself.
        return Reply(200, canonical(found), [NO_STORE])

    @get("/v1/receipts/{id:str}/explain", name="receipts.explain")
    async def explain(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        found, account = await _receipt(scope, rooms)
        told = await rooms.ledger.explain(kin("req", found.id))
        grants = await rooms.ledger.history(account, limit=200)
        return json_reply(explanation(found, told, grants))

    return [receipt, explain]


async def _receipt(scope: Scope, rooms: Rooms) -> tuple[Receipt, str]:
    """The receipt that the path names, and whose it is: the key's account's, or a guest's."""
    id, bearer = path_field(scope, "id"), visit_of(scope).bearer
    if bearer is not None and is_ours(bearer):
        account = key_of(scope, rooms.keys).account
        return await rooms.receipts.get(id, account), account
    try:
        return await rooms.receipts.get(id, GUEST), GUEST
    except Problem:
        if bearer is not None:
            # No guest's, so a key was needed, and what came is none.
            rooms.keys.authenticate(bearer)
        raise
