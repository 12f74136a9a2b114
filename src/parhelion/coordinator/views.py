"""What anyone may see of the pool: its health and its nodes, as the API sends them."""

from __future__ import annotations

from typing import Literal

from parhelion.words import Record


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


REPORTED = ("version", "device", "backend", "slots")
"""What a node says of itself: shown, never believed."""


class ModelState(Record, frozen=True, kw_only=True):
    """How one model fares at its node, where each runs on an engine of its own.

    `failed`: its engine does not run, or a job stood still there; `measuring` and `refused`: its
    answers are not proven yet, or are not the model's own.
    """

    model: str
    state: Literal["ready", "failed", "measuring", "refused"]
    reason: str | None = None


class NodeView(Record, frozen=True, kw_only=True):
    """A node as the coordinator sees it; None is what nobody knows, or not yet.

    `reported` names the fields that are the node's own word; `tokens_per_s`, `first_id_s` (from a
    job to its first id) and `success_rate` (over `samples` jobs) are measured. `utilisation` is
    the share of its slots at work. `fallback`: it is the coordinator's own, and serves only when
    no other can. `left_at_ms`: since when it is gone, or when it was refused. `model_states` has
    each of `models` while the node is here: it serves those that are ready.
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
