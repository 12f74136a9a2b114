"""The API as one ASGI app: every dialect, the pool's routes, and the node socket."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from parhelion.api import admin, credits, document, models, node_socket, receipts, status
from parhelion.api.chat import Chat
from parhelion.api.completions import Completions
from parhelion.api.dialect import Dialect
from parhelion.api.door import Door
from parhelion.api.errors import from_litestar
from parhelion.api.exchange import Exchange
from parhelion.api.guard import Guard
from parhelion.api.inference import Inference
from parhelion.api.limits import Limits
from parhelion.api.rooms import Rooms
from parhelion.words import Problem, ProblemCode


class Api(Litestar):
    """Litestar routes and handles; what every request passes is the Door, outside of it."""

    door: Door
    straight: dict[str, Exchange]
    """What answers a POST at these paths. Litestar knows the routes too, for 404, 405 and the
    schema, but its way to a handler costs as much CPU as all that the handler does itself."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One HTTP request, one WebSocket, or the lifespan."""
        if scope["type"] == "http":
            exchange = self.straight.get(scope["path"]) if scope["method"] == "POST" else None
            await self.door.http(exchange or super().__call__, scope, receive, send)
        elif scope["type"] == "websocket" and scope["path"] != node_socket.PATH:
            missing = Problem(ProblemCode.NOT_FOUND, "There is no WebSocket at this path.")
            await node_socket.refuse(send, missing)
        else:
            await super().__call__(scope, receive, send)


def build_app(**joined: Any) -> Api:
    """The API over these rooms; the names are the fields of `api.rooms.Rooms`."""
    rooms = Rooms(**joined)
    exchanges = [_exchange(rooms, dialect) for dialect in (Chat(), Completions(), Inference())]
    routes: list[Any] = [
        *map(_route, exchanges),
        *models.handlers(rooms),
        *credits.handlers(rooms),
        *status.handlers(rooms),
        *receipts.handlers(rooms),
        *admin.handlers(rooms),
        *document.handlers(),
        *node_socket.handlers(rooms),
    ]
    app = Api(
        route_handlers=routes,
        exception_handlers={Exception: from_litestar},
        # Ours is in document.py: made once, and exact about what is refused.
        openapi_config=None,
        logging_config=None,
        # Bodies are read and bounded in wire.read_body.
        request_max_body_size=None,
    )
    app.straight = {exchange.dialect.path: exchange for exchange in exchanges}
    app.door = Door(
        Guard(rooms.config.api, rooms.config.web.host),
        Limits(rooms.config.limits, rooms.clock),
        rooms.keys,
        rooms.clock,
        rooms.entropy,
    )
    return app


def _exchange(rooms: Rooms, dialect: Dialect) -> Exchange:
    return Exchange(dialect, rooms.coordinator, rooms.config.api, rooms.clock)


def _route(exchange: Exchange) -> HTTPRouteHandler:
    @post(exchange.dialect.path, name=exchange.dialect.name, status_code=200)
    async def create() -> ASGIApp:
        return exchange

    return create
