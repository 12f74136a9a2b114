"""GET /v1/nodes/{peer}: one node, what became of it, and to the admin what it made and earned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope

from parhelion.api.admin import peer_of_path
from parhelion.api.console_shapes import EarnedBody, NodeBody, NodeReceipt
from parhelion.api.rooms import Rooms, is_owner, query_of
from parhelion.api.wire import json_reply
from parhelion.words import DECIMALS, Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.coordinator import NodeView

RECEIPTS_SHOWN = 50


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The page of one node."""

    @get("/v1/nodes/{peer:str}", name="nodes.one")
    async def node(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        owner = is_owner(scope, rooms)
        peer = peer_of_path(scope)
        found = rooms.coordinator.node(peer)
        if found is None:
            raise Problem(
                ProblemCode.NOT_FOUND,
                f"no node {peer} has been here since the coordinator started",
                hint="GET /v1/nodes has those that are",
                param="peer",
            )
        return json_reply(await _body(rooms, found, owner))

    return [node]


async def _body(rooms: Rooms, view: NodeView, told_all: bool) -> NodeBody:
    receipts = earnings = None
    if told_all:
        receipts = tuple(
            NodeReceipt(
                id=each.id,
                at_ms=each.issued_at_ms,
                model=each.model,
                completion_tokens=each.completion_tokens,
            )
            for each in await rooms.receipts.of_node(view.peer, RECEIPTS_SHOWN)
        )
        earnings = tuple(
            EarnedBody(
                asset=each.asset,
                decimals=DECIMALS,
                total=str(each.available_micro + each.held_micro),
            )
            for each in await rooms.ledger.balances(view.operator)
        )
    return NodeBody(
        **{name: getattr(view, name) for name in view.__struct_fields__},
        history=rooms.coordinator.states_of(view.peer),
        receipts=receipts,
        earnings=earnings,
    )
