"""What the pool and this process say of themselves: health, readiness, metrics."""

from __future__ import annotations

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Scope

from parhelion.api.rooms import Rooms, query_of, require_admin
from parhelion.api.shapes import ReadyBody
from parhelion.api.wire import Reply, json_reply, visit_of
from parhelion.config import LOOPBACK


def handlers(rooms: Rooms) -> list[HTTPRouteHandler]:
    """The routes that need no key, and the metrics."""

    @get("/health", name="health")
    async def health(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        now = rooms.coordinator.health()
        # A balancer looks at the status only: 200 must mean that a prompt would be served.
        return json_reply(now, 200 if now.status == "ready" else 503)

    @get("/ready", name="ready")
    async def ready(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        if rooms.coordinator.health().status == "draining":
            return json_reply(ReadyBody(status="draining"), 503)
        return json_reply(ReadyBody(status="ready"))

    @get("/metrics", name="metrics")
    async def metrics(scope: Scope) -> ASGIApp:
        query_of(scope, ())
        if not _from_this_machine(scope):
            require_admin(scope, rooms)
        return Reply(200, rooms.metrics.render(), content_type=rooms.metrics.CONTENT_TYPE.encode())

    return [health, ready, metrics]


def _from_this_machine(scope: Scope) -> bool:
    """A scraper here needs no key; a proxy here speaks for strangers, so it does."""
    return visit_of(scope).known_address in LOOPBACK
