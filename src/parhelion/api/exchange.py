"""One request to a model: body to Ask, Ask to Answer, Answer to bytes, whichever the dialect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol

import msgspec
from litestar.types import Receive, Scope, Send

from parhelion.api import errors
from parhelion.api.dialect import Asked, Dialect, Origin
from parhelion.api.parse import body_hash
from parhelion.api.stream import EventStream
from parhelion.api.watch import Watch
from parhelion.api.wire import NO_STORE, ClientLeft, Header, Reply, Visit, read_body, visit_of
from parhelion.config import ApiConfig
from parhelion.payments import check_idempotency_key
from parhelion.words import Ask, Chunk, Clock, Credentials, Problem, minted_ms

if TYPE_CHECKING:
    from parhelion.coordinator import Coordinator

REPLAYED: Header = (b"idempotent-replayed", b"true")
"""The name that Stripe gave it, and that clients of idempotent APIs know."""


class Answer(Protocol):
    """What the coordinator hands back: chunks to send, and a way to say that the client left."""

    request: str
    model: str

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
    """An ASGI app for one dialect; the answer is streamed or whole as the body asked."""

    def __init__(
        self, dialect: Dialect, coordinator: Coordinator, config: ApiConfig, clock: Clock
    ) -> None:
        self.dialect = dialect
        self._coordinator = coordinator
        self._config = config
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer this request, unless the client leaves first."""
        visit = visit_of(scope)
        try:
            body = await read_body(scope, receive, self._config.max_body_bytes)
            asked = self._read(body, visit)
            if asked.stream:
                await self._stream(asked, visit, receive)
            else:
                reply = await self._whole(asked, visit, receive)
                await reply.write(visit.send, visit.headers)
        except ClientLeft:
            return
        except Exception as error:  # noqa: BLE001 - problem_of logs what it does not know
            # Kept by no name of ours: an error leads to this frame, and the two would be a ring.
            refusal = errors.reply(errors.problem_of(error, visit.request))
            # By the door's own `send`, which knows what to do about a body still on its way.
            await refusal.write(send, ())

    def _read(self, body: bytes, visit: Visit) -> Asked:
        asked = self.dialect.read(body, visit.request)
        changed: dict[str, object] = {"deadline_s": self._config.request_deadline_s}
        key = visit.fields.get(b"idempotency-key")
        if key is not None:
            changed["idempotency_key"] = check_idempotency_key(key.decode("latin-1"))
            changed["body_hash"] = body_hash(self.dialect.path, body)
        ask: Ask = msgspec.structs.replace(asked.ask, **changed)
        return Asked(ask, asked.stream, asked.include_usage)

    async def _whole(self, asked: Asked, visit: Visit, receive: Receive) -> Reply:
        answer: Answer | None = None
        try:
            async with Watch(receive):
                answer = await self._coordinator.serve(asked.ask, _credentials(visit))
                last = await answer.whole()
        except BaseException as error:
            await leave(answer, error)
            raise
        if last.usage is None:
            raise RuntimeError("the answer ended without usage")
        origin = _origin(asked, visit, answer, self.dialect)
        finish = last.finish_reason or "stop"
        body = self.dialect.whole(origin, last.text, finish, last.usage)
        return Reply(200, body, [NO_STORE])

    async def _stream(self, asked: Asked, visit: Visit, receive: Receive) -> None:
        stream = EventStream(visit, self._config, self._clock)
        answer: Answer | None = None
        try:
            async with Watch(receive, stream.tick_s, stream.tick) as watch:
                answer = await self._coordinator.serve(asked.ask, _credentials(visit))
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


def _credentials(visit: Visit) -> Credentials:
    return Credentials(bearer=visit.bearer, address=visit.known_address)


def _origin(asked: Asked, visit: Visit, answer: Answer, dialect: Dialect) -> Origin:
    prefix = "chatcmpl" if dialect.name == "chat" else "cmpl"
    request = answer.request
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
