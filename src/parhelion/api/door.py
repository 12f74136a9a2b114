"""What every request passes once, as one pure-ASGI layer: id, guard, limits, our error shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from litestar.types import Receive, Scope, Send

from parhelion.api import errors
from parhelion.api.guard import Guard
from parhelion.api.limits import Limits
from parhelion.api.operations import methods_at
from parhelion.api.wire import VISIT, Header, Reply, Visit, linger
from parhelion.identity import Keys
from parhelion.words import ID_ENTROPY_BYTES, Clock, Problem, ProblemCode, mint

REQUESTS_LIMIT = 4096
"""Requests inside at once; one costs about 20 kB, and the queue is bounded far below this."""

CLIENT_ID_LIMIT_CHARS = 128
"""A client's own request id is repeated only if it is short and printable."""

App = Callable[[Any, Any, Any], Awaitable[None]]

EXPOSED = (
    b"x-request-id, retry-after, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
    b"x-ratelimit-reset-requests, x-ratelimit-refill-requests, idempotent-replayed, "
    b"payment-required, payment-response, x-parhelion-nodes"
)
_PREFLIGHT: tuple[Header, ...] = (
    (b"access-control-allow-methods", b"GET, POST, PUT, DELETE"),
    (
        b"access-control-allow-headers",
        b"authorization, content-type, idempotency-key, x-client-request-id, payment-signature, "
        b"sign-in-with-x, x-parhelion-session",
    ),
    (b"access-control-max-age", b"600"),
)


class Door:
    """Lets requests in, or says in our one shape why not; knows how many are inside."""

    def __init__(
        self,
        guard: Guard,
        limits: Limits,
        keys: Keys,
        clock: Clock,
        entropy: Callable[[int], bytes],
        linger_bytes: int,
        public_url: str = "",
    ) -> None:
        self.guard = guard
        self.inside = 0
        self._limits = limits
        self._keys = keys
        self._clock = clock
        self._entropy = entropy
        self._linger_bytes = linger_bytes
        self._public_url = public_url.rstrip("/")

    async def http(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request: through to `app`, or a problem."""
        visit = self._meet(scope, send)
        try:
            early = self._admit(visit, scope)
        except Problem as problem:
            early = errors.reply(problem)
        if early is not None:
            await early.write(send, visit.headers)
            return

        unread = False

        async def dressed(message: Any) -> None:
            nonlocal unread
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *visit.headers]
                unread = message["status"] == 413
                if unread:
                    message["headers"].append((b"connection", b"close"))
            elif unread and not message.get("more_body", False):
                message["more_body"] = True
                await send(message)
                await linger(receive, self._linger_bytes)
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        scope[VISIT] = visit  # type: ignore[typeddict-unknown-key]
        self.inside += 1
        try:
            await app(scope, receive, dressed)
        finally:
            self.inside -= 1
            # The visit's `send` leads back to this scope: a ring for the garbage collector.
            del scope[VISIT]  # type: ignore[misc, typeddict-item]

    def _meet(self, scope: Any, send: Send) -> Visit:
        request = mint("req", self._clock.now_ms(), self._entropy(ID_ENTROPY_BYTES))
        client = scope.get("client")
        address = client[0] if client else ""
        visit = Visit(request, dict(scope["headers"]), address, send, self._public_url)
        theirs = visit.fields.get(b"x-client-request-id")
        if theirs is not None and len(theirs) <= CLIENT_ID_LIMIT_CHARS and _printable(theirs):
            visit.headers.append((b"x-client-request-id", theirs))
        return visit

    def _admit(self, visit: Visit, scope: Any) -> Reply | None:
        """None to go on; a reply for a preflight; Problem otherwise."""
        self.guard.check(visit.fields, scope["scheme"])
        origin = self.guard.cors(visit.fields)
        if origin is not None:
            visit.headers += [
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", EXPOSED),
                (b"vary", b"origin"),
            ]
        self._limits.count(visit.address, self._key(visit.bearer), visit.headers)
        if self.inside >= REQUESTS_LIMIT:
            raise Problem(
                ProblemCode.OVERLOADED,
                "The server is serving as many requests as it can.",
                hint="try again in a moment",
                retry_after_s=1,
            )
        if scope["method"] == "OPTIONS":
            return _options(scope["path"], origin is not None)
        return None

    def _key(self, bearer: str | None) -> str | None:
        """The key's id if it is a good one; whether it may do something is asked further in."""
        if bearer is None:
            return None
        try:
            return self._keys.authenticate(bearer).id
        except Problem:
            return None


def _options(path: str, preflight: bool) -> Reply | None:
    # Ours, because Litestar's leaves out methods of a path that has more than one handler.
    methods = methods_at(path)
    if not methods:
        return None
    allow = (b"allow", ", ".join(methods).encode())
    return Reply(204, b"", [allow, *(_PREFLIGHT if preflight else ())])


def _printable(field: bytes) -> bool:
    text = field.decode("latin-1")
    return text.isascii() and text.isprintable()
