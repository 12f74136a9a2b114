"""The request bodies as structs: what is honoured, what has no effect, what is refused by name.

A field that is refused still has a place here, with its neutral values as its whole schema, so
that a client which sends the neutral value passes, and one that asks for more is told which field.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from parhelion.api.parse import refuse_unsupported
from parhelion.api.plain import form
from parhelion.words import DECIMALS, MaxPrice, ProviderPreferences, SamplerParams

MESSAGES_LIMIT = 4096
"""A conversation of more turns than this does not fit into any context that we serve."""

PARTS_LIMIT = 1024
PROMPT_IDS_LIMIT = 1_048_576
"""The longest context that any open model claims."""

STOP_LIMIT = 4
STOP_LIMIT_CHARS = 256
"""OpenAI's own number, and a length that is still cheap to look for after every token."""

BIAS_LIMIT = 1024
"""As many as the sampler considers at most (its largest top_k)."""

TOP_K_LIMIT = 1024
MODEL_LIMIT_CHARS = 256

NAMES_LIMIT = 64
NAME_LIMIT_CHARS = 128
"""More than anybody writes by hand; an operator's id is a word and a peer id, 60 characters."""

PRICE_LIMIT = 999_999_999
"""Above every rate that the catalogue takes."""


def _neutral(*values: Any) -> Meta:
    # The values stand in the text as well, because typing caches Annotated by equality, and to
    # Python False equals 0.
    others = "".join(f" or {value!r}" for value in values)
    return Meta(
        description=f"Not supported yet: refused unless it is null{others}.",
        extra_json_schema={"enum": [None, *values]},
    )


def _number(low: float, high: float, about: str) -> Meta:
    return Meta(ge=low, le=high, description=about)


StopString = Annotated[str, Meta(min_length=1, max_length=STOP_LIMIT_CHARS)]
Stop = StopString | Annotated[list[StopString], Meta(max_length=STOP_LIMIT)]
TokenKey = Annotated[str, form("^(0|[1-9][0-9]{0,6})$", 'token ids in digits, such as "1734"')]
Bias = Annotated[float, Meta(ge=-100, le=100)]
LogitBias = Annotated[
    dict[TokenKey, Bias],
    Meta(max_length=BIAS_LIMIT, description="Token id to a number added to its logit."),
]
MaxTokens = Annotated[int, Meta(ge=1, le=PROMPT_IDS_LIMIT)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1, description="Taken modulo 2**64.")]
ModelName = Annotated[str, Meta(min_length=1, max_length=MODEL_LIMIT_CHARS)]
PromptText = Annotated[str, Meta(min_length=1)]
NodeName = Annotated[str, Meta(min_length=1, max_length=NAME_LIMIT_CHARS)]
NodeNames = Annotated[list[NodeName], Meta(max_length=NAMES_LIMIT)]
Price = (
    Annotated[float, Meta(ge=0, le=PRICE_LIMIT)]
    | Annotated[str, form("^[0-9]{1,9}([.][0-9]{1,18})?$", 'a decimal number such as "0.25"')]
)
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class Closed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request body or a part of one: a field that is not here is refused by its name."""


class StreamOptions(Closed, frozen=True, kw_only=True):
    """How the stream ends: with usage as its own chunk, or inside the last one."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class PriceLimit(Closed, frozen=True, kw_only=True):
    """Whole units of the asset for 1,000,000 tokens; the others are never charged here."""

    prompt: Price | None = None
    completion: Price | None = None

    request: Price | None = None
    image: Price | None = None
    audio: Price | None = None


class ProviderBody(Closed, frozen=True, kw_only=True):
    """OpenRouter's `provider` object; names are a node's name, its peer id, or its operator."""

    only: NodeNames | None = None
    ignore: NodeNames | None = None
    order: NodeNames | None = None
    allow_fallbacks: bool | None = None
    max_price: PriceLimit | None = None
    sort: Literal["price", "throughput", "latency"] | None = None

    require_parameters: bool | None = None

    data_collection: Annotated[Any, _neutral("allow")] = None
    zdr: Annotated[Any, _neutral(False)] = None
    enforce_distillable_text: Annotated[Any, _neutral(False)] = None
    quantizations: Annotated[Any, _neutral([])] = None
    preferred_min_throughput: Annotated[Any, _neutral()] = None
    preferred_max_latency: Annotated[Any, _neutral()] = None


class Basic(Closed, frozen=True, kw_only=True):
    """What every dialect takes."""

    model: ModelName | None = None
    max_tokens: MaxTokens | None = None
    temperature: Annotated[float, _number(0, 2, "0 is greedy; absent is 1.")] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    provider: ProviderBody | None = None


class Sampled(Basic, frozen=True, kw_only=True):
    """What chat and completions share: the sampler's fields, and those without effect."""

    top_p: Annotated[float, _number(0, 1, "Absent is 1.")] | None = None
    top_k: Annotated[int, _number(0, TOP_K_LIMIT, "0 or absent is 64.")] | None = None
    min_p: Annotated[float, _number(0, 1, "Absent is 0.")] | None = None
    presence_penalty: Annotated[float, _number(-2, 2, "On output ids.")] | None = None
    frequency_penalty: Annotated[float, _number(-2, 2, "On output ids.")] | None = None
    logit_bias: LogitBias | None = None
    seed: Seed | None = None
    stop: Stop | None = None

    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    parallel_tool_calls: bool | None = None

    n: Annotated[Any, _neutral(1)] = None


class TextPart(Closed, frozen=True, kw_only=True):
    """The one kind of content part that a text model can read."""

    type: Literal["text"]
    text: str


class ChatMessage(Closed, frozen=True, kw_only=True):
    """One turn; `developer` is rendered as `system`, `name` has no effect."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Meta(min_length=1, max_length=PARTS_LIMIT)]
    name: str | None = None
    refusal: Annotated[Any, _neutral()] = None
    audio: Annotated[Any, _neutral()] = None
    annotations: Annotated[Any, _neutral([])] = None
    tool_calls: Annotated[Any, _neutral([])] = None
    tool_call_id: Annotated[Any, _neutral()] = None
    function_call: Annotated[Any, _neutral()] = None


class ChatBody(Sampled, frozen=True, kw_only=True):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MESSAGES_LIMIT)]
    max_completion_tokens: MaxTokens | None = None

    audio: Annotated[Any, _neutral()] = None
    function_call: Annotated[Any, _neutral("none", "auto")] = None
    functions: Annotated[Any, _neutral([])] = None
    logprobs: Annotated[Any, _neutral(False)] = None
    modalities: Annotated[Any, _neutral(["text"])] = None
    moderation: Annotated[Any, _neutral()] = None
    prediction: Annotated[Any, _neutral()] = None
    reasoning_effort: Annotated[Any, _neutral("none")] = None
    response_format: Annotated[Any, _neutral({"type": "text"})] = None
    tool_choice: Annotated[Any, _neutral("none", "auto")] = None
    tools: Annotated[Any, _neutral([])] = None
    top_logprobs: Annotated[Any, _neutral(0)] = None
    verbosity: Annotated[Any, _neutral("medium")] = None
    web_search_options: Annotated[Any, _neutral()] = None


_PROMPT_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {"type": "string", "minLength": 1},
        },
        {
            "type": "array",
            "minItems": 1,
            "maxItems": PROMPT_IDS_LIMIT,
            "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
        },
    ],
    "description": "Text, an array of one text, or token ids of the model's own vocabulary.",
}


class CompletionBody(Sampled, frozen=True, kw_only=True):
    """The body of POST /v1/completions."""

    prompt: Annotated[Any, Meta(extra_json_schema=_PROMPT_SCHEMA)]

    best_of: Annotated[Any, _neutral(1)] = None
    echo: Annotated[Any, _neutral(False)] = None
    logprobs: Annotated[Any, _neutral(False)] = None
    suffix: Annotated[Any, _neutral("")] = None


class InferenceBody(Basic, frozen=True, kw_only=True):
    """The body of POST /v1/inference: the smallest one; it answers like /v1/completions."""

    prompt: PromptText


def refused_fields(body: type[msgspec.Struct]) -> dict[str, tuple[Any, ...]]:
    """The fields of a body that only pass with a neutral value, and which values those are."""
    found: dict[str, tuple[Any, ...]] = {}
    for field in msgspec.inspect.type_info(body).fields:  # type: ignore[union-attr, attr-defined]
        kind = field.type
        schema = getattr(kind, "extra_json_schema", None) or {}
        if "enum" in schema:
            found[field.name] = tuple(value for value in schema["enum"] if value is not None)
    return found


PROVIDER_HINT = "remove it, or send its neutral value; docs/api.md says which fields are honoured"
_REFUSED_OF_PROVIDER = refused_fields(ProviderBody)


WITHOUT_EFFECT = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
)
"""Accepted because they change nothing in the answer; docs/api.md says so of each."""


def sampler_params(body: Sampled, temperature: float = 1.0) -> SamplerParams:
    """The sampler's part of a body; an absent field is the sampler's default, or the tier's."""
    bias = body.logit_bias or {}
    return SamplerParams(
        temperature=_or(body.temperature, temperature),
        top_p=_or(body.top_p, 1.0),
        top_k=body.top_k or 0,
        min_p=_or(body.min_p, 0.0),
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        logit_bias=tuple(sorted((int(key), value) for key, value in bias.items())),
    )


def preferences_of(provider: ProviderBody | None) -> ProviderPreferences | None:
    """What a client says of nodes; Problem UNSUPPORTED_PARAMETER for what we cannot promise."""
    if provider is None:
        return None
    refuse_unsupported(provider, _REFUSED_OF_PROVIDER, PROVIDER_HINT, "provider")
    limit = provider.max_price
    return ProviderPreferences(
        only=tuple(provider.only or ()) or None,
        ignore=tuple(provider.ignore or ()),
        order=tuple(provider.order or ()),
        allow_fallbacks=provider.allow_fallbacks is not False,
        max_price=None
        if limit is None
        else MaxPrice(prompt_micro=_micro(limit.prompt), completion_micro=_micro(limit.completion)),
        sort=provider.sort,
    )


def _micro(price: float | str | None) -> int | None:
    """A price of whole units in base units, rounded down: nobody pays more than they said."""
    if price is None:
        return None
    # A float's shortest text is what the client wrote; its binary value is something else.
    return int(Decimal(str(price)).scaleb(DECIMALS))


def seed_of(seed: int | None) -> int | None:
    """Any 64-bit integer as the unsigned one of the same bits."""
    return None if seed is None else seed % 2**64


def stops_of(stop: str | list[str] | None) -> tuple[str, ...]:
    """The stop strings, none to four."""
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _or(value: float | None, default: float) -> float:
    # Adding 0.0 turns -0.0 into 0.0: one value, one encoding on the receipt.
    return default if value is None else value + 0.0
