"""The JSON that goes out beside the answers of models; amounts are strings of base units."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from parhelion.coordinator import NodeView, PipelineView
from parhelion.identity import Decided
from parhelion.words import Evidence, Receipt

Amount = Annotated[str, Meta(pattern="^-?[0-9]+$", description="Integer base units.")]
Decimals = Annotated[str, Meta(pattern="^[0-9]+(\\.[0-9]+)?$", description="Whole tokens.")]


class Out(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the API's own; clients ignore fields that they do not know."""


class Pricing(Out, frozen=True, kw_only=True):
    """What one token costs, as decimal strings of whole units of `asset`."""

    asset: str
    prompt: Decimals
    completion: Decimals


class RateBody(Out, frozen=True, kw_only=True):
    """A rate exactly as it is charged: base units per million tokens."""

    asset: str
    version: int
    prompt: Amount
    completion: Amount


class ModelBody(Out, frozen=True, kw_only=True):
    """A model of the catalogue; `pricing` is null where it has no rate.

    `nodes` are the ready ones that serve it, `available` whether a prompt would be served now.
    `digest`, `vocabulary` and `template` are sha256 of file, vocabulary and chat template;
    `memory_bytes` is the file and the KV cache of one request at full context.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    context_length: int
    default_max_tokens: int
    digest: str
    vocabulary: str
    template: str
    architecture: str
    purpose: str
    demonstration: bool
    size_bytes: int
    memory_bytes: int
    pricing: Pricing | None
    rates: tuple[RateBody, ...]
    nodes: int
    available: bool


class SliceBody(Out, frozen=True, kw_only=True):
    """Layers [start, end) of a model as a file: what it must be, whoever sends it."""

    start: int
    end: int
    size_bytes: int
    sha256: str


class ArtefactBody(Out, frozen=True, kw_only=True):
    """A model's file as nodes load it; `reason` says why it is served whole only.

    `layer_bytes` has the bytes of each layer's weights, `head_bytes` what the first stage has
    beside its layers, `tail_bytes` what the last has; nothing where it cannot be cut. `slices`
    are those whose digests are known: first all that pipelines hold, then at most 256 others.
    """

    id: str
    sha256: str
    size_bytes: int
    layers: int
    sliceable: bool
    reason: str | None
    head_bytes: int
    layer_bytes: tuple[int, ...]
    tail_bytes: int
    slices: tuple[SliceBody, ...]


class ModelRemoved(Out, frozen=True, kw_only=True):
    """A model that is out of the catalogue; its rates and receipts stay."""

    id: str
    removed: bool


class ModelList(Out, frozen=True, kw_only=True):
    """All models, the pool's default first."""

    object: Literal["list"] = "list"
    data: tuple[ModelBody, ...]


class BalanceBody(Out, frozen=True, kw_only=True):
    """What the key's account has of the key's asset; with a limit, what the key has of it."""

    account: str
    asset: str
    decimals: int
    available: Amount
    held: Amount


class TopupBody(Out, frozen=True, kw_only=True):
    """Credits that were bought; `key` is shown once, and spends at most what was paid.

    `balance` is what the key, or the session that was sent, may spend, and `expires_at_ms` when the
    key ends (null: it does not, or there is none).
    """

    credited: Amount
    network: str
    transaction: str
    balance: BalanceBody
    key: str | None
    expires_at_ms: int | None
    custody: str


class SessionBody(Out, frozen=True, kw_only=True):
    """A session that was bought: one answer of a tier, asked for at `ask` until it expires."""

    session: str
    tier: str
    max_tokens: int
    expires_at_ms: int
    ask: str


class WithdrawalBody(Out, frozen=True, kw_only=True):
    """Credits on their way back to a wallet; `reason` says why they wait or were returned."""

    id: str
    state: Literal["requested", "signed", "sent", "confirmed", "returned"]
    amount: Amount
    asset: str
    decimals: int
    network: str
    to: str
    transaction: str | None
    reason: str
    requested_at_ms: int
    ended_at_ms: int | None
    custody: str


class EntryBody(Out, frozen=True, kw_only=True):
    """One line of the history; amounts are signed for this account.

    `available` and `held` are what it did to either column of the balance: over a whole history
    each adds up to its column. `amount` is what the entry is about. `network` (CAIP-2) and
    `transaction` are where a payment landed or a withdrawal went, null for what was on no chain.
    """

    id: str
    at_ms: int
    kind: str
    asset: str
    amount: Amount
    available: Amount
    held: Amount
    request: str | None
    memo: str
    network: str | None
    transaction: str | None


class History(Out, frozen=True, kw_only=True):
    """A page of the history, newest first; `next` is what `before` takes for the next page."""

    object: Literal["list"] = "list"
    data: tuple[EntryBody, ...]
    has_more: bool
    next: str | None


class NodeList(Out, frozen=True, kw_only=True):
    """The nodes that are connected, and those that left or were refused in the last minutes.

    `pipelines` are models whose layers several of them hold.
    """

    object: Literal["list"] = "list"
    data: tuple[NodeView, ...]
    pipelines: tuple[PipelineView, ...] = ()


class NodesChange(Out, frozen=True, kw_only=True):
    """The data of one event of the nodes' stream.

    `snapshot`: all nodes; what was known before is void. `change`: `nodes` are new or changed,
    `removed` are peers that are shown no more. `pipelines` are all of them, where one is new, gone
    or changed.
    """

    type: Literal["snapshot", "change"]
    nodes: tuple[NodeView, ...]
    removed: tuple[str, ...] = ()
    pipelines: tuple[PipelineView, ...] | msgspec.UnsetType = msgspec.UNSET


class ReadyBody(Out, frozen=True, kw_only=True):
    """Whether this process takes requests, whatever its nodes do."""

    status: Literal["ready", "draining"]


class Opened(Out, frozen=True, kw_only=True):
    """A receipt with what opens it."""

    receipt: Receipt
    evidence: Evidence


class KeyBody(Out, frozen=True, kw_only=True):
    """A key as a list shows it; the secret itself is never kept."""

    id: str
    object: Literal["key"] = "key"
    account: str
    name: str
    asset: str
    prefix: str
    limit: Amount | None
    spent: Amount
    expires_at_ms: int | None
    created_at_ms: int
    revoked: bool


class NewKeyBody(KeyBody, frozen=True, kw_only=True):
    """A key just made, with its secret: shown this once."""

    secret: str


class KeyList(Out, frozen=True, kw_only=True):
    """Keys, oldest first, revoked ones too."""

    object: Literal["list"] = "list"
    data: tuple[KeyBody, ...]


class InviteBody(Out, frozen=True, kw_only=True):
    """An invite just made: shown this once."""

    invite: str
    uses: int
    expires_at_ms: int


class NodeDecision(Out, frozen=True, kw_only=True):
    """What was decided about a node; `here`: it is connected still."""

    peer: str
    state: Literal["allowed", "banned", "drained", "undrained", "succeeded"]
    here: bool


class AccessEntry(Out, frozen=True, kw_only=True):
    """One thing that was decided of a node: banned, allowed, drained, succeeded or admitted.

    `reason`: the owner's words for a ban or a drain, else how it came about: `admin`, `invite`,
    `successor`, or `config`, which has no `at_ms`. `name` is the node's as it is shown, or as it
    was called when that was decided, or the one made from its key; `here`: it is connected. `next`
    is the key that followed a succeeded one.
    """

    peer: str
    name: str
    state: Decided
    reason: str
    at_ms: int | None
    next: str | None
    here: bool


class AccessList(Out, frozen=True, kw_only=True):
    """Decisions, the latest first; `has_more` when older ones were left out."""

    object: Literal["list"] = "list"
    data: tuple[AccessEntry, ...]
    has_more: bool


class BackupBody(Out, frozen=True, kw_only=True):
    """Where the copy of the database lies, and how large it is."""

    path: str
    bytes: int


class ShareLine(Out, frozen=True, kw_only=True):
    """One transfer of a request."""

    id: str
    at_ms: int
    kind: str
    role: str | None
    debit: str
    credit: str
    amount: Amount
    memo: str


class Explanation(Out, frozen=True, kw_only=True):
    """One answer from grant to share, each step in a sentence made of the ledger's numbers.

    `receipt` is null where none was signed; `proof` says why.
    """

    receipt: str | None
    request: str
    source: tuple[str, ...]
    sign_in: str
    prompt: str
    rate: str
    tokens: str
    cost: str
    debit: str
    dispatch: tuple[str, ...]
    share: tuple[str, ...]
    proof: str
    transfers: tuple[ShareLine, ...]
