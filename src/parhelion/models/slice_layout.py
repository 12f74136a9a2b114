"""A slice as a list of segments: new bytes, runs of the whole file, zeros; pure.

The same file and the same cut give the same bytes on every machine, so a slice has one sha256
wherever it is made. What the loader insists on and no stage of that place uses (the embedding
behind the first, the head before the last) is a filler of zeros of the smallest kind that fits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from parhelion.models.anatomy import (
    HEAD,
    NORM,
    Anatomy,
    alignment,
    forbidden_lengths,
    not_sliceable,
    query_rank,
)
from parhelion.models.architectures import PER_LAYER, SLICE_KEY, default_gating, is_lite
from parhelion.models.gguf_header import ARRAY, MAGIC, SCALARS, STRING, Array, Tensor
from parhelion.models.gguf_tensors import BLOCKS, EMBEDDING, size_bytes
from parhelion.words import Problem, ProblemCode

VERSION = 3
UINT32 = 4
F32, F16, Q4_0, IQ1_S = 0, 1, 2, 19

FILLER_KINDS = (IQ1_S, Q4_0, F16)
"""Smallest first; of a row of any width one fits. All are older than the llama.cpp that we pin."""

NO_VOCABULARY = 1
"""Words of a stage that neither reads nor makes ids: its embedding and its logits are one row."""


class Segment(NamedTuple):
    """A run of bytes: `body` where it has one, else from `source` of the whole file, else zeros."""

    size_bytes: int
    source: int | None = None
    body: bytes = b""


class _Part(NamedTuple):
    """A tensor of the slice; `source` None is a filler."""

    name: str
    shape: tuple[int, ...]
    kind: int
    source: int | None

    @property
    def size_bytes(self) -> int:
        return size_bytes(self.as_tensor())

    def as_tensor(self) -> Tensor:
        elements = 1
        for side in self.shape:
            elements *= side
        return Tensor(self.name, elements, self.kind, 0, self.shape)


def segments(model: Anatomy, start: int, end: int) -> tuple[Segment, ...]:
    """The slice of layers [start, end); Problem when the model has no such cut."""
    _check_cut(model, start, end)
    keys, count = _keys(model, start, end)
    parts = (*_taken(model, start, end), *_fillers(model, start, end))
    step = alignment(model.outline.header)
    head = MAGIC + struct.pack("<IQQ", VERSION, len(parts), count)
    made = [_new(head), *keys, _new(_infos(parts, step))]
    made.append(Segment(-sum(segment.size_bytes for segment in made) % step))
    for part in parts:
        made.append(Segment(part.size_bytes, part.source))
        made.append(Segment(-part.size_bytes % step))
    return _joined(made)


def filler_bytes(model: Anatomy) -> int:
    """What a filler as large as the vocabulary takes."""
    return _Part(EMBEDDING, (model.hidden_size, model.n_vocab), _cheapest(model), None).size_bytes


def head_is_embedding(model: Anatomy) -> bool:
    """Whether the last stage has its head in the embedding's place: then it needs no filler.

    llama.cpp takes the embedding for the head where there is none; a head with scales of its own
    must keep its name.
    """
    return not model.architecture.needs_head and not any("scale" in t.name for t in model.heads)


def _check_cut(model: Anatomy, start: int, end: int) -> None:
    if not 0 <= start < end <= model.layers:
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            f"a model of {model.layers} layers has no layers from {start} to {end}",
            hint=f"0 <= start < end <= {model.layers}",
        )
    if end - start in forbidden_lengths(model):
        raise not_sliceable(
            f"{model.name} [{start}, {end})",
            f"llama.cpp takes a file of {end - start} layers for another kind of this model",
        )


def _keys(model: Anatomy, start: int, end: int) -> tuple[list[Segment], int]:
    """The metadata: as it is where it can be, in the order of the whole file, then what is new."""
    outline = model.outline
    changes = _changes(model, start, end)
    is_last = end == model.layers
    made: list[Segment] = []
    for key, (begin, behind) in outline.spans.items():
        if key in changes:
            made.append(_new(changes.pop(key)))
        elif key.startswith("split.") or (key.startswith("tokenizer.") and not is_last):
            continue
        else:
            made.append(Segment(behind - begin, begin))
    made += [_new(changes[key]) for key in sorted(changes)]
    return made, len(made)


def _changes(model: Anatomy, start: int, end: int) -> dict[str, bytes]:
    """The entries of a slice that differ from the whole file's."""
    numbers = {"block_count": end - start}
    if model.block_count != model.layers:
        numbers["nextn_predict_layers"] = 0
    if f"{model.name}.leading_dense_block_count" in model.outline.header:
        dense = model.number("leading_dense_block_count")
        numbers["leading_dense_block_count"] = max(0, min(dense, end) - start)
    if end != model.layers:
        numbers["vocab_size"] = model.n_vocab if start == 0 else NO_VOCABULARY
    if model.name == "deepseek2":
        numbers |= _deepseek2(model, end - start)
    changes = {key: _number(key, value) for key, value in _full(model, numbers)}
    for key in PER_LAYER:
        array = model.outline.header.get(f"{model.name}.{key}")
        if isinstance(array, Array):
            full = f"{model.name}.{key}"
            changes[full] = _cut(full, array, start, end)
    if end != model.layers:
        changes["tokenizer.ggml.model"] = _text("tokenizer.ggml.model", "none")
    said = {"start": start, "end": end, "layers": model.layers}
    return changes | {
        f"{SLICE_KEY}.{key}": _number(f"{SLICE_KEY}.{key}", value) for key, value in said.items()
    }


def _deepseek2(model: Anatomy, layers: int) -> dict[str, int]:
    """What llama.cpp guesses from the number of layers, said outright."""
    numbers: dict[str, int] = {}
    if not is_lite(layers, model.n_vocab):
        numbers["attention.q_lora_rank"] = query_rank(model)
    if model.number("expert_gating_func") == 0:
        numbers["expert_gating_func"] = default_gating(model.layers, model.n_vocab)
    return numbers


def _full(model: Anatomy, numbers: dict[str, int]) -> Iterable[tuple[str, int]]:
    return ((f"{model.name}.{key}", value) for key, value in numbers.items())


def _taken(model: Anatomy, start: int, end: int) -> tuple[_Part, ...]:
    """The tensors of the whole file that the slice has, in that file's order."""
    names = {tensor.name: tensor.name for tensor in model.shared}
    for number in range(start, end):
        layer = model.by_layer[number]
        names |= {t.name: f"blk.{number - start}.{short}" for short, t in layer.items()}
    if start == 0 or (end == model.layers and not model.heads):
        names[EMBEDDING] = EMBEDDING
    if end == model.layers:
        names |= {tensor.name: tensor.name for tensor in (*model.norms, *model.heads)}
        if start > 0 and model.heads and head_is_embedding(model):
            names[HEAD] = EMBEDDING
    return tuple(
        _Part(names[tensor.name], tensor.shape, tensor.kind, model.begin + tensor.offset)
        for tensor in model.outline.tensors
        if tensor.name in names
    )


def _fillers(model: Anatomy, start: int, end: int) -> tuple[_Part, ...]:
    """What the loader wants beside them."""
    wanted = [EMBEDDING, NORM, *([HEAD] if model.architecture.needs_head else [])]
    there = {part.name for part in _taken(model, start, end)}
    at_edge = start == 0 or end == model.layers
    words, kind = (model.n_vocab, _cheapest(model)) if at_edge else (NO_VOCABULARY, F32)
    width = model.hidden_size
    made = {name: _Part(name, (width, words), kind, None) for name in (EMBEDDING, HEAD)}
    made[NORM] = _Part(NORM, (width,), F32, None)
    return tuple(made[name] for name in wanted if name not in there)


def _cheapest(model: Anatomy) -> int:
    return next(kind for kind in FILLER_KINDS if model.hidden_size % BLOCKS[kind][0] == 0)


def _infos(parts: Iterable[_Part], step: int) -> bytes:
    """The list of tensors; offsets count from the first tensor's first byte."""
    made: list[bytes] = []
    offset = 0
    for part in parts:
        name = part.name.encode()
        made.append(struct.pack("<Q", len(name)) + name)
        made.append(struct.pack(f"<I{len(part.shape)}Q", len(part.shape), *part.shape))
        made.append(struct.pack("<IQ", part.kind, offset))
        offset += -(-part.size_bytes // step) * step
    return b"".join(made)


def _number(key: str, value: int) -> bytes:
    return _entry(key, UINT32) + struct.pack("<I", value)


def _text(key: str, value: str) -> bytes:
    raw = value.encode()
    return _entry(key, STRING) + struct.pack("<Q", len(raw)) + raw


def _cut(key: str, array: Array, start: int, end: int) -> bytes:
    values = array.values[start:end]
    raw = b"".join(struct.pack(SCALARS[array.kind], value) for value in values)
    return _entry(key, ARRAY) + struct.pack("<IQ", array.kind, len(values)) + raw


def _entry(key: str, kind: int) -> bytes:
    raw = key.encode()
    return struct.pack("<Q", len(raw)) + raw + struct.pack("<I", kind)


def _new(body: bytes) -> Segment:
    return Segment(len(body), None, body)


def _joined(made: Iterable[Segment]) -> tuple[Segment, ...]:
    """Neighbours of one kind as one; empty ones gone."""
    joined: list[Segment] = []
    for segment in made:
        if segment.size_bytes == 0:
            continue
        last = joined[-1] if joined else None
        together = None if last is None else _together(last, segment)
        if together is None:
            joined.append(segment)
        else:
            joined[-1] = together
    return tuple(joined)


def _together(one: Segment, two: Segment) -> Segment | None:
    size_bytes = one.size_bytes + two.size_bytes
    if one.body and two.body:
        return _new(one.body + two.body)
    if one.body or two.body:
        return None
    if one.source is None or two.source is None:
        return Segment(size_bytes) if one.source is two.source else None
    return Segment(size_bytes, one.source) if one.source + one.size_bytes == two.source else None
