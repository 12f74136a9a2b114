"""The carrier: typed messages over a sealed byte socket, and the coordinator's `accept`.

Messages are encoded when they are sent, wait in a bounded queue, and leave through one writer
task; those that wait together leave as one frame. Whatever breaks a rule ends the link with its
cause: the other side is told it in a last sealed Bye, so both can log it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import Generic, TypeVar

import msgspec

from parhelion.identity import NodeKey
from parhelion.link.broken import (
    CLOSE_NORMAL,
    CLOSE_REFUSED,
    GOODBYE_DEADLINE_S,
    ByteSocket,
    ConnectionClosed,
    LinkBroken,
    broken,
    clipped,
    closing_cause,
    shut,
)
from parhelion.link.handshake import CoordinatorHandshake
from parhelion.link.messages import (
    FRAME_LIMIT_BYTES,
    Alive,
    Bye,
    FromCoordinator,
    FromNode,
    Heartbeat,
    Spoken,
)
from parhelion.link.seal import OVERHEAD_BYTES, Seal
from parhelion.words import Problem, ProblemCode

ARRAY_HEAD_BYTES = 5
"""msgpack's largest array head; every sealed frame holds an array of messages."""

MESSAGE_LIMIT_BYTES = FRAME_LIMIT_BYTES - OVERHEAD_BYTES - ARRAY_HEAD_BYTES

COALESCE_LIMIT_BYTES = 64 * 1024
"""Past this a frame of several messages would delay the first of them more than it saves."""

QUEUE_LIMIT_BYTES = 4 * FRAME_LIMIT_BYTES
"""What may wait for a slow other side before `send` waits."""

POST_LIMIT_BYTES = 64 * FRAME_LIMIT_BYTES
"""What may wait before `post`, which cannot wait, gives up: a hundred prompts of 128k ids, sent at
once. A side that reads nothing is found long before, by the time that a frame takes to leave."""

SEND_DEADLINE_S = 10.0
"""A socket that takes nothing for so long is dead, whatever TCP thinks."""

_FROM_NODE = msgspec.msgpack.Decoder(list[FromNode])
_FROM_COORDINATOR = msgspec.msgpack.Decoder(list[FromCoordinator])

In = TypeVar("In")
B = TypeVar("B", bound=Bye)

log = logging.getLogger("parhelion.link")


class Carrier(Generic[In]):
    """One sealed session with a proven `peer`; `receive` gives messages of the other side.

    One task receives; any may send. Silence is for the owner to judge (a deadline on `receive`).
    """

    def __init__(
        self, socket: ByteSocket, seal: Seal, peer: str, decoder: msgspec.msgpack.Decoder[list[In]]
    ) -> None:
        self.peer = peer
        self.here: str | None = None
        """The address of this machine on the way there, at the node's side and where it is known:
        the interface by which neighbours in one network may reach it."""
        self._socket = socket
        self._seal = seal
        self._decoder = decoder
        self._encoder = msgspec.msgpack.Encoder()
        self._heard: deque[In] = deque()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._has_work = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._cause: LinkBroken | None = None
        self._goodbye: Bye | None = None
        self._writer = asyncio.create_task(self._write(), name=f"link-{peer[-6:]}")

    async def send(self, message: Spoken) -> None:
        """Queue a message, waiting for room; LinkBroken when the link has ended.

        Problem BODY_TOO_LARGE when it fits in no frame; the link goes on.
        """
        body = self._encode(message)
        while not self._has_room.is_set() and not self._writer.done():
            # Bounded by the writer's own deadline: it makes room, or ends the link.
            await self._has_room.wait()
        self._queue(body)

    def post(self, message: Spoken) -> None:
        """Queue a message at once; LinkBroken when the link has ended or far too much waits."""
        body = self._encode(message)
        if self._waiting_bytes > POST_LIMIT_BYTES and self._cause is None:
            self._fail(broken("the other side reads too slowly: the outgoing queue is full"))
        self._queue(body)

    async def receive(self) -> In:
        """The next message; LinkBroken with the cause when there is none any more.

        A Bye is the last message. A cancelled call loses nothing.
        """
        while not self._heard:
            if self._cause is not None:
                raise self._cause
            try:
                self._hear(await self._socket.receive())
            except ConnectionClosed as closed:
                # A writer that gave up has closed the socket: its cause is the first one.
                raise self._fail(closing_cause(closed)) from closed
            except LinkBroken as cause:
                bye = Bye(code=cause.code, message=cause.message, hint=cause.hint)
                await self._leave(bye, cause)
                raise
        return self._heard.popleft()

    async def close(self, bye: Bye) -> None:
        """Say why and end: what waits goes out first, then the Bye, then the socket closes."""
        await self._leave(bye, broken(f"ended by this side: {bye.message}"))

    async def abort(self) -> None:
        """End without a word, as a crash would."""
        self._fail(broken("aborted by this side"), planned=True)
        self._writer.cancel()
        await shut(self._socket, CLOSE_NORMAL, "")

    async def _leave(self, bye: Bye, cause: LinkBroken) -> None:
        is_over = self._cause is not None
        self._fail(cause, planned=bye.code == ProblemCode.DRAINING)
        if not is_over and not self._writer.done():
            self._goodbye = bye
            self._has_work.set()
            await asyncio.wait([self._writer], timeout=GOODBYE_DEADLINE_S)
        self._writer.cancel()
        code = CLOSE_NORMAL if bye.code == ProblemCode.DRAINING else CLOSE_REFUSED
        await shut(self._socket, code, bye.message)

    def _encode(self, message: Spoken) -> bytes:
        if self._cause is not None:
            raise self._cause
        body = self._encoder.encode(message)
        if len(body) > MESSAGE_LIMIT_BYTES:
            raise Problem(
                ProblemCode.BODY_TOO_LARGE,
                f"a {type(message).__name__} of {len(body)} bytes fits in no frame",
                hint=f"a frame of the link holds at most {MESSAGE_LIMIT_BYTES} bytes",
            )
        return body

    def _queue(self, body: bytes) -> None:
        if self._cause is not None:
            raise self._cause
        if self._writer.done():
            raise broken("the connection is closed")
        self._waiting.append(body)
        self._waiting_bytes += len(body)
        if self._waiting_bytes > QUEUE_LIMIT_BYTES:
            self._has_room.clear()
        self._has_work.set()

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            # One deadline for the writer's life, moved along: a new one a frame costs more.
            async with asyncio.timeout(None) as deadline:
                while True:
                    if not self._has_work.is_set():
                        deadline.reschedule(None)
                        await self._has_work.wait()
                    deadline.reschedule(loop.time() + SEND_DEADLINE_S)
                    if self._waiting:
                        await self._socket.send(self._seal.seal(self._take()))
                    elif self._goodbye is not None:
                        last = self._encoder.encode([self._goodbye])
                        await self._socket.send(self._seal.seal_final(last))
                        return
                    else:
                        self._has_work.clear()
        except TimeoutError:
            self._fail(broken(f"the other side took nothing for {SEND_DEADLINE_S:g} s"))
            # This wakes the reader, which raises the cause just named.
            await shut(self._socket, CLOSE_REFUSED, "reads too slowly")
        except ConnectionClosed as closed:
            # The reader meets the same end, but may have frames to read first (a Bye).
            log.debug("socket closed under the writer", extra={"cause": str(closed)})
        finally:
            self._has_room.set()

    def _take(self) -> bytes:
        """The bodies that leave together, as one msgpack array."""
        if len(self._waiting) == 1:
            self._waiting_bytes = 0
            self._has_room.set()
            # What msgpack writes before the one item of an array.
            return b"\x91" + self._waiting.popleft()
        bodies = [self._waiting.popleft()]
        size_bytes = len(bodies[0])
        while self._waiting and size_bytes + len(self._waiting[0]) <= COALESCE_LIMIT_BYTES:
            bodies.append(self._waiting.popleft())
            size_bytes += len(bodies[-1])
        self._waiting_bytes -= size_bytes
        if self._waiting_bytes <= QUEUE_LIMIT_BYTES:
            self._has_room.set()
        return self._encoder.encode([msgspec.Raw(body) for body in bodies])

    def _hear(self, frame: bytes) -> None:
        if len(frame) > FRAME_LIMIT_BYTES:
            raise broken(f"a frame of {len(frame)} bytes, over {FRAME_LIMIT_BYTES}")
        body, is_last = self._seal.unseal(frame)
        try:
            messages = self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LinkBroken(
                ProblemCode.INVALID_REQUEST,
                f"unknown or malformed message: {error}",
                hint="install the same Parhelion on both sides",
            ) from error
        bye = messages[-1] if messages else None
        said_bye = isinstance(bye, Bye)
        if said_bye is not is_last:
            raise broken("the stream ended without a Bye, or a Bye did not end it")
        if isinstance(bye, Bye):
            # Kept as short as it is logged: its words are the other side's to choose.
            messages[-1] = bye = _short(bye)
        if any(isinstance(message, Heartbeat) for message in messages):
            # One for all of a frame: it says no more, and a frame holds tens of thousands.
            self._answer_beat()
        self._heard.extend(messages)
        if isinstance(bye, Bye):
            self._say_ended(bye)

    def _answer_beat(self) -> None:
        # A full queue or an ended link is noticed elsewhere; an echo is not worth a failure.
        if self._has_room.is_set():
            with contextlib.suppress(LinkBroken):
                self._queue(self._encoder.encode(Alive()))

    def _say_ended(self, bye: Bye) -> None:
        cause = broken(f"the other side ended the link: {bye.message} ({bye.code})", bye.hint)
        self._fail(cause, planned=bye.code == ProblemCode.DRAINING)
        self._writer.cancel()

    def _fail(self, cause: LinkBroken, *, planned: bool = False) -> LinkBroken:
        """Remember the first cause, log it once, and let nobody wait; the cause that counts.

        A `planned` end is no failure: whose it is says so in words of its own.
        """
        if self._cause is None:
            self._cause = cause
            level = logging.DEBUG if planned else logging.INFO
            log.log(level, "link ended", extra={"peer": self.peer, "cause": cause.message})
            self._has_room.set()
        return self._cause


async def accept(socket: ByteSocket, key: NodeKey, deadline_s: float = 5.0) -> Carrier[FromNode]:
    """The coordinator's side of a new socket: a carrier with a proven node, or LinkBroken.

    A refused socket is closed with the cause, which is logged here too.
    """
    handshake = CoordinatorHandshake(key)
    try:
        async with asyncio.timeout(deadline_s):
            while handshake.seal is None:
                answer = handshake.feed(await socket.receive())
                if answer:
                    await socket.send(answer)
    except TimeoutError:
        cause = broken(f"silence: no handshake within {deadline_s:g} s")
    except ConnectionClosed as closed:
        cause = closing_cause(closed)
    except LinkBroken as refusal:
        cause = refusal
    else:
        assert handshake.peer is not None
        return Carrier(socket, handshake.seal, handshake.peer, _FROM_NODE)
    log.warning("handshake refused", extra={"cause": cause.message})
    await shut(socket, CLOSE_REFUSED, cause.message)
    raise cause


def carry_from_coordinator(socket: ByteSocket, seal: Seal, peer: str) -> Carrier[FromCoordinator]:
    """The node's carrier after a handshake."""
    return Carrier(socket, seal, peer, _FROM_COORDINATOR)


def _short(bye: B) -> B:
    return msgspec.structs.replace(
        bye, code=clipped(bye.code), message=clipped(bye.message), hint=clipped(bye.hint)
    )
