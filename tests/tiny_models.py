"""Tiny whole models of real architectures, with random weights, written by gguf-py.

They have what the architecture's real files have (biases, norms of queries, leading dense layers,
shared experts, factors of the rotation), so that a slicer that forgets one of them is found out;
and weights so large that every layer, its place and the attention's reach decide the next id.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.unit.models.tiny import CHATML, CONTROL, NORMAL, byte_letters

VOCABULARY = 320
"""256 bytes, some pairs of letters, three control tokens."""

EMBEDDING = 64
HEADS = 4
FEED_FORWARD = 96
EXPERTS = 6
EXPERTS_USED = 2
EXPERT_FEED_FORWARD = 64
CONTEXT = 2048

Value = int | float | str | bool | tuple[int, ...]
Shapes = Iterator[tuple[str, tuple[int, ...]]]
"""Names with dimensions in llama.cpp's order: what is read from first."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One architecture: its keys behind `{architecture}.`, and the tensors of a layer.

    `pre` is how its vocabulary splits text. `tied` files have no output.weight. `dense_layers` are
    the leading ones without experts, `prediction_layers` come behind the graph that answers.
    """

    architecture: str
    layer: Callable[[Shape, int], Shapes]
    keys: dict[str, Value]
    layers: int = 6
    pre: str = "smollm"
    tied: bool = False
    dense_layers: int = 0
    prediction_layers: int = 0
    whole: dict[str, tuple[int, ...]] = field(default_factory=dict)


def _norms(number: int, *names: str) -> Shapes:
    for name in names:
        yield f"blk.{number}.{name}.weight", (EMBEDDING,)


def _attention(number: int, *, width: int, kv_heads: int, biases: bool = False) -> Shapes:
    """Queries, keys, values and output, of heads `width` wide."""
    sizes = {"q": HEADS * width, "k": kv_heads * width, "v": kv_heads * width}
    for name, size in sizes.items():
        yield f"blk.{number}.attn_{name}.weight", (EMBEDDING, size)
        if biases:
            yield f"blk.{number}.attn_{name}.bias", (size,)
    yield f"blk.{number}.attn_output.weight", (HEADS * width, EMBEDDING)


def _dense(number: int) -> Shapes:
    yield f"blk.{number}.ffn_gate.weight", (EMBEDDING, FEED_FORWARD)
    yield f"blk.{number}.ffn_up.weight", (EMBEDDING, FEED_FORWARD)
    yield f"blk.{number}.ffn_down.weight", (FEED_FORWARD, EMBEDDING)


def _experts(number: int, *, bias: bool = False, shared: int = 0) -> Shapes:
    wide, narrow = EXPERT_FEED_FORWARD, EXPERT_FEED_FORWARD * shared
    yield f"blk.{number}.ffn_gate_inp.weight", (EMBEDDING, EXPERTS)
    if bias:
        yield f"blk.{number}.exp_probs_b.bias", (EXPERTS,)
    yield f"blk.{number}.ffn_gate_exps.weight", (EMBEDDING, wide, EXPERTS)
    yield f"blk.{number}.ffn_up_exps.weight", (EMBEDDING, wide, EXPERTS)
    yield f"blk.{number}.ffn_down_exps.weight", (wide, EMBEDDING, EXPERTS)
    if shared:
        yield f"blk.{number}.ffn_gate_shexp.weight", (EMBEDDING, narrow)
        yield f"blk.{number}.ffn_up_shexp.weight", (EMBEDDING, narrow)
        yield f"blk.{number}.ffn_down_shexp.weight", (narrow, EMBEDDING)


def _llama(shape: Shape, number: int) -> Shapes:
    yield from _norms(number, "attn_norm", "ffn_norm")
    yield from _attention(number, width=16, kv_heads=2)
    yield from _dense(number)


def _mixtral(shape: Shape, number: int) -> Shapes:
    yield from _norms(number, "attn_norm", "ffn_norm")
    yield from _attention(number, width=16, kv_heads=2)
    yield from _experts(number)


def _qwen2(shape: Shape, number: int) -> Shapes:
    yield from _norms(number, "attn_norm", "ffn_norm")
    yield from _attention(number, width=16, kv_heads=2, biases=True)
    if shape.architecture == "qwen2":
        yield from _dense(number)
    else:
        yield from _experts(number, shared=2)
        yield f"blk.{number}.ffn_gate_inp_shexp.weight", (EMBEDDING,)


def _qwen3(shape: Shape, number: int) -> Shapes:
    yield from _norms(number, "attn_norm", "ffn_norm")
    yield from _attention(number, width=32, kv_heads=2)
    for name in ("attn_q_norm", "attn_k_norm"):
        yield f"blk.{number}.{name}.weight", (32,)
    yield from _dense(number) if shape.architecture == "qwen3" else _experts(number)


def _glm4(shape: Shape, number: int) -> Shapes:
    yield from _norms(number, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    yield from _attention(number, width=16, kv_heads=2, biases=True)
    yield f"blk.{number}.ffn_up.weight", (EMBEDDING, 2 * FEED_FORWARD)
    yield f"blk.{number}.ffn_down.weight", (FEED_FORWARD, EMBEDDING)


def _glm4moe(shape: Shape, number: int) -> Shapes:
    yield from _norms(number, "attn_norm", "post_attention_norm")
    yield from _attention(number, width=16, kv_heads=2, biases=True)
    for name in ("attn_q_norm", "attn_k_norm"):
        yield f"blk.{number}.{name}.weight", (16,)
    if number < shape.dense_layers:
        yield from _dense(number)
    else:
        yield from _experts(number, bias=True, shared=1)
    if number >= shape.layers:
        yield f"blk.{number}.nextn.eh_proj.weight", (2 * EMBEDDING, EMBEDDING)
        yield from _norms(number, "nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm")


def _minimax(shape: Shape, number: int) -> Shapes:
    yield from _norms(number, "attn_norm", "ffn_norm")
    yield from _attention(number, width=32, kv_heads=2)
    yield f"blk.{number}.attn_q_norm.weight", (HEADS * 32,)
    yield f"blk.{number}.attn_k_norm.weight", (2 * 32,)
    yield from _experts(number, bias=True)


NOPE, ROPE, LATENT, QUERY_LATENT, VALUE = 32, 16, 32, 64, 32
"""DeepSeek's attention: of a key the part without and with position, the compressed sizes."""


def _deepseek2(shape: Shape, number: int) -> Shapes:
    yield from _norms(number, "attn_norm", "ffn_norm")
    if "attention.q_lora_rank" in shape.keys:
        yield f"blk.{number}.attn_q_a.weight", (EMBEDDING, QUERY_LATENT)
        yield f"blk.{number}.attn_q_a_norm.weight", (QUERY_LATENT,)
        yield f"blk.{number}.attn_q_b.weight", (QUERY_LATENT, HEADS * (NOPE + ROPE))
    else:
        yield f"blk.{number}.attn_q.weight", (EMBEDDING, HEADS * (NOPE + ROPE))
    yield f"blk.{number}.attn_kv_a_mqa.weight", (EMBEDDING, LATENT + ROPE)
    yield f"blk.{number}.attn_kv_a_norm.weight", (LATENT,)
    if "attention.key_length_mla" in shape.keys:
        yield f"blk.{number}.attn_k_b.weight", (NOPE, LATENT, HEADS)
        yield f"blk.{number}.attn_v_b.weight", (LATENT, VALUE, HEADS)
    else:
        yield f"blk.{number}.attn_kv_b.weight", (LATENT, HEADS * (NOPE + VALUE))
    yield f"blk.{number}.attn_output.weight", (HEADS * VALUE, EMBEDDING)
    if number < shape.dense_layers:
        yield from _dense(number)
    else:
        yield from _experts(number, bias="expert_gating_func" in shape.keys, shared=2)


_HEADS: dict[str, Value] = {"attention.head_count": HEADS, "attention.head_count_kv": 2}
_WIDE: dict[str, Value] = {
    "attention.key_length": 32,
    "attention.value_length": 32,
    "rope.dimension_count": 32,
}
_EXPERTS: dict[str, Value] = {
    "expert_count": EXPERTS,
    "expert_used_count": EXPERTS_USED,
    "expert_feed_forward_length": EXPERT_FEED_FORWARD,
}
_DEEPSEEK: dict[str, Value] = {
    **_EXPERTS,
    "attention.head_count": HEADS,
    "attention.kv_lora_rank": LATENT,
    "rope.dimension_count": ROPE,
    "expert_shared_count": 2,
    "vocab_size": VOCABULARY,
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 8.0,
    "rope.scaling.original_context_length": 256,
    "rope.scaling.yarn_log_multiplier": 0.0707,
}

SHAPES: dict[str, Shape] = {
    # As Llama 3.2: output and embedding are one, and factors stretch the rotation.
    "llama": Shape(
        "llama",
        _llama,
        {**_HEADS, "rope.dimension_count": 16, "vocab_size": VOCABULARY},
        tied=True,
        whole={"rope_freqs.weight": (8,)},
    ),
    # As files that say sizes layer by layer.
    "llama-arrays": Shape(
        "llama",
        _llama,
        {
            "attention.head_count": (HEADS,) * 6,
            "attention.head_count_kv": (2,) * 6,
            "feed_forward_length": (FEED_FORWARD,) * 6,
        },
    ),
    "mixtral": Shape(
        "llama", _mixtral, {**_HEADS, "expert_count": EXPERTS, "expert_used_count": EXPERTS_USED}
    ),
    "qwen2": Shape("qwen2", _qwen2, _HEADS, pre="qwen2"),
    "qwen2moe": Shape(
        "qwen2moe",
        _qwen2,
        {**_HEADS, **_EXPERTS, "expert_shared_feed_forward_length": 2 * EXPERT_FEED_FORWARD},
        pre="qwen2",
    ),
    "qwen3": Shape("qwen3", _qwen3, {**_HEADS, **_WIDE}, pre="qwen2", tied=True),
    "qwen3moe": Shape("qwen3moe", _qwen3, {**_HEADS, **_WIDE, **_EXPERTS}, pre="qwen2"),
    # As DeepSeek-V3: queries compressed too, keys and values apart, experts chosen by sigmoid.
    "deepseek2": Shape(
        "deepseek2",
        _deepseek2,
        {
            **_DEEPSEEK,
            "attention.head_count_kv": 1,
            "attention.q_lora_rank": QUERY_LATENT,
            "attention.key_length": LATENT + ROPE,
            "attention.value_length": LATENT,
            "attention.key_length_mla": NOPE + ROPE,
            "attention.value_length_mla": VALUE,
            "leading_dense_block_count": 3,
            "expert_gating_func": 2,
            "expert_weights_norm": True,
            "expert_weights_scale": 2.5,
        },
        layers=8,
        pre="deepseek-v3",
        dense_layers=3,
    ),
    # As DeepSeek-V2-Lite, which llama.cpp knows by its 27 layers, in the older form of its file.
    "deepseek2-lite": Shape(
        "deepseek2",
        _deepseek2,
        {
            **_DEEPSEEK,
            "attention.head_count_kv": HEADS,
            "attention.key_length": NOPE + ROPE,
            "attention.value_length": VALUE,
            "leading_dense_block_count": 1,
            "expert_weights_scale": 1.0,
        },
        layers=27,
        pre="deepseek-llm",
        dense_layers=1,
    ),
    "glm4": Shape("glm4", _glm4, {**_HEADS, "rope.dimension_count": 8}, pre="glm4"),
    # As GLM-4.5, with the layer that only predicts further ids.
    "glm4moe": Shape(
        "glm4moe",
        _glm4moe,
        {
            **_HEADS,
            **_EXPERTS,
            "rope.dimension_count": 8,
            "expert_shared_count": 1,
            "expert_weights_norm": True,
            "expert_weights_scale": 1.0,
            "expert_gating_func": 2,
            "leading_dense_block_count": 1,
            "nextn_predict_layers": 1,
        },
        pre="glm4",
        dense_layers=1,
        prediction_layers=1,
    ),
    "minimax-m2": Shape(
        "minimax-m2",
        _minimax,
        {
            **_HEADS,
            **_WIDE,
            **_EXPERTS,
            "rope.dimension_count": 16,
            "expert_gating_func": 2,
        },
        pre="minimax-m2",
    ),
}
"""By name: what each tiny model is."""


def write_tiny(path: Path, shape: Shape, *, seed: int = 4, quantised: bool = False) -> Path:
    """The model file of this shape: the same bytes for the same seed; `quantised` is Q8_0."""
    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_file_type(7 if quantised else 0)
    # Where every layer has experts, some loaders take this for their size.
    feed_forward = EXPERT_FEED_FORWARD if shape.layer in (_minimax, _mixtral) else FEED_FORWARD
    keys: dict[str, Value] = {
        "context_length": CONTEXT,
        "block_count": shape.layers + shape.prediction_layers,
        "embedding_length": EMBEDDING,
        "feed_forward_length": feed_forward,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
        **shape.keys,
    }
    for name, value in keys.items():
        _add_key(writer, f"{shape.architecture}.{name}", value)
    _add_vocabulary(writer, shape.pre)
    for name, dimensions in _tensors(shape):
        values = _weights(name, dimensions, seed, tied=shape.tied)
        _add_tensor(writer, name, values, quantised=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def deeper(shape: Shape, layers: int) -> Shape:
    """The same with another number of layers."""
    return replace(shape, layers=layers)


def _tensors(shape: Shape) -> Shapes:
    yield "token_embd.weight", (EMBEDDING, VOCABULARY)
    yield "output_norm.weight", (EMBEDDING,)
    if not shape.tied:
        yield "output.weight", (EMBEDDING, VOCABULARY)
    yield from shape.whole.items()
    for number in range(shape.layers + shape.prediction_layers):
        yield from shape.layer(shape, number)


def _add_key(writer: gguf.GGUFWriter, name: str, value: Value) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, tuple):
        writer.add_array(name, value)
    else:
        writer.add_string(name, value)


def _add_vocabulary(writer: gguf.GGUFWriter, pre: str) -> None:
    controls = ["<|im_start|>", "<|im_end|>", "<|bos|>"]
    letters = "etaoinsr"
    pairs = [one + two for one in letters for two in letters][: VOCABULARY - 256 - len(controls)]
    pieces = [*byte_letters(), *pairs, *controls]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(pieces)
    writer.add_token_types([NORMAL] * (len(pieces) - 3) + [CONTROL] * 3)
    writer.add_token_merges([" ".join(pair) for pair in pairs])
    writer.add_bos_token_id(len(pieces) - 1)
    writer.add_eos_token_id(len(pieces) - 2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)


_GAIN = {
    "attn_q": 2.2,
    "attn_k": 2.2,
    "attn_q_b": 2.2,
    "attn_k_b": 2.2,
    "attn_kv_a_mqa": 2.2,
    "output": 3.0,
}
"""Above 1, so that the attention prefers some ids to others instead of taking their mean."""


def _weights(
    name: str, dimensions: tuple[int, ...], seed: int, *, tied: bool
) -> NDArray[np.float32]:
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    part = name.split(".")[-2]
    shape = dimensions[::-1]  # numpy names the fastest dimension last.
    if name == "rope_freqs.weight":
        return random.uniform(1.0, 8.0, shape).astype(np.float32)
    if part.endswith("norm"):
        values = random.uniform(0.5, 1.5, shape)
        if tied and part == "output_norm":
            # Without changing signs a tied model finds each id its own best successor.
            values *= random.choice((-3.0, 3.0), shape)
        return values.astype(np.float32)
    if len(dimensions) == 1:
        return random.normal(0.0, 0.3, shape).astype(np.float32)
    values = random.normal(0.0, _GAIN.get(part, 1.0) / math.sqrt(dimensions[0]), shape)
    if part == "token_embd":
        values *= 4.0
    if part == ("token_embd" if tied else "output"):
        values[-3:] = 0.0  # The control tokens are never the best: no answer ends early.
    return values.astype(np.float32)


def _add_tensor(
    writer: gguf.GGUFWriter, name: str, values: NDArray[Any], *, quantised: bool
) -> None:
    # The router of experts is kept whole in real files as well.
    if quantised and values.ndim > 1 and values.shape[-1] % 32 == 0 and "gate_inp" not in name:
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, values)
