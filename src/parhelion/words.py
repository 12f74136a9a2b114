"""The shared nouns of Parhelion: frozen structs, ids and the one error type; no I/O.

Units stand last in names. Amounts are integers of base units (6 decimals): `_micro`.
Token ids are plain ints of the model's own vocabulary. Times are Unix milliseconds: `_ms`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from parhelion.problems import Offer as Offer
from parhelion.problems import Problem as Problem
from parhelion.problems import ProblemCode as ProblemCode
from parhelion.records import ID_ENTROPY_BYTES as ID_ENTROPY_BYTES
from parhelion.records import Clock as Clock
from parhelion.records import ClosedRecord as ClosedRecord
from parhelion.records import Record as Record
from parhelion.records import kin as kin
from parhelion.records import mint as mint
from parhelion.records import minted_ms as minted_ms
from parhelion.stages import TAG_BLOCK_IDS as TAG_BLOCK_IDS
from parhelion.stages import StageJob as StageJob
from parhelion.stages import StageOffer as StageOffer
from parhelion.stages import StageSegment as StageSegment
from parhelion.stages import StageSpec as StageSpec

DECIMALS = 6
"""Base units per whole token of every asset are 10**DECIMALS (USDC's own number)."""

TOKENS_PER_RATE = 1_000_000
"""Rates are base units per this many tokens, so that no rate needs a fraction."""

# --- money ------------------------------------------------------------------------------------


class AssetClass(StrEnum):
    """What money a data folder holds; a folder belongs to one class and refuses the others."""

    LOCAL = "local"
    TEST = "test"
    MAIN = "main"


class Rate(Record, frozen=True, kw_only=True):
    """What a model costs in one asset: base units per TOKENS_PER_RATE tokens, versioned."""

    model: str
    asset: str
    version: int
    prompt_micro: int
    completion_micro: int


# --- a request --------------------------------------------------------------------------------


class Message(Record, frozen=True, kw_only=True):
    """One turn of a chat; `content` is the plain text of its text parts."""

    role: str
    content: str


class SamplerParams(Record, frozen=True, kw_only=True):
    """What the keyed sampler takes beside logits, history, seed and position (DESIGN 3).

    `top_k` 0 means 64; at most 1,024. `logit_bias` is sorted by id. `temperature` 0 is greedy.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()


class MaxPrice(Record, frozen=True, kw_only=True):
    """The highest rate that a client accepts, in base units per TOKENS_PER_RATE tokens."""

    prompt_micro: int | None = None
    completion_micro: int | None = None


class ProviderPreferences(Record, frozen=True, kw_only=True):
    """Which nodes a client wants, in OpenRouter's words; names are as `/v1/nodes` shows them.

    `only` None: any. `order` comes first, then others if `allow_fallbacks`, by measured `sort`.
    """

    only: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    allow_fallbacks: bool = True
    max_price: MaxPrice | None = None
    sort: Literal["price", "throughput", "latency"] | None = None


class Tier(ClosedRecord, frozen=True, kw_only=True):
    """One answer at a fixed price: `[[x402.tiers]]`; `model` empty means the pool's default."""

    name: str
    price_micro: int
    max_tokens: int
    max_prompt_tokens: int
    model: str = ""
    temperature: float | None = None


class Ask(Record, frozen=True, kw_only=True):
    """What a client asks for, whatever the dialect: exactly one of `messages` and `prompt`.

    `prompt` is text, or ids of the model's vocabulary. `max_tokens` None means the model's
    default. `seed` None means 64 bits from the OS. `model` None means the pool's default.
    `body_hash` (sha256 hex of the canonical body) goes with `idempotency_key` and with payments.
    `tier`: sold as one answer of it.
    """

    request: str
    dialect: Literal["chat", "completions", "inference"]
    model: str | None = None
    messages: tuple[Message, ...] | None = None
    prompt: str | tuple[int, ...] | None = None
    params: SamplerParams = SamplerParams()
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    deadline_s: float = 60.0
    provider: ProviderPreferences | None = None
    idempotency_key: str | None = None
    body_hash: str = ""
    tier: Tier | None = None


class Credentials(Record, frozen=True, kw_only=True):
    """Who says they pay, as read from the headers; nothing here is checked yet.

    `address` is where the request comes from; "" where that is not known (a proxy's is not it).
    `payment` is a PAYMENT-SIGNATURE header, `sign_in` a SIGN-IN-WITH-X one, `session` a session's
    token; `url` is what was asked for, as offers name it.
    """

    bearer: str | None = None
    address: str = ""
    payment: bytes | None = None
    session: str | None = None
    sign_in: bytes | None = None
    url: str = ""


class ModelCard(Record, frozen=True, kw_only=True):
    """A model of the catalogue as anyone may see it; digests are sha256 in lower-case hex."""

    id: str
    digest: str
    vocabulary_digest: str
    template_digest: str
    purpose: str
    size_bytes: int
    memory_bytes: int
    context: int
    default_max_tokens: int
    n_vocab: int
    architecture: str
    layers: int
    created_s: int
    demonstration: bool = False


class Quote(Record, frozen=True, kw_only=True):
    """What an ask can cost at most; pure function of the ask, the model and its rates.

    `max_tokens` is already resolved (default, context left). `rates` has one rate per asset.
    """

    model: ModelCard
    prompt_ids: tuple[int, ...]
    max_tokens: int
    rates: tuple[Rate, ...]


class Bought(Record, frozen=True, kw_only=True):
    """The payment that a request came with: what landed, in which transaction, from whom."""

    network: str
    transaction: str
    payer: str
    amount_micro: int


class Grant(Record, frozen=True, kw_only=True):
    """Leave to serve one ask: which account pays, at which rate, and at most how much.

    `unbilled_from`: ids before this index of the output, and the prompt, were billed by an
    earlier run of the same Idempotency-Key that a crash cut; None for a first run. `seed` is
    then the earlier run's. `tier`: a whole answer costs its price, whatever its length. `bought`
    is the payment that came with the request, if one did.
    """

    account: str
    key: str | None
    rate: Rate
    amount_micro: int
    seed: int
    unbilled_from: int | None = None
    tier: Tier | None = None
    bought: Bought | None = None


class Hold(Record, frozen=True, kw_only=True):
    """Credits set aside for one request; a row, always taken, also when the amount is 0."""

    id: str
    account: str
    key: str | None
    asset: str
    amount_micro: int
    state: str
    accepted_ids: int
    attempt: int
    expires_at_ms: int


# --- work -------------------------------------------------------------------------------------


class Job(Record, frozen=True, kw_only=True):
    """One attempt at a request as a node gets it.

    `output_ids` are those already accepted from earlier attempts: the node prefills prompt and
    output and goes on at position len(output_ids). `max_tokens` counts output ids from 0.
    `cache_scope` is an opaque tag: a prefix is reused only under the same tag (one account).
    `opening` is the 32 bytes under which receipts hash ids and text.
    """

    job: str
    attempt: int
    digest: str
    cache_scope: str
    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...] = ()
    params: SamplerParams = SamplerParams()
    seed: int = 0
    max_tokens: int = 1
    opening: bytes = b""


class Placement(Record, frozen=True, kw_only=True):
    """Where one attempt runs: an ordered pipeline of 1..n nodes, slots and KV tokens reserved."""

    job: str
    attempt: int
    pipeline: tuple[str, ...]
    kv_tokens: int


class Step(msgspec.Struct, frozen=True, array_like=True):
    """What one engine step made for one job: output ids from index `start` on.

    An empty `ids` with `prefilled` > 0 reports prefill progress: how many ids that the job came
    with, prompt and earlier output, are in the KV cache.
    `finish` is "eog" (the last id is end-of-text), "length", or a ProblemCode's value when the
    engine gave up; None while it goes on. `cached` is how many prompt tokens were reused.
    """

    job: str
    attempt: int
    start: int
    ids: tuple[int, ...] = ()
    finish: str | None = None
    prefilled: int = 0
    cached: int = 0


class Chunk(Record, frozen=True, kw_only=True):
    """What the relay hands to a dialect: text that may be sent, and the end when it comes."""

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None


class Usage(Record, frozen=True, kw_only=True):
    """OpenAI's counts and ours (DESIGN 2); amounts: base units in strings. Migrations: Receipt.

    `nodes` are all who delivered, each once; `segments` who made each stretch, in order of layers.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost: str
    asset: str
    nodes: tuple[str, ...]
    segments: tuple[tuple[str, ...], ...]
    route: Literal["pool", "fallback"]
    migrations: int
    hold: str
    receipt: str
    credited: str


# --- receipts ---------------------------------------------------------------------------------


class Segment(ClosedRecord, frozen=True, kw_only=True):
    """One node's stretch [start, to) of the output; `head` is the id chain at `to`.

    `signature` is unpadded base64url; None with the `reason` when the node gave none in time.
    `ask` binds what the node was asked (see proof.receipt). Of a pipeline `node` is the last stage,
    which chose the ids, and `stages` has every stage's own part in order; else it is left out.
    """

    node: str
    job: str
    attempt: int
    opening_hash: str
    artefact: str
    backend: str
    start: int
    to: int
    head: str
    ask: str
    started_at_ms: int
    ended_at_ms: int
    signature: str | None = None
    reason: str | None = None
    stages: tuple[StageSegment, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def nodes(self) -> tuple[str, ...]:
        """Who worked on this stretch, in the order of layers."""
        if self.stages is msgspec.UNSET:
            return (self.node,)
        return tuple(stage.node for stage in self.stages)


class Sold(ClosedRecord, frozen=True, kw_only=True):
    """The tier of an answer that was sold at a fixed price, as its receipt shows it."""

    tier: str
    price_micro: str
    max_tokens: int


class Receipt(ClosedRecord, frozen=True, kw_only=True):
    """What a stranger can check about one answer (DESIGN 9, L0); signed by the coordinator.

    `prompt_hmac`, `head` (of the id chain) and `text_hmac` are HMAC-SHA256 under the opening, hex.
    `completion_tokens + silent_ids == output_ids`: end-of-text and ids without bytes are silent.
    Integers above 2**53 travel as strings (RFC 8785): `seed`, `cost_micro`.
    `already_billed`: after a crash cut an earlier run of the same Idempotency-Key, how many of
    these completion tokens that run billed (and with them the prompt); None on a first run.
    `migrations`: how often the request was sent to a node again after the first time, also where
    a node delivered nothing of it; `segments` are of those that delivered. `payment` is the
    transaction that came with the request (CAIP-2 id, a slash, its id), `sold` the tier.
    """

    v: int
    id: str
    coordinator: str
    asset_class: str
    issued_at_ms: int
    model: str
    artefact: str
    vocabulary: str
    template: str
    opening_hash: str
    prompt_hmac: str
    head: str
    text_hmac: str
    params: SamplerParams
    seed: str
    max_tokens: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    silent_ids: int
    output_ids: int
    finish_reason: str
    route: str
    migrations: int
    rate: Rate
    already_billed: int | None = None
    sold: Sold | None = None
    payment: str | None = None
    cost_micro: str
    segments: tuple[Segment, ...]
    signature: str = ""


class Evidence(ClosedRecord, frozen=True, kw_only=True):
    """What opens a receipt: for its owner for 15 minutes, and for auditors (DESIGN 9).

    `opening` is lower-case hex of 32 bytes.
    """

    receipt: str
    opening: str
    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    text: str


# --- nodes ------------------------------------------------------------------------------------

LoadPhase = Literal["checking", "loading", "proving"]
"""What a node is at before it serves: reading its model's file through, bringing the weights into
memory, taking the engine's first steps."""


class ServedModel(Record, frozen=True, kw_only=True):
    """A model a node offers: the artefact's digest, the context the node can hold, and its share.

    `slots` and `kv_tokens` are this model's engine's own; 0 means all that the card names.
    """

    digest: str
    context: int
    slots: int = 0
    kv_tokens: int = 0


class NodeCard(Record, frozen=True, kw_only=True):
    """What a node says of itself when it registers: shown, never used to pay or rank.

    `slots` and `kv_tokens` are the totals over its models. With an offer of a `stage` it may have
    no model of its own: it then serves whatever part of a model the pool gives it.
    """

    peer: str
    name: str
    version: str
    device: str
    backend: str
    slots: int
    kv_tokens: int
    models: tuple[ServedModel, ...]
    stage: StageOffer | None = None
