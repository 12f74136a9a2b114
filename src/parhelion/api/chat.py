"""POST /v1/chat/completions: messages in, OpenAI's chat shapes out."""

from __future__ import annotations

import msgspec

from parhelion.api.answers import ChatChoice, ChatCompletion, Said, usage_body
from parhelion.api.bodies import (
    ChatBody,
    ChatMessage,
    preferences_of,
    refused_fields,
    sampler_params,
    seed_of,
    stops_of,
)
from parhelion.api.dialect import Asked, ChunkPen, Origin, Pen, choice_bytes, encode
from parhelion.api.parse import decode, invalid, refuse_unsupported
from parhelion.words import Ask, Message, Usage

HINT = "remove it, or send its neutral value; docs/api.md lists what is refused"

_decoder = msgspec.json.Decoder(ChatBody)
_refused = refused_fields(ChatBody)
_refused_in_message = refused_fields(ChatMessage)


class Chat:
    """The dialect of conversations."""

    path = "/v1/chat/completions"
    name = "chat"

    def read(self, body: bytes, request: str, temperature: float = 1.0) -> Asked:
        """The body as an Ask."""
        asked = decode(_decoder, body)
        refuse_unsupported(asked, _refused, HINT)
        options = asked.stream_options
        ask = Ask(
            request=request,
            dialect="chat",
            model=asked.model,
            messages=tuple(_message(i, turn) for i, turn in enumerate(asked.messages)),
            params=sampler_params(asked, temperature),
            seed=seed_of(asked.seed),
            max_tokens=_max_tokens(asked),
            stop=stops_of(asked.stop),
            provider=preferences_of(asked.provider),
        )
        return Asked(ask, bool(asked.stream), bool(options and options.include_usage))

    def pen(self, origin: Origin) -> Pen:
        """A pen for one streamed answer."""
        return ChatPen(origin)

    def whole(self, origin: Origin, text: str, finish_reason: str, usage: Usage) -> bytes:
        """The complete answer as one JSON body."""
        choice = ChatChoice(message=Said(content=text), finish_reason=finish_reason)
        return encode(
            ChatCompletion(
                id=origin.id,
                created=origin.created_s,
                model=origin.model,
                choices=(choice,),
                usage=usage_body(usage),
            )
        )


class ChatPen(ChunkPen):
    """Chunks with a delta: the role first, then content, then the finish."""

    __slots__ = ()

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin, "chat.completion.chunk", b'"delta":{"content":', b"}")

    def opening(self) -> bytes:
        """The chunk that says who speaks."""
        return self.event(
            b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,'
            b'"finish_reason":null}'
        )

    def ending(self, finish_reason: str, usage: Usage) -> bytes:
        """The finish, the usage, and [DONE]."""
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish_reason}
        return self.finish(choice_bytes(choice), usage)


def _message(index: int, turn: ChatMessage) -> Message:
    for name in _refused_in_message:
        if getattr(turn, name) is not None:
            refuse_unsupported(turn, _refused_in_message, f"in messages[{index}]: {HINT}")
    content = turn.content
    if not isinstance(content, str):
        content = "".join(part.text for part in content)
    # The templates of open models know three roles; OpenAI made `developer` of `system`.
    return Message(role="system" if turn.role == "developer" else turn.role, content=content)


def _max_tokens(asked: ChatBody) -> int | None:
    old, new = asked.max_tokens, asked.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise invalid(
            "max_completion_tokens", f"it is {new}, but max_tokens is {old}; send one of them."
        )
    return old if new is None else new
