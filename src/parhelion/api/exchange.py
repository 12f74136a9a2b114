"""One request to a model: body to Ask, Ask to Answer, Answer to bytes, whichever the dialect."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

import msgspec
from litestar.types import Receive, Scope, Send

from parhelion.api import errors
from parhelion.api.dialect import Asked, Dialect, Origin
from parhelion.api.parse import body_hash
from parhelion.api.paying import response
from parhelion.api.rooms import query_of
from parhelion.api.session import session_token
from parhelion.api.stream import EventStream
from parhelion.api.watch import Watch
from parhelion.api.wire import (
    NO_STORE,
    ClientLeft,
    Header,
    Reply,
    Visit,
    nodes_header,
    read_body,
    scheme_of,
    url_of,
    visit_of,
)
from parhelion.config import ApiConfig
from parhelion.payments import PAYMENT_LIMIT_CHARS, check_idempotency_key, refuse_v1
from parhelion.words import (
    Ask,
    Bought,
    Chunk,
    Clock,
    Credentials,
    Problem,
    ProblemCode,
    Tier,
    minted_ms,
)

if TYPE_CHECKING:
    from parhelion.coordinator import Coordinator

PAYMENT = b"payment-signature"
PAYMENT_V1 = b"x-payment"
SIGN_IN = b"sign-in-with-x"

_WRITTEN = re.compile(rb"[!-~]{1,%d}" % PAYMENT_LIMIT_CHARS)
"""What a payment is written with, whether or not it will be looked at: the gate says the rest."""

NO_RETRY: Header = (b"x-should-retry", b"false")
"""For whoever paid: SDKs send a failed request again by themselves, each with a new payment."""

REPLAYED: Header = (b"idempotent-replayed", b"true")
"""The name that Stripe gave it, and that clients of idempotent APIs know."""


Terms = Callable[[str, Credentials], Awaitable[Tier]]
"""What a request for an answer of the tier of this name is about; Problem where none is sold."""


class Answer(Protocol):
    """What the coordinator hands back: chunks to send, and a way to say that the client left."""

    request: str
    model: str
    bought: Bought | None

    def nodes(self) -> tuple[str, ...]:
        """Peer ids of who makes it now, in order of the route; none while nobody does."""
        ...

    def __aiter__(self) -> AsyncIterator[Chunk]:
        """Chunks as they come; the last one carries the usage."""
        ...

    async def whole(self) -> Chunk:
        """The whole answer as one chunk, once it is there."""
        ...

    async def disconnect(self) -> None:
        """The client left: settle what was delivered."""
        ...


class Exchange:
    """An ASGI app for one dialect; the answer is streamed or whole as the body asked.

    `terms` is None where nothing is sold at a fixed price. `of_tier`: a path's first part names the
    tier, whichever are sold when it is asked for.
    """

    def __init__(
        self,
        dialect: Dialect,
        coordinator: Coordinator,
        config: ApiConfig,
        clock: Clock,
        *,
        terms: Terms | None = None,
        of_tier: bool = False,
    ) -> None:
        self.dialect = dialect
        self._coordinator = coordinator
        self._config = config
        self._clock = clock
        self._terms = terms
        self._of_tier = of_tier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer this request, unless the client leaves first."""
        visit = visit_of(scope)
        try:
            credentials = credentials_of(scope)
            # Once: whatever the pool's owner changes meanwhile, this request is about these terms.
            tier = await self._tier_of(scope, credentials)
            body = await read_body(scope, receive, self._config.max_body_bytes)
            asked = self._read(body, visit, tier, credentials)
            if asked.stream:
                await self._stream(asked, credentials, visit, receive)
            else:
                reply = await self._whole(asked, credentials, visit, receive)
                await reply.write(visit.send, visit.headers)
        except ClientLeft:
            return
        except Exception as error:  # noqa: BLE001 - problem_of logs what it does not know
            # Kept by no name of ours: an error leads to this frame, and the two would be a ring.
            refusal = errors.refusal(errors.problem_of(error, visit.request), scope)
            if PAYMENT in visit.fields:
                refusal.headers.append(NO_RETRY)
            # By the door's own `send`, which knows what to do about a body still on its way.
            await refusal.write(send, ())

    async def _tier_of(self, scope: Scope, credentials: Credentials) -> Tier | None:
        """The tier whose route this is, or that the query names where a route takes one."""
        if self._of_tier:
            name = scope["path"].lstrip("/").partition("/")[0]
        elif self.dialect.name == "inference" and scope["query_string"]:
            name = query_of(scope, ("tier",)).get("tier")
        else:
            return None
        if name is None:
            return None
        if self._terms is None:
            raise Problem(
                ProblemCode.NOT_FOUND,
                f"no tier {name[:32]!r}",
                hint="this pool sells none: leave it out",
                param="tier",
            )
        return await self._terms(name, credentials)

    def _read(
        self, body: bytes, visit: Visit, tier: Tier | None, credentials: Credentials
    ) -> Asked:
        usual = 1.0 if tier is None or tier.temperature is None else tier.temperature
        asked = self.dialect.read(body, visit.request, usual)
        changed: dict[str, object] = {"deadline_s": self._config.request_deadline_s, "tier": tier}
        key = visit.fields.get(b"idempotency-key")
        if key is not None:
            changed["idempotency_key"] = check_idempotency_key(key.decode("latin-1"))
        if key is not None or credentials.payment is not None:
            route = self.dialect.path if tier is None else f"/{tier.name}{self.dialect.path}"
            changed["body_hash"] = body_hash(route, body)
        ask: Ask = msgspec.structs.replace(asked.ask, **changed)
        return Asked(ask, asked.stream, asked.include_usage)

    async def _whole(
        self, asked: Asked, credentials: Credentials, visit: Visit, receive: Receive
    ) -> Reply:
        answer: Answer | None = None
        try:
            async with Watch(receive):
                answer = await self._coordinator.serve(asked.ask, credentials)
                last = await answer.whole()
        except BaseException as error:
            await leave(answer, error)
            raise
        if last.usage is None:
            raise RuntimeError("the answer ended without usage")
        origin = _origin(asked, visit, answer, self.dialect)
        finish = last.finish_reason or "stop"
        body = self.dialect.whole(origin, last.text, finish, last.usage)
        return Reply(200, body, [NO_STORE, *nodes_header(last.usage.nodes)])

    async def _stream(
        self, asked: Asked, credentials: Credentials, visit: Visit, receive: Receive
    ) -> None:
        stream = EventStream(visit, self._config, self._clock)
        # The head names the transaction, which is known when the payment has been settled.
        stream.holds_head = credentials.payment is not None
        answer: Answer | None = None
        try:
            async with Watch(receive, stream.tick_s, stream.tick) as watch:
                answer = await self._coordinator.serve(asked.ask, credentials)
                stream.holds_head = False
                stream.nodes = answer.nodes
                pen = self.dialect.pen(_origin(asked, visit, answer, self.dialect))
                await stream.relay(answer, pen, watch)
        except (ClientLeft, asyncio.CancelledError) as error:
            await leave(answer, error)
            raise
        except Exception as error:
            await leave(answer, error)
            if not stream.started:
                raise
            await stream.fail(errors.problem_of(error, visit.request))


async def leave(answer: Answer | None, error: BaseException) -> None:
    """Tell the coordinator that nobody reads any more, unless the answer ended by itself."""
    if answer is not None and not isinstance(error, Problem):
        await answer.disconnect()


def credentials_of(scope: Scope) -> Credentials:
    """Who says they pay, by the headers of a request."""
    visit = visit_of(scope)
    fields = visit.fields
    if PAYMENT_V1 in fields and PAYMENT not in fields:
        raise refuse_v1()
    if PAYMENT in fields and sum(name == PAYMENT for name, _ in scope["headers"]) > 1:
        raise Problem(
            ProblemCode.PAYMENT_INVALID,
            "PAYMENT-SIGNATURE came more than once: which payment is meant cannot be told",
            hint="send one payment with one request; none of these was taken",
            param="PAYMENT-SIGNATURE",
        )
    payment = fields.get(PAYMENT)
    if payment is not None and not _WRITTEN.fullmatch(payment):
        raise Problem(
            ProblemCode.PAYMENT_INVALID,
            "the PAYMENT-SIGNATURE header is not base64, or longer than the longest that is read: "
            f"it can be at most {PAYMENT_LIMIT_CHARS} characters long",
            hint="send what an x402 client of version 2 makes of our offer",
            param="PAYMENT-SIGNATURE",
        )
    return Credentials(
        bearer=visit.bearer,
        address=visit.known_address,
        payment=payment,
        session=session_token(fields, visit.bearer, scheme_of(scope), scope["path"]),
        sign_in=fields.get(SIGN_IN),
        url=url_of(scope),
    )


def _origin(asked: Asked, visit: Visit, answer: Answer, dialect: Dialect) -> Origin:
    prefix = "chatcmpl" if dialect.name == "chat" else "cmpl"
    request = answer.request
    if answer.bought is not None:
        visit.headers.append(response(answer.bought))
    if request != asked.ask.request:
        # An Idempotency-Key brought the answer of an earlier request: told again as it was.
        visit.headers.append(REPLAYED)
    # The id repeats the request's own letters, so that one search finds an answer and its hold.
    return Origin(
        f"{prefix}-{request.split('_', 1)[1]}",
        minted_ms(request) // 1000,
        answer.model,
        asked.include_usage,
    )
