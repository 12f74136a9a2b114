"""The parts of a model that can be cut: its layers, what is before and behind them; pure.

Everything a slice relies on is checked here, once, for files from strangers: a model that comes
through can be cut at any layer (see `forbidden_lengths`), and anything else is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from parhelion.models.architectures import (
    ARCHITECTURES,
    NOT_PER_LAYER,
    PER_LAYER,
    SLICE_KEY,
    Architecture,
    is_lite,
    why_not,
)
from parhelion.models.gguf_header import SCALARS, Array, Header, HeaderBroken, Outline, Tensor
from parhelion.models.gguf_tensors import (
    BLOCKS,
    EMBEDDING,
    check_whole,
    data_begin,
    size_bytes,
)
from parhelion.words import Problem, ProblemCode

LAYERS_LIMIT = 512
"""llama.cpp's LLAMA_MAX_LAYERS: no file with more can be loaded."""

WIDTH_LIMIT = 1_000_000
"""Elements of one hidden state; the widest models have 16,384."""

HEAD = "output.weight"
NORM = "output_norm.weight"
_NORMS = (NORM, "output_norm.bias")
_HEADS = (HEAD, "output.bias", "output.scale", "output.input_scale")
_SHARED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_LAYER = re.compile(r"blk\.(0|[1-9][0-9]{0,3})\.([a-z0-9_.]{1,48})")
_INTEGERS = (0, 1, 2, 3, 4, 5, 10, 11)


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A model that can be cut: `layers` of the graph, each with its tensors by their short names.

    `shared` belong to every slice, `embedding` to the first, `norms` and `heads` to the last; a
    model without `heads` uses its embedding as one. `block_count` counts prediction layers too,
    which no slice has.
    """

    outline: Outline
    name: str
    architecture: Architecture
    block_count: int
    layers: int
    hidden_size: int
    n_vocab: int
    begin: int
    by_layer: tuple[dict[str, Tensor], ...]
    embedding: Tensor
    norms: tuple[Tensor, ...]
    heads: tuple[Tensor, ...]
    shared: tuple[Tensor, ...]

    def number(self, key: str, default: int = 0) -> int:
        """The architecture's key as a number; `default` where it is absent or none."""
        value = self.outline.header.get(f"{self.name}.{key}")
        return value if isinstance(value, int) else default


def anatomy(outline: Outline) -> Anatomy:
    """The model's parts; Problem MODEL_NOT_SLICEABLE or ARTEFACT_INVALID, naming the cause."""
    header = outline.header
    name = header.get("general.architecture")
    if not isinstance(name, str) or not name.isascii() or not name.isprintable():
        raise not_sliceable("this model", "its file says no general.architecture")
    architecture = ARCHITECTURES.get(name)
    if architecture is None:
        raise not_sliceable(name[:64], why_not(name))
    _refuse_kind(header, name)
    block_count = _count(header, name, "block_count", LAYERS_LIMIT)
    layers = block_count - _extra(header, name, block_count)
    _check_tensors(outline, name, layers)
    _check_arrays(header, name, block_count)
    hidden_size = _count(header, name, "embedding_length", WIDTH_LIMIT)
    by_layer = _by_layer(outline.tensors, name, block_count)
    loose = {t.name: t for t in outline.tensors if _LAYER.fullmatch(t.name) is None}
    unknown = sorted(set(loose) - {EMBEDDING, *_NORMS, *_HEADS, *_SHARED})
    if unknown:
        raise not_sliceable(name, f"the tensor {unknown[0]!r} belongs to no layer we know")
    found = Anatomy(
        outline=outline,
        name=name,
        architecture=architecture,
        block_count=block_count,
        layers=layers,
        hidden_size=hidden_size,
        n_vocab=_vocabulary(header, name),
        begin=data_begin(outline),
        by_layer=tuple(by_layer[:layers]),
        embedding=loose[EMBEDDING],
        norms=_named(loose, _NORMS),
        heads=_named(loose, _HEADS),
        shared=_named(loose, _SHARED),
    )
    _check_shapes(found, loose)
    return found


def forbidden_lengths(model: Anatomy) -> tuple[int, ...]:
    """Numbers of layers that no stage of this model may have.

    llama.cpp takes a deepseek2 file of 26 or 27 layers for one without query compression, so a
    slice of so many layers of a model with it cannot be loaded.
    """
    if model.name != "deepseek2" or query_rank(model) == 0:
        return ()
    lengths = range(1, model.layers)
    return tuple(number for number in lengths if is_lite(number, model.n_vocab))


def query_rank(model: Anatomy) -> int:
    """The rank of deepseek2's query compression as llama.cpp reads it off the whole file."""
    if is_lite(model.layers, model.n_vocab):
        return 0
    return model.number("attention.q_lora_rank")


def not_sliceable(name: str, cause: str) -> Problem:
    """What is said of a model that no pipeline can hold."""
    return Problem(
        ProblemCode.MODEL_NOT_SLICEABLE,
        f"{name} cannot be cut into stages: {cause}",
        hint="serve it from nodes that hold it whole",
    )


def _invalid(cause: str) -> Problem:
    return Problem(
        ProblemCode.ARTEFACT_INVALID,
        f"the file is no model we can cut: {cause}",
        hint="give the path of a whole, unbroken GGUF model; fetch it again if it was cut short",
    )


def _refuse_kind(header: Header, name: str) -> None:
    parts = header.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise not_sliceable(name, f"the file is one of {parts} parts; join them first")
    if any(key.startswith(SLICE_KEY) for key in header):
        raise not_sliceable(name, "the file is itself a slice of a model")
    if f"{name}.pooling_type" in header or header.get(f"{name}.attention.causal") is False:
        raise not_sliceable(name, why_not("bert"))
    if f"{name}.attention.sliding_window_pattern" in header:
        raise not_sliceable(name, why_not("gemma2"))


def _check_tensors(outline: Outline, name: str, layers: int) -> None:
    try:
        check_whole(outline, layers)
        alignment(outline.header)
    except HeaderBroken as error:
        raise _invalid(str(error)) from error
    if len({tensor.name for tensor in outline.tensors}) != len(outline.tensors):
        raise _invalid("two tensors have one name")
    for tensor in outline.tensors:
        if tensor.kind not in BLOCKS:
            raise not_sliceable(name, f"{tensor.name[:64]!r} has the unknown type {tensor.kind}")
        if min(tensor.shape, default=0) < 1 or tensor.shape[0] % BLOCKS[tensor.kind][0]:
            raise _invalid(f"{tensor.name[:64]!r} has an impossible shape")
    # Tensors over the same bytes would make a slice larger than the model, without bound.
    placed = sorted(outline.tensors, key=lambda tensor: tensor.offset)
    for before, after in pairwise(placed):
        if before.offset + size_bytes(before) > after.offset:
            raise _invalid(f"{before.name[:64]!r} and {after.name[:64]!r} overlap")


def alignment(header: Header) -> int:
    """The multiple at which tensors begin; HeaderBroken unless llama.cpp would take it."""
    value = header.get("general.alignment", 32)
    if not isinstance(value, int) or value < 1 or value & (value - 1):
        raise HeaderBroken("general.alignment is no power of two")
    return value


def _check_arrays(header: Header, name: str, block_count: int) -> None:
    for key, value in header.items():
        if not isinstance(value, Array) or not key.startswith(f"{name}."):
            continue
        short = key.removeprefix(f"{name}.")
        if short in NOT_PER_LAYER:
            continue
        if short not in PER_LAYER:
            raise not_sliceable(name, f"nobody knows how to cut its key {short[:64]!r}")
        if value.count != block_count or value.kind not in SCALARS or value.kind not in _INTEGERS:
            raise _invalid(f"{key!r} has not one number for each of {block_count} layers")


def _by_layer(tensors: Iterable[Tensor], name: str, block_count: int) -> list[dict[str, Tensor]]:
    found: list[dict[str, Tensor]] = [{} for _ in range(block_count)]
    for tensor in tensors:
        match = _LAYER.fullmatch(tensor.name)
        if match is None:
            continue
        number = int(match[1])
        if number >= block_count:
            raise not_sliceable(name, f"{tensor.name!r} is of a layer that it does not count")
        found[number][match[2]] = tensor
    return found


def _check_shapes(model: Anatomy, loose: dict[str, Tensor]) -> None:
    width, words = model.hidden_size, model.n_vocab
    wanted = {EMBEDDING: (width, words), NORM: (width,), HEAD: (width, words)}
    for name, shape in wanted.items():
        tensor = loose.get(name)
        if tensor is not None and tensor.shape != shape:
            raise _invalid(f"{name} has the shape {tensor.shape}, not {shape}")
    if NORM not in loose:
        raise _invalid(f"the tensor {NORM} is not in it")
    if HEAD not in loose and (model.architecture.needs_head or model.heads):
        raise _invalid(f"the tensor {HEAD} is not in it")


def _vocabulary(header: Header, name: str) -> int:
    tokens = header.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, Array) or tokens.count == 0:
        raise not_sliceable(name, "the file has no vocabulary")
    return tokens.count


def _named(loose: dict[str, Tensor], names: Iterable[str]) -> tuple[Tensor, ...]:
    return tuple(loose[name] for name in names if name in loose)


def _extra(header: Header, name: str, block_count: int) -> int:
    """Layers that only predict further tokens: behind the graph that answers, and in no slice."""
    extra = header.get(f"{name}.nextn_predict_layers", 0)
    if not isinstance(extra, int) or not 0 <= extra < block_count:
        raise _invalid(f"{name}.nextn_predict_layers is no usable number")
    return extra


def _count(header: Header, name: str, key: str, limit: int) -> int:
    value = header.get(f"{name}.{key}")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= limit:
        raise _invalid(f"{name}.{key} is no usable number")
    return value
