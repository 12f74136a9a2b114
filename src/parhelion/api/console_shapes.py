"""The JSON of the console beside the snapshot itself (`coordinator.ConsoleView`)."""

from __future__ import annotations

from parhelion.api.chain_shapes import TotalsBody
from parhelion.api.shapes import Amount, Out
from parhelion.coordinator import NodeView, Point, StateMark


class ConsoleHistory(Out, frozen=True, kw_only=True):
    """Points of the chart, the oldest first, one every `step_s` while the process runs.

    Each is `[at_ms, requests_per_s, tokens_per_s, ttft_p50_s, queue, running]`; null is what
    nobody measured.
    """

    step_s: float
    points: tuple[Point, ...]


class SplitBody(Out, frozen=True, kw_only=True):
    """How the cost of an answer is divided, in hundredths of a percent of it."""

    operators_bp: int
    treasury_bp: int
    infrastructure_bp: int


class AssetBody(Out, frozen=True, kw_only=True):
    """What the books say of one asset.

    `outstanding` is what all users have, `held` the part of it that is set aside now; `operators`
    is what was earned by nodes and is theirs.
    """

    asset: str
    decimals: int
    outstanding: Amount
    held: Amount
    operators: Amount
    split: SplitBody


class MoneyBody(Out, frozen=True, kw_only=True):
    """The books in total, and payments against their chains; `x402` is null where none come."""

    assets: tuple[AssetBody, ...]
    x402: TotalsBody | None


class NodeReceipt(Out, frozen=True, kw_only=True):
    """One answer that a node made, or a part of it: neither whose it is nor a word of it."""

    id: str
    at_ms: int
    model: str
    completion_tokens: int


class EarnedBody(Out, frozen=True, kw_only=True):
    """What a node's account has of one asset."""

    asset: str
    decimals: int
    total: Amount


class NodeBody(NodeView, frozen=True, kw_only=True):
    """A node as in GET /v1/nodes, and what became of it.

    `history` has the states that it came into, the latest first. `receipts` (of its latest
    answers) and `earnings` are for the admin key, and null for everybody else.
    """

    history: tuple[StateMark, ...]
    receipts: tuple[NodeReceipt, ...] | None
    earnings: tuple[EarnedBody, ...] | None
