"""What anyone may see of the pool: its health and its nodes, as the API sends them."""

from __future__ import annotations

from typing import Literal

from parhelion.words import LoadPhase, Record


class Health(Record, frozen=True, kw_only=True):
    """Whether a prompt without `model` would be served now, by `model`, the pool's default.

    `need` nodes are waited for once, at the start.
    `local`: the pool's money is of the LOCAL class, so nothing in it is worth anything outside.
    """

    status: Literal["waiting", "ready", "draining"]
    model: str | None
    nodes: int
    need: int
    local: bool


REPORTED = ("version", "device", "backend", "slots", "memory_bytes", "phase", "percent")
"""What a node says of itself: shown, never believed."""


class ModelState(Record, frozen=True, kw_only=True):
    """How one model fares at its node, where each runs on an engine of its own.

    `failed`: its engine does not run, or a job stood still there; `measuring` and `refused`: its
    answers are not proven yet, or are not the model's own.
    """

    model: str
    state: Literal["ready", "failed", "measuring", "refused"]
    reason: str | None = None


class LinkView(Record, frozen=True, kw_only=True):
    """The link from a stage to the next one of its ring, as one of its two nodes measured it.

    `path` is "direct" or "relay" (through the coordinator, which sees ciphertext).
    """

    peer: str
    path: str
    rtt_ms: float | None
    mbit_s: float | None
    sent_bytes: int
    received_bytes: int


class StageView(Record, frozen=True, kw_only=True):
    """Layers [start, end) of a model at one node.

    `resident_bytes` is the node's own word; `step_ms`, one step of these layers, is measured.
    """

    pipeline: str
    model: str
    peer: str
    name: str
    start: int
    end: int
    is_loaded: bool
    resident_bytes: int | None
    step_ms: float | None
    next_link: LinkView | None


class PipelineView(Record, frozen=True, kw_only=True):
    """A pipeline: its stages in the order of layers; None is what nobody knows, or not yet.

    `epoch` counts how often its layers were dealt. `wire` is how hidden states travel between its
    stages, as its nodes agree: bf16 or fp32. `bottleneck` is the node whose stage takes
    longest. `tokens_per_s` and `first_id_s` are measured, as a node's are.
    """

    id: str
    model: str
    epoch: int
    state: str
    reason: str | None
    since_ms: int
    slots: int | None
    slots_busy: int | None
    tokens_per_s: float | None
    first_id_s: float | None
    served: int
    failed: int
    bottleneck: str | None
    wire: Literal["fp32", "bf16"] | None = None
    stages: tuple[StageView, ...]


class NodeView(Record, frozen=True, kw_only=True):
    """A node as the coordinator sees it; None is what nobody knows, or not yet.

    `reported` names the fields that are the node's own word; `tokens_per_s`, `first_id_s` (from a
    job to its first id) and `success_rate` (over `samples` jobs) are measured. `utilisation` is
    the share of its slots at work. `fallback`: it is the coordinator's own, and serves only when
    no other can. `left_at_ms`: since when it is gone, or when it was refused. `model_states` has
    each of `models` while the node is here: it serves those that are ready. `stages` are the layers
    that it holds of pipelines; one that offers `memory_bytes` for that and has none is `standby`.
    `phase` and `percent` are how far one says it is that is `joining`.
    """

    name: str
    peer: str
    operator: str
    state: str
    reason: str | None
    models: tuple[str, ...]
    model_states: tuple[ModelState, ...] = ()
    slots: int | None
    slots_busy: int | None
    utilisation: float | None = None
    tokens_per_s: float | None
    first_id_s: float | None = None
    success_rate: float | None = None
    samples: int | None = None
    version: str | None
    device: str | None
    backend: str | None
    reported: tuple[str, ...] = REPORTED
    connected_at_ms: int | None
    left_at_ms: int | None = None
    served: int
    failed: int
    fallback: bool = False
    memory_bytes: int | None = None
    standby: bool = False
    stages: tuple[StageView, ...] = ()
    phase: LoadPhase | None = None
    percent: int | None = None


class ModelNodes(Record, frozen=True, kw_only=True):
    """A model of the catalogue, its ready nodes, and whether a prompt would be served now."""

    id: str
    nodes: int
    available: bool


class StreamView(Record, frozen=True, kw_only=True):
    """An answer that runs: never a word of it, nor whose it is.

    `request` is made from its id by a hash; `nodes` are those that work on it, none while it is
    on its way to another one. `tokens_per_s` is since its first token.
    """

    request: str
    model: str
    nodes: tuple[str, ...]
    tokens: int
    tokens_per_s: float | None
    age_s: float


class ConsoleView(Record, frozen=True, kw_only=True):
    """The pool at one moment; None is what nobody measured, or not yet.

    Rates and waits are over the last `window_s` seconds: requests that ended, tokens that came,
    waits of answers whose first token came. `streaming` are the oldest of the `running`, `queue`
    who waits for a slot. `nodes_tokens_per_s` is the sum of what nodes were measured at.
    """

    type: Literal["console"] = "console"
    at_ms: int
    models: tuple[ModelNodes, ...]
    streaming: tuple[StreamView, ...]
    requests_per_s: float | None
    tokens_per_s: float | None
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    queue: int
    running: int
    nodes_tokens_per_s: float | None
    window_s: float


class StateMark(Record, frozen=True, kw_only=True):
    """A state that a node came into, when, and why where that was said."""

    at_ms: int
    state: str
    reason: str | None
