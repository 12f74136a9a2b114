"""POST /v1/completions: a prompt as text or ids in, OpenAI's text shapes out."""

from __future__ import annotations

from typing import Any

import msgspec

from parhelion.api.answers import Completion, TextChoice, usage_body
from parhelion.api.bodies import (
    PROMPT_IDS_LIMIT,
    CompletionBody,
    preferences_of,
    refused_fields,
    sampler_params,
    seed_of,
    stops_of,
)
from parhelion.api.dialect import Asked, ChunkPen, Origin, Pen, choice_bytes, encode
from parhelion.api.parse import decode, invalid, refuse_unsupported, unsupported
from parhelion.words import Ask, Usage

HINT = "remove it, or send its neutral value; docs/api.md lists what is refused"

_decoder = msgspec.json.Decoder(CompletionBody)
_refused = refused_fields(CompletionBody)


class Completions:
    """The dialect of plain prompts."""

    path = "/v1/completions"
    name = "completions"

    def read(self, body: bytes, request: str, temperature: float = 1.0) -> Asked:
        """The body as an Ask."""
        asked = decode(_decoder, body)
        refuse_unsupported(asked, _refused, HINT)
        options = asked.stream_options
        ask = Ask(
            request=request,
            dialect="completions",
            model=asked.model,
            prompt=_prompt(asked.prompt),
            params=sampler_params(asked, temperature),
            seed=seed_of(asked.seed),
            max_tokens=asked.max_tokens,
            stop=stops_of(asked.stop),
            provider=preferences_of(asked.provider),
        )
        return Asked(ask, bool(asked.stream), bool(options and options.include_usage))

    def pen(self, origin: Origin) -> Pen:
        """A pen for one streamed answer."""
        return TextPen(origin)

    def whole(self, origin: Origin, text: str, finish_reason: str, usage: Usage) -> bytes:
        """The complete answer as one JSON body."""
        return encode(
            Completion(
                id=origin.id,
                created=origin.created_s,
                model=origin.model,
                choices=(TextChoice(text=text, finish_reason=finish_reason),),
                usage=usage_body(usage),
            )
        )


class TextPen(ChunkPen):
    """Chunks whose choice holds the text itself; no role comes first."""

    __slots__ = ()

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin, "text_completion", b'"text":', b"")

    def opening(self) -> bytes:
        """Nothing: a completion has no role."""
        return b""

    def ending(self, finish_reason: str, usage: Usage) -> bytes:
        """The finish, the usage, and [DONE]."""
        choice = {"text": "", "index": 0, "logprobs": None, "finish_reason": finish_reason}
        return self.finish(choice_bytes(choice), usage)


def _prompt(prompt: Any) -> str | tuple[int, ...]:
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt:
        return prompt
    if isinstance(prompt, list) and prompt:
        return _ids(prompt)
    raise invalid("prompt", "expected a text, an array of one text, or an array of token ids.")


def _ids(prompt: list[Any]) -> tuple[int, ...]:
    if isinstance(prompt[0], str | list):
        raise unsupported(
            "prompt", "Only one prompt a request is supported.", "send one request for each prompt"
        )
    ids = [_id(item) for item in prompt]
    if len(ids) > PROMPT_IDS_LIMIT:
        raise invalid("prompt", f"more than {PROMPT_IDS_LIMIT} token ids.")
    return tuple(ids)


def _id(item: Any) -> int:
    # bool is an int to Python and not to JSON; 7.0 is an integer to JSON and not to Python.
    whole = type(item) is int or (type(item) is float and item.is_integer())
    if not whole or not 0 <= item < 2**31:
        raise invalid("prompt", "expected token ids, integers from 0.")
    return int(item)
