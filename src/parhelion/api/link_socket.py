"""GET /v1/link: one end of a link between two nodes, handed to the relay as whole binary messages.

It leads to another node's socket and to nothing else: no engine, no ledger, no account. Who opens
one proves a ticket that the coordinator gave out over that node's own sealed session.
"""

from __future__ import annotations

from typing import Any

from litestar import WebSocket, websocket
from litestar.handlers import WebsocketRouteHandler

from parhelion.api.node_socket import Bytes, Doorway, check_upgrade, refuse
from parhelion.api.rooms import Rooms
from parhelion.link import SUBPROTOCOL
from parhelion.words import Problem

PATH = "/v1/link"


def handlers(rooms: Rooms) -> list[WebsocketRouteHandler]:
    """The one WebSocket route."""
    # Its own: strangers at one door must not keep nodes out of the other.
    doorway = Doorway()

    @websocket(PATH, name="link")
    async def link(socket: WebSocket[Any, Any, Any]) -> None:
        client = socket.scope.get("client")
        try:
            check_upgrade(socket)
            leave = doorway.enter(client[0] if client else "")
        except Problem as problem:
            await refuse(socket.send, problem)
            return
        try:
            await socket.accept(subprotocols=SUBPROTOCOL)
            await rooms.coordinator.relays.attend(Bytes(socket), leave)
        finally:
            leave()

    return [link]
