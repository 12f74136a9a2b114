"""A pool that is only described: TOML text to models, nodes and round trips."""

from __future__ import annotations

import math
import re
import tomllib
from collections import Counter
from collections.abc import Mapping

import msgspec

from parhelion.coordinator.planner.shape import (
    RTT_UNKNOWN_MS,
    STREAMS_WANTED,
    Member,
    ModelShape,
    Pool,
)
from parhelion.words import ClosedRecord, Problem, ProblemCode

NODES_LIMIT = 5_000
"""More than twice what the planner is measured with; the time grows faster than the number."""

LAYERS_LIMIT = 1_024
"""Eight times the layers of the deepest open model."""

STREAMS_LIMIT = 100_000
"""Each stream is dealt to a pipeline one by one."""

MODELS_LIMIT = 64

SIZE_LIMIT_BYTES = 2**60
"""An exbibyte: nothing is larger, and sums of it still fit 64 bits."""

TEXT_LIMIT_BYTES = 4 * 2**20

HINT = "docs/pipelines.md shows a whole file for `parhelion plan --simulate`"

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}

Size = int | float | str


class ModelTable(ClosedRecord, frozen=True, kw_only=True):
    """`[[model]]`: `layer` is the size of each layer, or a list with one for each."""

    name: str
    layers: int | None = None
    layer: Size | tuple[Size, ...]
    head: Size = 0
    tail: Size = 0
    kv_per_token: Size = 0
    kv_tokens: int = 0
    hidden: Size = 0
    head_layers: float = 0.0
    tail_layers: float = 0.0
    streams: int = STREAMS_WANTED
    forbidden_lengths: tuple[int, ...] = ()


class NodeTable(ClosedRecord, frozen=True, kw_only=True):
    """`[[node]]`: times that are left out are unknown."""

    name: str
    memory: Size
    overhead: Size = 0
    layer_ms: float | None = None
    head_ms: float | None = None
    tail_ms: float | None = None
    models: tuple[str, ...] | None = None


class RttTable(ClosedRecord, frozen=True, kw_only=True):
    """`[[rtt]]`: the round trip between two nodes."""

    between: tuple[str, str]
    ms: float


class PoolTable(ClosedRecord, frozen=True, kw_only=True):
    """The whole file; `rtt_ms` is for pairs that no `[[rtt]]` names."""

    model: tuple[ModelTable, ...]
    node: tuple[NodeTable, ...]
    rtt: tuple[RttTable, ...] = ()
    rtt_ms: float = RTT_UNKNOWN_MS


def pool_of(text: str) -> Pool:
    """The pool that a TOML text describes; CONFIG_INVALID names what is wrong in it.

    A node's name is its peer id here, a model's name its digest.
    """
    if len(text) > TEXT_LIMIT_BYTES:
        raise _wrong(f"it is longer than {TEXT_LIMIT_BYTES} characters")
    try:
        table = msgspec.convert(tomllib.loads(text), PoolTable)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise _wrong(str(error)) from error
    _check_counts(table)
    nodes = {node.name for node in table.node}
    models = {model.name for model in table.model}
    rtt: dict[tuple[str, str], float] = {}
    for row in table.rtt:
        for name in row.between:
            if name not in nodes:
                raise _wrong(f"an rtt names the node {name!r}, which is not in the file")
        lower, higher = sorted(row.between)
        rtt[lower, higher] = _time("rtt", row.ms)
    return Pool(
        models=tuple(_model(model) for model in table.model),
        members=tuple(_member(node, models) for node in table.node),
        rtt=lambda lower, higher: rtt.get((lower, higher)),
        streams=_streams(table),
        rtt_unknown_ms=_time("rtt_ms", table.rtt_ms),
    )


def _check_counts(table: PoolTable) -> None:
    for what, names, limit in (
        ("model", [model.name for model in table.model], MODELS_LIMIT),
        ("node", [node.name for node in table.node], NODES_LIMIT),
    ):
        if not 1 <= len(names) <= limit:
            raise _wrong(f"there must be 1 to {limit} [[{what}]] tables, not {len(names)}")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise _wrong(f"two tables of [[{what}]] are called {twice[0]!r}")


def _streams(table: PoolTable) -> Mapping[str, int]:
    for model in table.model:
        if not 1 <= model.streams <= STREAMS_LIMIT:
            raise _wrong(f"streams of {model.name!r}: from 1 to {STREAMS_LIMIT}")
    return {model.name: model.streams for model in table.model}


def _model(model: ModelTable) -> ModelShape:
    where = f"model {model.name!r}"
    if isinstance(model.layer, tuple):
        sizes = tuple(_bytes(f"{where}: layer", one) for one in model.layer)
        if model.layers not in (None, len(sizes)):
            raise _wrong(f"{where}: layers is {model.layers}, but layer lists {len(sizes)}")
    elif model.layers is None:
        raise _wrong(f"{where}: layers is missing, the number of layers")
    else:
        count = min(max(0, model.layers), LAYERS_LIMIT + 1)
        sizes = (_bytes(f"{where}: layer", model.layer),) * count
    if not 1 <= len(sizes) <= LAYERS_LIMIT or min(sizes) < 1:
        raise _wrong(f"{where}: from 1 to {LAYERS_LIMIT} layers of at least a byte")
    if model.kv_tokens < 0 or model.kv_tokens > SIZE_LIMIT_BYTES:
        raise _wrong(f"{where}: kv_tokens is no number of tokens")
    shape = ModelShape(
        digest=model.name,
        name=model.name,
        layer_bytes=sizes,
        head_bytes=_bytes(f"{where}: head", model.head),
        tail_bytes=_bytes(f"{where}: tail", model.tail),
        kv_bytes_per_token=_bytes(f"{where}: kv_per_token", model.kv_per_token),
        kv_tokens=model.kv_tokens,
        hidden_bytes=_bytes(f"{where}: hidden", model.hidden),
        head_layers=_time(f"{where}: head_layers", model.head_layers),
        tail_layers=_time(f"{where}: tail_layers", model.tail_layers),
        forbidden_lengths=_lengths(where, model.forbidden_lengths),
    )
    if shape.whole_bytes > SIZE_LIMIT_BYTES:
        raise _wrong(f"{where}: it is larger than {SIZE_LIMIT_BYTES} bytes")
    return shape


def _lengths(where: str, said: tuple[int, ...]) -> tuple[int, ...]:
    for length in said:
        if not 1 <= length <= LAYERS_LIMIT:
            raise _wrong(f"{where}: forbidden_lengths names {length}, not 1 to {LAYERS_LIMIT}")
    return tuple(sorted(set(said)))


def _member(node: NodeTable, models: set[str]) -> Member:
    where = f"node {node.name!r}"
    for name in node.models or ():
        if name not in models:
            raise _wrong(f"{where} names the model {name!r}, which is not in the file")
    if node.layer_ms is not None and _time(f"{where}: layer_ms", node.layer_ms) == 0:
        raise _wrong(f"{where}: layer_ms is more than 0; leave it out where it is not known")
    return Member(
        peer=node.name,
        name=node.name,
        memory_bytes=_bytes(f"{where}: memory", node.memory),
        overhead_bytes=_bytes(f"{where}: overhead", node.overhead),
        layer_ms=node.layer_ms,
        head_ms=None if node.head_ms is None else _time(f"{where}: head_ms", node.head_ms),
        tail_ms=None if node.tail_ms is None else _time(f"{where}: tail_ms", node.tail_ms),
        digests=node.models,
    )


def _bytes(where: str, said: Size) -> int:
    """A number of bytes, or text like "1.5 GiB"."""
    found = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)\s*", str(said))
    unit = _UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None:
        raise _wrong(f'{where}: {said!r} is no size like 700000, "512 MiB" or "1.5 GB"')
    size = float(found[1]) * unit if "." in found[1] else int(found[1]) * unit
    if size > SIZE_LIMIT_BYTES:
        raise _wrong(f"{where}: {said!r} is larger than {SIZE_LIMIT_BYTES} bytes")
    return int(size)


def _time(where: str, value: float) -> float:
    if not math.isfinite(value) or not 0 <= value <= 1e9:
        raise _wrong(f"{where}: {value} is not from 0 to 1e9")
    return value


def _wrong(what: str) -> Problem:
    return Problem(ProblemCode.CONFIG_INVALID, f"this is no pool to plan: {what}", hint=HINT)
