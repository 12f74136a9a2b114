"""What the link stands on, and how it ends: a byte socket, its closing, and a named cause."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from parhelion.words import Problem, ProblemCode

CLOSE_NORMAL = 1000
CLOSE_TOO_BIG = 1009
CLOSE_REFUSED = 4400
"""Our WebSocket close code for a broken rule; the close reason says which."""

CLOSE_REASON_LIMIT_BYTES = 120
"""A WebSocket close frame holds 123 bytes of reason."""

GOODBYE_DEADLINE_S = 2.0
"""What a last frame, or a close, may take to leave."""

CAUSE_LIMIT_CHARS = 200
"""What a stranger says of itself is logged, but not at any length."""


class ConnectionClosed(Exception):
    """The socket under the link is closed; `code` and `reason` are the WebSocket's, if it said."""

    def __init__(self, code: int | None = None, reason: str = "") -> None:
        super().__init__(f"closed ({code}) {reason}".rstrip())
        self.code = code
        self.reason = reason


class LinkBroken(Exception):
    """The link ended against the rules or without a goodbye; `message` is the cause."""

    def __init__(self, code: ProblemCode, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = clipped(message)
        self.hint = hint

    def problem(self) -> Problem:
        """The same cause as the error that a person meets."""
        return Problem(self.code, self.message, hint=self.hint)


class ByteSocket(Protocol):
    """Whole binary messages over a WebSocket, whichever library holds it."""

    async def send(self, data: bytes) -> None:
        """Send one message; ConnectionClosed when the socket is closed."""
        ...

    async def receive(self) -> bytes:
        """The next message; ConnectionClosed when there is none any more."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Close with a code and a short reason; harmless when it is closed already."""
        ...


def broken(message: str, hint: str = "") -> LinkBroken:
    """A link that ended for a cause that may pass."""
    return LinkBroken(ProblemCode.LINK_BROKEN, message, hint)


def refused(message: str, hint: str = "") -> LinkBroken:
    """A link that one side does not want, for a cause that does not pass by itself."""
    return LinkBroken(ProblemCode.LINK_REFUSED, message, hint)


def closing_cause(closed: ConnectionClosed) -> LinkBroken:
    """The cause that a closed socket leaves: what the other side said, or that it said nothing."""
    if closed.code == CLOSE_TOO_BIG:
        return broken("a frame over the limit was refused (1009)")
    said = clipped(closed.reason)
    if said:
        return broken(f"the other side closed the link: {said} ({closed.code})")
    return broken(f"the connection closed without a goodbye ({closed.code or 'no code'})")


def close_reason(message: str) -> str:
    """`message` cut to what a close frame can hold, at a whole character."""
    return message.encode()[:CLOSE_REASON_LIMIT_BYTES].decode("utf-8", "ignore")


async def shut(socket: ByteSocket, code: int, message: str) -> None:
    """Close, however little the other side helps with it."""
    with contextlib.suppress(TimeoutError, ConnectionClosed):
        async with asyncio.timeout(GOODBYE_DEADLINE_S):
            await socket.close(code, close_reason(message))


def clipped(text: str) -> str:
    """`text` as one bounded, printable line: the other side chose some of its characters."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= CAUSE_LIMIT_CHARS else line[: CAUSE_LIMIT_CHARS - 3] + "..."
