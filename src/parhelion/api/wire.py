"""HTTP as bytes: a finished reply, a bounded JSON body, and what a request said of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import msgspec
from litestar import Response
from litestar.types import Receive, Scope, Send

from parhelion.config import LOOPBACK
from parhelion.words import Problem, ProblemCode

Header = tuple[bytes, bytes]

VISIT = "parhelion.visit"
"""Where the door leaves the Visit in the ASGI scope."""

HEAD = "parhelion.head"
"""In the scope of a GET that was asked as HEAD: a body that would never end is not begun."""

BODY_WAIT_S = 30.0
"""Four megabytes over a slow phone line; a client that dribbles longer holds a connection."""

LINGER_S = 2.0
LINGER_FACTOR = 4
"""How long, and up to how many times the limit, a refused body is read after the answer."""

FORWARDED = (b"forwarded", b"x-forwarded-for", b"via", b"x-real-ip")
"""What a proxy adds. Whom it names is not believed; that it speaks for somebody is."""

JSON = b"application/json"
NO_STORE = (b"cache-control", b"no-store")
"""Answers and balances belong to one key: no proxy may keep them."""

NODES = b"x-parhelion-nodes"


class ClientLeft(Exception):
    """The client closed the connection before the answer was complete."""


class Visit:
    """What the door found out about one request: its id, headers, key and bare `send`."""

    __slots__ = ("address", "bearer", "fields", "headers", "public_url", "request", "send")

    def __init__(
        self,
        request: str,
        fields: dict[bytes, bytes],
        address: str,
        send: Send,
        public_url: str = "",
    ) -> None:
        self.request = request
        self.fields = fields
        self.address = address
        self.public_url = public_url
        self.send = send
        self.bearer = _bearer(fields.get(b"authorization"))
        self.headers: list[Header] = [(b"x-request-id", request.encode())]

    @property
    def known_address(self) -> str:
        """Where the one who asks is; "" when only a proxy's address is known.

        Only where a proxy can be: anybody else who says so is known by its own address.
        """
        fields = self.fields
        if not any([name in fields for name in FORWARDED]):
            return self.address
        return "" if is_proxys(self.address, self.public_url) else self.address


def is_proxys(address: str, public_url: str) -> bool:
    """Whether a proxy of ours may be there: on this machine, or beside it where one is named."""
    if address in LOOPBACK:
        return True
    try:
        return bool(public_url) and ip_address(address.partition("%")[0]).is_private
    except ValueError:
        return False


def visit_of(scope: Scope) -> Visit:
    """The Visit that the door made for this scope."""
    return scope[VISIT]  # type: ignore[literal-required, no-any-return, typeddict-item]


def _bearer(field: bytes | None) -> str | None:
    if field is None:
        return None
    scheme, _, token = field.strip().partition(b" ")
    # Another scheme is still a credential that was offered: it must fail, not count as absent. An
    # empty bearer, which SDKs send for an empty key, offers nothing.
    said = token.strip() if scheme.lower() == b"bearer" else field.strip()
    return said.decode("latin-1") or None


class Reply:
    """A complete answer; an ASGI app, so that a handler can return it."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        status: int,
        body: bytes,
        headers: Sequence[Header] = (),
        content_type: bytes = JSON,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = list(headers)
        self.content_type = content_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.write(send, ())

    async def write(self, send: Send, more: Sequence[Header]) -> None:
        """Send the answer with `more` headers."""
        headers = [
            (b"content-type", self.content_type),
            (b"content-length", b"%d" % len(self.body)),
            *self.headers,
            *more,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})

    def for_litestar(self) -> Response[bytes]:
        """The same answer as Litestar's exception hook wants it."""
        return Response(
            content=self.body,
            status_code=self.status,
            headers={k.decode("latin-1"): v.decode("latin-1") for k, v in self.headers},
            media_type=self.content_type.decode(),
        )


def url_of(scope: Scope) -> str:
    """What was asked for, as whoever asked wrote it; the door has checked the Host."""
    query = scope["query_string"].decode("latin-1")
    return f"{here(scope)}{scope['path']}{'?' if query else ''}{query}"


def here(scope: Scope) -> str:
    """Where whoever asked found us: the URL of every path, without the path."""
    visit = visit_of(scope)
    if visit.public_url:
        return visit.public_url
    host = visit.fields.get(b"host", b"localhost").decode("latin-1")
    return f"{scope['scheme']}://{host}"


def scheme_of(scope: Scope) -> str:
    """How a browser reached us: https also where a proxy of ours is the one that speaks it.

    By the name that was asked for, or by a proxy that says it speaks for somebody: where the pool
    has a public https address it is still asked in plain http on its own machine.
    """
    visit = visit_of(scope)
    public, mark, name = visit.public_url.lower().partition("://")
    if not mark or public != "https":
        return str(scope["scheme"])
    is_named = visit.fields.get(b"host", b"").decode("latin-1").lower() == name.partition("/")[0]
    return public if is_named or not visit.known_address else str(scope["scheme"])


def without_body(send: Send) -> Send:
    """The same answer, its length said, its bytes left out: what HEAD asks for."""

    async def bare(message: Any) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return bare


def json_reply(value: Any, status: int = 200) -> Reply:
    """A JSON answer; structs and words' records are encoded field by field."""
    return Reply(status, msgspec.json.encode(value), [NO_STORE])


def nodes_header(peers: Sequence[str]) -> tuple[Header, ...]:
    """Who makes an answer, in order of the route; no header where nobody is known to."""
    return ((NODES, ",".join(peers).encode()),) if peers else ()


def nodes_comment(peers: Sequence[str]) -> bytes:
    """The same in the middle of a stream, where an answer moved: an SSE comment, no event."""
    return b": " + NODES + b" " + ",".join(peers).encode() + b"\n\n"


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """The JSON body, never more than `limit_bytes` in memory; ClientLeft when the client goes.

    Problem UNSUPPORTED_MEDIA_TYPE, BODY_TOO_LARGE, or INVALID_REQUEST when it takes too long.
    """
    fields = visit_of(scope).fields
    if fields.get(b"content-type") != JSON:
        _check_type(fields.get(b"content-type", b""))
    if fields.get(b"content-encoding", b"identity") != b"identity":
        raise Problem(
            ProblemCode.UNSUPPORTED_MEDIA_TYPE,
            "Compressed bodies are not accepted.",
            hint="send the body without Content-Encoding",
        )
    declared = fields.get(b"content-length", b"")
    # A length of more than 18 digits is past any limit; int() need not look at it.
    if declared.isdigit() and (len(declared) > 18 or int(declared) > limit_bytes):
        raise too_large(limit_bytes)
    try:
        async with asyncio.timeout(BODY_WAIT_S):
            return await _read(receive, limit_bytes)
    except TimeoutError as error:
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            f"The body did not arrive within {BODY_WAIT_S:.0f} s.",
            hint="send the whole body at once",
        ) from error


async def _read(receive: Receive, limit_bytes: int) -> bytes:
    parts: list[bytes] = []
    size_bytes = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientLeft
        part = message.get("body", b"")
        size_bytes += len(part)
        if size_bytes > limit_bytes:
            raise too_large(limit_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def linger(receive: Receive, limit_bytes: int) -> None:
    """Read on for a while after the answer to a body that was refused, and drop what comes.

    Closing with bytes unread makes the system send a reset, and a client that writes its whole
    body before it reads then never sees the answer.
    """
    try:
        async with asyncio.timeout(LINGER_S):
            while limit_bytes > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                limit_bytes -= len(message.get("body", b""))
    except TimeoutError:
        return


def too_large(limit_bytes: int) -> Problem:
    """The one sentence about a body over the limit."""
    return Problem(
        ProblemCode.BODY_TOO_LARGE,
        f"The body is larger than {limit_bytes} bytes.",
        hint="send a shorter prompt; the operator sets max_body_bytes in [api]",
    )


def _check_type(field: bytes) -> None:
    kind, *parameters = (part.strip().lower() for part in field.split(b";"))
    charsets = [p for p in parameters if p.startswith(b"charset=")]
    if kind != JSON or any(
        c.strip(b'"') not in {b"charset=utf-8", b'charset="utf-8'} for c in charsets
    ):
        raise Problem(
            ProblemCode.UNSUPPORTED_MEDIA_TYPE,
            "The body must be JSON in UTF-8.",
            hint="send the header Content-Type: application/json",
        )
