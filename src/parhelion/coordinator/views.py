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


class NodeView(Record, frozen=True, kw_only=True):
    """A connected node as the coordinator sees it; what was not measured yet is null.

    `device`, `backend` and `version` are what it reports. `tokens_per_s` is of all its streams
    together while they decode: the time of prompts is not in it.
    """

    name: str
    peer: str
    state: str
    reason: str | None
    models: tuple[str, ...]
    slots: int
    slots_busy: int
    tokens_per_s: float | None
    version: str
    device: str
    backend: str
    connected_at_ms: int
    served: int
    failed: int
