"""The complete answers of the dialects as structs: what is sent is what the schema says."""

from __future__ import annotations

from typing import Literal

import msgspec

from parhelion.words import Usage


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an answer; clients ignore fields that they do not know."""


class Cached(Whole, frozen=True, kw_only=True):
    """How many prompt tokens were reused from the prefix cache."""

    cached_tokens: int


class UsageBody(Whole, frozen=True, kw_only=True):
    """OpenAI's usage and ours; `cost` and `credited` are base units of `asset`.

    `nodes` are those that delivered, in order; `segments` has the nodes of each stretch, of a
    pipeline its stages in order. `migrations` is how often the request was moved to another place
    after its first, which may be at the same node again.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: Cached
    cost: str
    asset: str
    nodes: tuple[str, ...]
    segments: tuple[tuple[str, ...], ...]
    route: Literal["pool", "fallback"]
    migrations: int
    hold: str
    receipt: str
    credited: str


class Said(Whole, frozen=True, kw_only=True):
    """The model's turn."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Whole, frozen=True, kw_only=True):
    """The one choice of a chat answer."""

    index: int = 0
    message: Said
    logprobs: None = None
    finish_reason: str


class ChatCompletion(Whole, frozen=True, kw_only=True):
    """The answer of POST /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[ChatChoice, ...]
    usage: UsageBody


class TextChoice(Whole, frozen=True, kw_only=True):
    """The one choice of a completion."""

    text: str
    index: int = 0
    logprobs: None = None
    finish_reason: str


class Completion(Whole, frozen=True, kw_only=True):
    """The answer of POST /v1/completions and POST /v1/inference."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: tuple[TextChoice, ...]
    usage: UsageBody


def usage_body(usage: Usage) -> UsageBody:
    """The relay's usage in the shape that clients get."""
    return UsageBody(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=Cached(cached_tokens=usage.cached_tokens),
        cost=usage.cost,
        asset=usage.asset,
        nodes=usage.nodes,
        segments=usage.segments,
        route=usage.route,
        migrations=usage.migrations,
        hold=usage.hold,
        receipt=usage.receipt,
        credited=usage.credited,
    )
