"""From nodes and models to what the planner takes, and from a plan to what nodes are told; pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import structs

from parhelion.config import PipelinesConfig
from parhelion.coordinator.planner import Member, ModelShape, Pipeline, Plan, Stage, Wire
from parhelion.coordinator.registry import Node
from parhelion.models import ModelWeight
from parhelion.models.stage_memory import STAGE_OVERHEAD_BYTES, buffer_bytes, vocabulary_bytes
from parhelion.words import ModelCard, StageSpec

KV_TOKENS_PER_SLOT = 1024
"""The default memory: every slot can hold a chat of this length at once."""

KV_TOKENS_LARGEST = 32 * 1024
"""The default's bound; more is the operator's own decision."""


def kv_tokens_of(card: ModelCard, config: PipelinesConfig) -> int:
    """The KV cache of a pipeline in tokens: as the settings say, else as its slots want."""
    wanted = config.kv_tokens or min(
        KV_TOKENS_LARGEST,
        max(min(card.context, KV_TOKENS_LARGEST), config.slots * KV_TOKENS_PER_SLOT),
    )
    return -(-wanted // 256) * 256  # llama.cpp rounds up to this by itself.


def shape_of(card: ModelCard, weight: ModelWeight, config: PipelinesConfig) -> ModelShape:
    """A model as the planner sees it."""
    kv_tokens = kv_tokens_of(card, config)
    return ModelShape(
        digest=card.digest,
        name=card.id,
        layer_bytes=weight.layer_bytes,
        head_bytes=weight.head_bytes,
        tail_bytes=weight.tail_bytes + vocabulary_bytes(weight.n_vocab, config.slots),
        buffer_bytes=buffer_bytes(weight.hidden_size, kv_tokens),
        kv_bytes_per_token=max(weight.kv_bytes_per_token),
        kv_tokens=kv_tokens,
        hidden_bytes=weight.hidden_size * (2 if config.wire == "bf16" else 4),
        # The head is one more matrix to go through; embeddings are looked up, which is nothing.
        tail_layers=weight.tail_layers,
        forbidden_lengths=weight.forbidden_lengths,
        layer_active_bytes=sum(weight.layer_active_bytes) / max(1, weight.layers),
    )


def times_of(
    peer: str, layer_ms: Mapping[tuple[str, str], float], models: Sequence[ModelShape]
) -> tuple[tuple[str, float], ...]:
    """One layer's time of each model at a node: as measured with it, else with the nearest in size.

    The time of a token is that of reading the weights, so the other model's is scaled by bytes.
    """
    known = [
        (one.layer_active_bytes, layer_ms[peer, one.digest])
        for one in models
        if (peer, one.digest) in layer_ms and one.layer_active_bytes > 0
    ]

    def time_of(model: ModelShape) -> float | None:
        measured = layer_ms.get((peer, model.digest))
        size = model.layer_active_bytes
        if measured is not None or not known or size <= 0:
            return measured
        nearest, ms = min(known, key=lambda one: abs(math.log(one[0] / size)))
        return ms * size / nearest

    times = ((model.digest, time_of(model)) for model in models)
    return tuple((digest, ms) for digest, ms in times if ms is not None)


def member_of(
    node: Node, layer_ms: Mapping[tuple[str, str], float], models: Sequence[ModelShape]
) -> Member:
    """A node that offers a stage, as the planner sees it."""
    offer = node.card.stage
    assert offer is not None, "only nodes that offer a stage are planned for"
    times = times_of(node.peer, layer_ms, models)
    return Member(
        peer=node.peer,
        name=node.name,
        memory_bytes=offer.memory_bytes,
        layer_ms=dict(times).get(models[0].digest) if models else None,
        layer_ms_of=times,
        overhead_bytes=STAGE_OVERHEAD_BYTES,
        wires=offer.wires,
    )


def steady(before: Plan, made: Plan, measured: Collection[str]) -> Plan:
    """The plan without layers that move among the same nodes for nothing but noise.

    Who joins or leaves makes the planner look again at times that were measured once, on machines
    that do other things too: where nobody was measured anew, the same nodes keep what they hold.
    """
    held = {one.id: one for one in before.pipelines}

    def kept(one: Pipeline) -> Pipeline:
        was = held.get(one.id)
        is_same = was is not None and set(was.peers) == set(one.peers)
        return was if was is not None and is_same and not measured else one

    return structs.replace(made, pipelines=tuple(kept(one) for one in made.pipelines))


def as_served(plan: Plan, rings: Mapping[str, tuple[Stage, ...]], here: Collection[str]) -> Plan:
    """The plan that a repair begins with: where a node was lost before its layers came to anything.

    `rings` are the stages that serve, by pipeline; `here` who has not left. A node that dies while
    it loads is missed by nobody, so what serves goes on instead of being dealt out a second time.
    """
    placed = {one.id: one.peers for one in (*plan.pipelines, *plan.broken)}

    def now(one: Pipeline) -> Pipeline:
        ring = rings.get(one.id, ())
        peers = {stage.peer for stage in ring}
        elsewhere = {peer for id, those in placed.items() if id != one.id for peer in those}
        is_lost = not set(one.peers) <= set(here)
        if not ring or not is_lost or not peers <= set(here) or peers & elsewhere:
            return one
        return structs.replace(one, stages=ring, epoch=one.epoch + 1)

    return structs.replace(plan, pipelines=tuple(now(one) for one in plan.pipelines))


def stage_id(digest: str, start: int, end: int) -> str:
    """What a stage is called at its node: the same layers are the same stage in every epoch.

    It is what logs name a stage by, so its last layer is written as views and tables write it.
    """
    return f"{digest[:16]}:{start}-{end - 1}"


def specs_of(
    card: ModelCard, stages: Iterable[Stage], config: PipelinesConfig, wire: Wire
) -> tuple[tuple[Stage, StageSpec], ...]:
    """What each node of a pipeline is told to hold; `wire` is what all of them speak."""
    all_of_them = tuple(stages)
    layers = all_of_them[-1].end
    kv_tokens = kv_tokens_of(card, config)
    return tuple(
        (
            stage,
            StageSpec(
                digest=card.digest,
                start=stage.start,
                end=stage.end,
                layers=layers,
                stages=len(all_of_them),
                slots=config.slots,
                context=min(card.context, kv_tokens),
                kv_tokens=kv_tokens,
                wire=wire,
                name=card.id,
            ),
        )
        for stage in all_of_them
    )
