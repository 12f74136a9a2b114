"""The API as one ASGI app: every dialect, the pool's routes, and the node socket."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from parhelion.api import (
    account_keys,
    account_ways,
    accounts,
    admin,
    artefacts,
    chain,
    console,
    content,
    credits,
    discovery,
    document,
    link_socket,
    models,
    node_socket,
    nodes,
    one_node,
    prepare,
    quote,
    receipts,
    setup,
    sign_in,
    status,
    topup,
    withdrawals,
)
from parhelion.api.chat import Chat
from parhelion.api.completions import Completions
from parhelion.api.door import Door
from parhelion.api.errors import problem_of, refusal, reply
from parhelion.api.exchange import Exchange
from parhelion.api.front import Front
from parhelion.api.guard import Guard
from parhelion.api.inference import Inference
from parhelion.api.limits import Limits
from parhelion.api.operations import methods_at
from parhelion.api.rooms import Rooms
from parhelion.api.wire import HEAD, LINGER_FACTOR, VISIT, without_body
from parhelion.words import Problem, ProblemCode

SOCKETS = frozenset({node_socket.PATH, link_socket.PATH})
"""The paths of the two WebSockets, of nodes only."""


class Api(Litestar):
    """Litestar routes and handles; what every request passes is the Door, outside of it."""

    door: Door
    front: Front
    straight: dict[str, Exchange]
    """What answers a POST at these paths. Litestar knows the routes too, for 404, 405 and the
    schema, but its way to a handler costs as much CPU as all that the handler does itself."""
    of_tiers: dict[str, Exchange]
    """The same below a tier's name, whichever the tiers are just then; empty: nothing is sold."""

    def page_is_at(self, port: int) -> None:
        """The port that the pages got, where the settings left it open."""
        self.front.web_port = self.door.guard.web_port = port

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One HTTP request, one WebSocket, or the lifespan."""
        if scope["type"] == "http":
            exchange = self._exchange(scope["path"]) if scope["method"] == "POST" else None
            if exchange is None:
                await self._routed(scope, receive, send)
            else:
                await self.door.http(exchange, scope, receive, send)
        elif scope["type"] == "websocket" and scope["path"] not in SOCKETS:
            missing = Problem(ProblemCode.NOT_FOUND, "There is no WebSocket at this path.")
            await node_socket.refuse(send, missing)
        else:
            await super().__call__(scope, receive, send)

    def _exchange(self, path: str) -> Exchange | None:
        """What answers a POST at a path, None where Litestar finds it."""
        found = self.straight.get(path)
        if found is None and self.of_tiers:
            cut = path.find("/", 1)
            found = None if cut < 2 else self.of_tiers.get(path[cut:])
        return found

    async def _routed(self, scope: Any, receive: Any, send: Any) -> None:
        """What is not a prompt: Litestar's routes, and a page for browsers where it has none."""
        if scope["method"] == "HEAD":
            # A monitor's question: whatever GET would say, without the body.
            scope, send = {**scope, "method": "GET", HEAD: True}, without_body(send)
        app = self.front if self.front.wants(scope) else super().__call__
        await self.door.http(app, scope, receive, send)


def build_app(**joined: Any) -> Api:
    """The API over these rooms; the names are the fields of `api.rooms.Rooms`."""
    rooms = Rooms(**joined)
    exchanges = _exchanges(rooms, of_tier=False)
    of_tiers = {} if rooms.till is None else _exchanges(rooms, of_tier=True)
    routes: list[Any] = [
        *(_route(path, exchange) for path, exchange in exchanges.items()),
        *(_route(f"/{{tier:str}}{path}", exchange) for path, exchange in of_tiers.items()),
        *models.handlers(rooms),
        *artefacts.handlers(rooms),
        *credits.handlers(rooms),
        *topup.handlers(rooms),
        *quote.handlers(rooms),
        *prepare.handlers(rooms),
        *withdrawals.handlers(rooms),
        *sign_in.handlers(rooms),
        *accounts.handlers(rooms),
        *account_keys.handlers(rooms),
        *account_ways.handlers(rooms),
        *content.handlers(rooms),
        *status.handlers(rooms),
        *nodes.handlers(rooms),
        *one_node.handlers(rooms),
        *console.handlers(rooms),
        *setup.handlers(rooms),
        *receipts.handlers(rooms),
        *chain.handlers(rooms),
        *discovery.handlers(rooms),
        *admin.handlers(rooms),
        *document.handlers(),
        *node_socket.handlers(rooms),
        *link_socket.handlers(rooms),
    ]
    app = Api(
        route_handlers=routes,
        exception_handlers={Exception: _from_litestar},
        # Ours is in document.py: made once, and exact about what is refused.
        openapi_config=None,
        logging_config=None,
        # Bodies are read and bounded in wire.read_body.
        request_max_body_size=None,
    )
    app.straight, app.of_tiers = exchanges, of_tiers
    web = rooms.config.web
    app.front = Front(web.host, web.port)
    app.door = Door(
        Guard(rooms.config.api, web.host, web.port),
        Limits(rooms.config.limits, rooms.clock),
        rooms.keys,
        rooms.clock,
        rooms.entropy,
        LINGER_FACTOR * rooms.config.api.max_body_bytes,
        rooms.config.api.public_url,
    )
    return app


def _exchanges(rooms: Rooms, *, of_tier: bool) -> dict[str, Exchange]:
    """Every way to an engine, by the path of its dialect, which may stand below a tier's name."""
    terms = None if rooms.till is None else rooms.till.terms
    return {
        dialect.path: Exchange(
            *(dialect, rooms.coordinator, rooms.config.api, rooms.clock),
            terms=terms,
            of_tier=of_tier,
        )
        for dialect in (Chat(), Completions(), Inference())
    }


def _route(path: str, exchange: Exchange) -> HTTPRouteHandler:
    name = exchange.dialect.name
    name = name if path == exchange.dialect.path else f"tier.{name}"

    @post(path, name=name, status_code=200)
    async def create() -> ASGIApp:
        return exchange

    return create


def _from_litestar(asked: Any, error: Exception) -> Any:
    """Litestar's exception hook: routing errors and problems leave in our one shape."""
    visit = asked.scope.get(VISIT)
    problem = problem_of(error, "" if visit is None else visit.request)
    answer = reply(problem) if visit is None else refusal(problem, asked.scope)
    if problem.code is ProblemCode.METHOD_NOT_ALLOWED:
        # Ours, because Litestar's leaves out methods of a path that has more than one handler.
        answer.headers.append((b"allow", ", ".join(methods_at(asked.scope["path"])).encode()))
    return answer.for_litestar()
