"""What each part of a model weighs, for whoever decides which node holds which layers; pure."""

from __future__ import annotations

from parhelion.models.anatomy import Anatomy, forbidden_lengths
from parhelion.models.gguf_header import Array, Tensor
from parhelion.models.gguf_tensors import size_bytes
from parhelion.models.slice_layout import filler_bytes, head_is_embedding
from parhelion.words import Record

KV_BYTES_PER_VALUE = 2
"""Keys and values are kept as 16-bit floats."""

_EXPERTS = "_exps."
"""In the names of tensors that hold all experts, of which a token uses a few."""


class ModelWeight(Record, frozen=True, kw_only=True):
    """A model as a planner sees it; each tuple has one number a layer.

    `layers` are those of the graph: what predicts further tokens is in no slice, so this may be
    less than the file's count. `layer_active_bytes` are read for one token: less than
    `layer_bytes` in a mixture of experts. `head_bytes` is what the first stage has beside its
    layers, `tail_bytes` what the last has, fillers included. A hidden state is `hidden_size`
    floats. No stage can have one of the `forbidden_lengths`.
    """

    architecture: str
    layers: int
    layer_bytes: tuple[int, ...]
    layer_active_bytes: tuple[int, ...]
    kv_bytes_per_token: tuple[int, ...]
    head_bytes: int
    tail_bytes: int
    hidden_size: int
    n_vocab: int
    forbidden_lengths: tuple[int, ...] = ()
    tail_layers: float = 0.0
    """What the output head takes in time, in layers: by weights that a token goes through, which
    is nearer to it than bytes where head and layers are not quantised alike."""


def weight_of(model: Anatomy) -> ModelWeight:
    """The weight of every part, from the outline alone."""
    filler = filler_bytes(model)
    head = size_bytes(model.embedding) + (filler if model.architecture.needs_head else 0)
    tail = sum(size_bytes(tensor) for tensor in (*model.norms, *model.heads))
    if not model.heads:
        tail += size_bytes(model.embedding)
    elif not head_is_embedding(model):
        tail += filler
    return ModelWeight(
        architecture=model.name,
        layers=model.layers,
        layer_bytes=tuple(sum(map(size_bytes, layer.values())) for layer in model.by_layer),
        layer_active_bytes=tuple(_active(model, number) for number in range(model.layers)),
        kv_bytes_per_token=tuple(_kv(model, number) for number in range(model.layers)),
        head_bytes=head,
        tail_bytes=tail,
        hidden_size=model.hidden_size,
        n_vocab=model.n_vocab,
        forbidden_lengths=forbidden_lengths(model),
        tail_layers=_tail_layers(model),
    )


def _active(model: Anatomy, layer: int) -> int:
    experts = max(1, model.number("expert_count", 1))
    used = min(experts, _of_layer(model, "expert_used_count", layer, experts))

    def active(name: str, tensor: Tensor) -> int:
        whole = size_bytes(tensor)
        return whole * used // experts if _EXPERTS in name else whole

    return sum(active(name, tensor) for name, tensor in model.by_layer[layer].items())


def _kv(model: Anatomy, layer: int) -> int:
    heads = max(1, _of_layer(model, "attention.head_count", layer, 1))
    kv_heads = _of_layer(model, "attention.head_count_kv", layer, heads)
    width = model.hidden_size // max(1, _of_layer(model, "attention.head_count", 0, 1))
    key = model.number("attention.key_length", width)
    value = model.number("attention.value_length", width)
    if model.number("attention.key_length_mla") and model.number("attention.value_length_mla"):
        # Latent attention: the values are a part of the keys, and are not kept beside them.
        value = 0
    return max(0, kv_heads * (key + value) * KV_BYTES_PER_VALUE)


def _of_layer(model: Anatomy, key: str, layer: int, default: int) -> int:
    value = model.outline.header.get(f"{model.name}.{key}")
    if isinstance(value, Array):
        value = value.values[layer]
    return value if isinstance(value, int) else default


def _tail_layers(model: Anatomy) -> float:
    heads = model.heads or (model.embedding,)
    head = max(tensor.elements for tensor in heads)
    each = [
        sum(tensor.elements for tensor in layer.values())
        * _active(model, number)
        / max(1, sum(map(size_bytes, layer.values())))
        for number, layer in enumerate(model.by_layer)
    ]
    return head * len(each) / max(1.0, sum(each))
