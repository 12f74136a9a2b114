"""What a dialect is: it reads a body into an Ask, and writes chunks in its clients' shapes."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from parhelion.api.answers import usage_body
from parhelion.words import Ask, Usage

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
"""An SSE comment: every client skips it, and no proxy sees an idle connection."""

encode = msgspec.json.Encoder().encode


class Asked(msgspec.Struct, frozen=True):
    """An Ask, and how its answer is to be written."""

    ask: Ask
    stream: bool
    include_usage: bool


class Origin(msgspec.Struct, frozen=True):
    """What every chunk of one answer repeats: known once the request is placed."""

    id: str
    created_s: int
    model: str
    include_usage: bool = False


class Pen(Protocol):
    """Writes one streamed answer; what does not change is encoded once."""

    def opening(self) -> bytes:
        """The first bytes: the role, where the dialect has one."""
        ...

    def text(self, text: str) -> bytes:
        """One delta; this is what a token costs."""
        ...

    def ending(self, finish_reason: str, usage: Usage) -> bytes:
        """The finish, the usage, and [DONE]."""
        ...


class Dialect(Protocol):
    """One way to ask and to be answered."""

    path: str
    name: str

    def read(self, body: bytes, request: str, temperature: float = 1.0) -> Asked:
        """The body as an Ask; Problem that names the field otherwise.

        `temperature` is that of a body that names none.
        """
        ...

    def pen(self, origin: Origin) -> Pen:
        """A pen for one streamed answer."""
        ...

    def whole(self, origin: Origin, text: str, finish_reason: str, usage: Usage) -> bytes:
        """The complete answer as one JSON body."""
        ...


class ChunkPen:
    """The event shape that OpenAI's two dialects share; they differ in what a choice holds."""

    __slots__ = ("_base", "_include_usage", "_text_head", "_text_tail")

    def __init__(self, origin: Origin, kind: str, text_head: bytes, text_tail: bytes) -> None:
        head = {
            "id": origin.id,
            "object": kind,
            "created": origin.created_s,
            "model": origin.model,
        }
        self._include_usage = origin.include_usage
        self._base = b"data: " + encode(head)[:-1]
        self._text_head = self._base + b',"choices":[{"index":0,' + text_head
        # With include_usage OpenAI says `usage: null` in every chunk but the last.
        usage = b',"usage":null' if origin.include_usage else b""
        self._text_tail = text_tail + b',"logprobs":null,"finish_reason":null}]' + usage + b"}\n\n"

    def text(self, text: str) -> bytes:
        """One delta."""
        return self._text_head + encode(text) + self._text_tail

    def event(self, choice: bytes) -> bytes:
        """An event with this one choice and no usage."""
        usage = b',"usage":null' if self._include_usage else b""
        return self._base + b',"choices":[' + choice + b"]" + usage + b"}\n\n"

    def finish(self, choice: bytes, usage: Usage) -> bytes:
        """The last events: usage as its own chunk, or inside the one that carries the finish."""
        counted = b',"usage":' + encode(usage_body(usage)) + b"}\n\n"
        if self._include_usage:
            return self.event(choice) + self._base + b',"choices":[]' + counted + DONE
        return self._base + b',"choices":[' + choice + b"]" + counted + DONE


def choice_bytes(fields: dict[str, Any]) -> bytes:
    """One choice as JSON."""
    return encode(fields)
