"""What anyone may see of the pool: its health and its nodes."""

from __future__ import annotations

from typing import Literal

from parhelion.words import Record


class Health(Record, frozen=True, kw_only=True):
    """Whether a prompt would be served now; `need` nodes are waited for once, at the start.

    `local`: the pool's money is of the LOCAL class, so nothing in it is worth anything outside.
    """

    status: Literal["waiting", "ready", "draining"]
    model: str | None
    nodes: int
    need: int
    local: bool


class NodeView(Record, frozen=True, kw_only=True):
    """A connected node: what it says of itself, and what we measured (None until we have)."""

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
