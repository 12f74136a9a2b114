"""What the planner takes and gives: a model's shape, the members of a pool, stages, a plan."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from parhelion.words import Record

STREAMS_WANTED = 8
"""Streams that a plan is made for where nobody says: enough to keep four stages busy twice over,
so that a split is even, and few enough that the way of one token still counts."""

Wire = Literal["fp32", "bf16"]
"""How a hidden state is written while it travels."""

RTT_UNKNOWN_MS = 30.0
"""Between two nodes that were never measured: a country apart, so that a measured LAN wins."""


class ModelShape(Record, frozen=True, kw_only=True):
    """What a model costs to hold and to run, layer by layer.

    `head_bytes` are held by the first stage beside its layers (embeddings), `tail_bytes` by the
    last (output norm and head, vocabulary), `buffer_bytes` by each, to compute in. `head_layers`
    and `tail_layers` say what these take in time, in layers, for members on which it was not
    measured. `kv_tokens` is the KV memory of a pipeline.
    """

    digest: str
    layer_bytes: tuple[int, ...]
    name: str = ""
    head_bytes: int = 0
    tail_bytes: int = 0
    buffer_bytes: int = 0
    kv_bytes_per_token: int = 0
    """Of one layer."""
    kv_tokens: int = 0
    hidden_bytes: int = 0
    """What one token puts on one hop, written as it is wished."""
    head_layers: float = 0.0
    tail_layers: float = 0.0
    forbidden_lengths: tuple[int, ...] = ()
    """No stage may have so many layers."""
    layer_active_bytes: float = 0.0
    """What is read of one layer for a token, on average: of experts only those that are asked."""

    @property
    def layers(self) -> int:
        """How many there are."""
        return len(self.layer_bytes)

    @property
    def kv_bytes(self) -> int:
        """KV memory of one layer."""
        return self.kv_bytes_per_token * self.kv_tokens

    @property
    def whole_bytes(self) -> int:
        """What one node needs that serves it alone, beside overhead and buffers."""
        layers = sum(self.layer_bytes) + self.layers * self.kv_bytes
        return layers + self.head_bytes + self.tail_bytes


class Member(Record, frozen=True, kw_only=True):
    """A node as the planner sees it; None is what nobody measured.

    `layer_ms` is one layer's time in a decoding step of one sequence. `digests` None: any model.
    `wires` is how it can write hidden states.
    """

    peer: str
    memory_bytes: int
    layer_ms: float | None = None
    layer_ms_of: tuple[tuple[str, float], ...] = ()
    """The same by model, where models differ: by digest, before `layer_ms`."""
    head_ms: float | None = None
    tail_ms: float | None = None
    overhead_bytes: int = 0
    name: str = ""
    digests: tuple[str, ...] | None = None
    wires: tuple[str, ...] = ("fp32",)

    def ms_of(self, digest: str) -> float | None:
        """One layer's time of this model."""
        return next((ms for one, ms in self.layer_ms_of if one == digest), self.layer_ms)


Rtt = Callable[[str, str], float | None]
"""The measured round trip of two peers, None if there is none; asked with the lower id first."""


def _no_rtt(one: str, other: str) -> None:
    """Nothing was measured."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Everything a plan depends on, in joining order; `streams` by digest is the demand.

    `wire` is how hidden states are wished to travel: what members speak decides no plan.
    """

    models: tuple[ModelShape, ...]
    members: tuple[Member, ...]
    rtt: Rtt = _no_rtt
    streams: Mapping[str, int] = field(default_factory=dict[str, int])
    rtt_unknown_ms: float = RTT_UNKNOWN_MS
    wire: Wire = "fp32"

    def streams_of(self, digest: str) -> int:
        """How many streams of this model are wanted at once; at least one."""
        return max(1, self.streams.get(digest, STREAMS_WANTED))


def agreed_wire(wished: Wire, spoken: Iterable[Collection[str]]) -> Wire:
    """How hidden states travel in a pipeline whose members speak these: as wished, or as fp32,
    which every member speaks. Nobody is left out for what it does not speak."""
    return wished if all(wished in wires for wires in spoken) else "fp32"


class Stage(Record, frozen=True):
    """Layers [start, end) on one peer."""

    peer: str
    start: int
    end: int


class Pipeline(Record, frozen=True, kw_only=True):
    """The stages of one model in the order of its layers; `epoch` counts what changed in them."""

    id: str
    digest: str
    stages: tuple[Stage, ...]
    epoch: int = 1

    @property
    def peers(self) -> tuple[str, ...]:
        """Who is in it, first stage first."""
        return tuple(stage.peer for stage in self.stages)


class Unplaced(Record, frozen=True, kw_only=True):
    """A model that nobody can serve: how many bytes are missing, and that in words."""

    digest: str
    missing_bytes: int
    reason: str


class GaveWay(Record, frozen=True, kw_only=True):
    """A pipeline of a model with another one, whose members went to a model that had none."""

    pipeline: str
    digest: str
    """The model of the one that is no more."""
    to: str
    """The pipeline that has its members."""


class Plan(Record, frozen=True, kw_only=True):
    """Who holds which layers.

    `broken` are pipelines that lost a stage which nobody can take: the others wait with their
    layers. `standby` are members without layers. No peer is in two places.
    """

    epoch: int = 0
    pipelines: tuple[Pipeline, ...] = ()
    standby: tuple[str, ...] = ()
    broken: tuple[Pipeline, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()
    gave_way: tuple[GaveWay, ...] = ()
    """For the pipelines that are still there because of it."""
    minted: int = 0
    """Pipelines named so far, so that no id comes twice."""
