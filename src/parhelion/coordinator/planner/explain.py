"""explain(plan, pool): why a plan is as it is, in lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from parhelion.coordinator.planner.beside import plain_splits, why_it_stays
from parhelion.coordinator.planner.figures import (
    PipelineFigures,
    figures,
    wanted_ms,
)
from parhelion.coordinator.planner.order import QUICK_LIMIT, arranged
from parhelion.coordinator.planner.shape import ModelShape, Plan, Pool, agreed_wire
from parhelion.coordinator.planner.terms import Terms, terms_of
from parhelion.coordinator.planner.tiling import in_words

LOOKS_LIMIT = 12
"""For each pipeline of at most so many stages it is said what it would be with one less; for each
standby, what the first so many pipelines would be with it: a person reads no more."""


def explain(plan: Plan, pool: Pool) -> list[str]:
    """The pipelines with their numbers and reasons, then who waits and why, then what is missing.

    `pool` is the one that the plan was made for; nodes are called by their names where they have
    one.
    """
    names = {member.peer: member.name or member.peer for member in pool.members}
    found = figures(plan, pool)
    lines: list[str] = []
    for model in pool.models:
        terms = terms_of(model, pool)
        own = [one for one in found if one.digest == model.digest]
        lines += [_model(model, pool), *_objective(plan, pool, terms, own)]
        for one in own:
            lines += [*_pipeline(one, names, terms), *_wire(one, names, pool)]
            lines += why_it_stays(one, terms, is_alone=len(own) == 1)
            lines += _gave_way(one, plan, pool)
        lines += [
            f"{_title(model)} is served by nobody: {lack.reason}"
            for lack in plan.unplaced
            if lack.digest == model.digest
        ]
    for broken in plan.broken:
        held = ", ".join(f"{names[s.peer]} {s.start}-{s.end - 1}" for s in broken.stages)
        lines.append(f"{broken.id} is broken; who waits with layers for the rest: {held}")
    for peer in plan.standby:
        lines.append(f"standby {names[peer]}: {_standby(peer, pool, found)}")
    return lines


def _title(model: ModelShape) -> str:
    return model.name or model.digest[:12]


def _model(model: ModelShape, pool: Pool) -> str:
    lengths = in_words(set(model.forbidden_lengths))
    return (
        f"{_title(model)}: {model.layers} layers, {size(model.whole_bytes)} with the KV memory of "
        f"{model.kv_tokens} tokens; {pool.streams_of(model.digest)} streams wanted"
        + (f"; no stage may have {lengths} layers" if lengths else "")
    )


def _objective(
    plan: Plan, pool: Pool, terms: Terms, own: Sequence[PipelineFigures]
) -> Iterator[str]:
    if not own:
        return
    digest = terms.model.digest
    yield f"  a stream waits {wanted_ms(plan, pool, digest):.1f} ms for a token, on average"
    yield from plain_splits(terms)


def _pipeline(one: PipelineFigures, names: dict[str, str], terms: Terms) -> Iterator[str]:
    count = len(one.stages)
    kind = "one whole node" if count == 1 else f"{count} stages"
    yield (
        f"{one.id}, epoch {one.epoch}: {kind}, a token every {one.token_ms:.1f} ms for one stream, "
        f"every {one.bottleneck_ms:.1f} ms at full load ({names[one.bottleneck]} is slowest)"
    )
    for stage in one.stages:
        hop = "" if count == 1 else f", {stage.hop_ms:.1f} ms to the next"
        yield (
            f"  layers {stage.start}-{stage.end - 1} on {names[stage.peer]}: {stage.stage_ms:.1f} "
            f"ms, {size(stage.memory_bytes)} of {size(stage.offered_bytes)}{hop}"
        )
    if count > 1:
        yield f"  in this order because its ring takes {one.ring_ms:.1f} ms: {_order(one, terms)}"
        yield f"  {count} nodes because {_count(one, names, terms)}"


def _wire(one: PipelineFigures, names: dict[str, str], pool: Pool) -> Iterator[str]:
    """How its hidden states travel, where another way than everybody's is wished."""
    if len(one.stages) == 1 or pool.wire == "fp32":
        return
    spoken = {member.peer: member.wires for member in pool.members}
    peers = [stage.peer for stage in one.stages]
    agreed = agreed_wire(pool.wire, (spoken[peer] for peer in peers))
    silent = [names[peer] for peer in peers if pool.wire not in spoken[peer]]
    why = f"all of its nodes speak {agreed}" if not silent else _silent(silent, pool.wire)
    yield f"  hidden states travel as {agreed}: {why}"


def _gave_way(one: PipelineFigures, plan: Plan, pool: Pool) -> Iterator[str]:
    """Whose members it has, where a model had a place before it."""
    titles = {model.digest: _title(model) for model in pool.models}
    for gone in plan.gave_way[:LOOKS_LIMIT]:
        if gone.to == one.id:
            yield (
                f"  {gone.pipeline} of {titles.get(gone.digest, gone.digest[:12])} gave way to it: "
                "a model without a place goes before a second pipeline of another"
            )


def _silent(names: Sequence[str], wished: str) -> str:
    said = ", ".join(names[:LOOKS_LIMIT])
    more = len(names) - LOOKS_LIMIT
    said += f" and {more} more" if more > 0 else ""
    return f"{said} {'does' if len(names) == 1 else 'do'} not speak {wished}, which is wished"


def _order(one: PipelineFigures, terms: Terms) -> str:
    head, tail = terms.model.head_layers, terms.model.tail_layers
    if not (terms.model.head_bytes or terms.model.tail_bytes or head or tail):
        return "no shorter one was found"
    first, last = one.stages[0], one.stages[-1]
    return (
        f"no order was found that costs less with the head ({size(terms.model.head_bytes)} on "
        f"layers {first.start}-{first.end - 1}) and the tail ({size(terms.model.tail_bytes)} on "
        f"layers {last.start}-{last.end - 1})"
    )


def _count(one: PipelineFigures, names: dict[str, str], terms: Terms) -> str:
    if len(one.stages) > LOOKS_LIMIT:
        return "so few were found to hold the model and to be as fast"
    index = {peer: at for at, peer in enumerate(terms.peers)}
    members = [index[stage.peer] for stage in one.stages]
    fewer = [
        (cut.cost_ms, gone)
        for group in combinations(members, len(members) - 1)
        if (cut := arranged(terms, group, one.streams, QUICK_LIMIT)) is not None
        for gone in set(members) - set(group)
    ]
    if not fewer:
        return "no fewer of them can hold the model"
    cost_ms, gone = min(fewer)
    return (
        f"without {names[terms.peers[gone]]} a stream would wait {cost_ms:.1f} ms instead of "
        f"{one.stream_ms:.1f} ms ({one.streams} streams)"
    )


def _standby(peer: str, pool: Pool, found: Sequence[PipelineFigures]) -> str:
    member = next(one for one in pool.members if one.peer == peer)
    can = [
        model for model in pool.models if member.digests is None or model.digest in member.digests
    ]
    if not can:
        return "it may serve none of these models" if pool.models else "there is no model to deal"
    reasons: list[str] = []
    for model in can:
        terms = terms_of(model, pool)
        at = terms.peers.index(peer)
        if not terms.may_hold(at):
            reasons.append(
                f"too small for {_least(model, terms)} ({size(terms.smallest_bytes)} each; it has "
                f"{size(max(0, terms.free_bytes[at]))} beside its own overhead)"
            )
            continue
        reasons += _beside(at, terms, [one for one in found if one.digest == model.digest])
    return "; ".join(reasons) or "those that are free cannot hold a model together"


def _least(model: ModelShape, terms: Terms) -> str:
    if terms.shortest == 1:
        return f"a layer of {_title(model)}"
    return f"the {terms.shortest} layers of {_title(model)} that a stage has at least"


def _beside(at: int, terms: Terms, own: Sequence[PipelineFigures]) -> list[str]:
    """What each pipeline would be with this standby in it."""
    index = {peer: place for place, peer in enumerate(terms.peers)}
    reasons: list[str] = []
    for one in own[:LOOKS_LIMIT]:
        group = [*(index[stage.peer] for stage in one.stages), at]
        cut = arranged(terms, group, one.streams, QUICK_LIMIT)
        if cut is None:
            reasons.append(f"{one.id} has no layer for it")
        else:
            reasons.append(
                f"with it a stream of {one.id} would wait {cut.cost_ms:.1f} ms, now "
                f"{one.stream_ms:.1f} ms"
            )
    return reasons


def size(size_bytes: int) -> str:
    """Bytes in the unit that a person would choose."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes} B"
