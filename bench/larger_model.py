"""A file of TinyLlama-1.1B's shape with random weights: what a model costs that needs a pipeline.

The packaged model has an id every 8 ms, of which hops and small steps are a large part. The weights
do not matter to a clock, so that nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

LAYERS = 22
EMBEDDING, FEED_FORWARD = 2048, 5632
HEADS, KV_HEADS = 32, 4
VOCABULARY = 32_000
CONTEXT = 2048
LETTERS = [chr(256 + byte) for byte in range(256)]
KIND = gguf.GGMLQuantizationType.Q4_0


def write(path: Path) -> Path:
    """Write it (some 620 MB) to `path`."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(
        [*LETTERS, *(f"word{number}" for number in range(len(LETTERS), VOCABULARY))]
    )
    writer.add_token_merges(["a b"])
    writer.add_token_types([gguf.TokenType.NORMAL] * VOCABULARY)
    made: dict[tuple[int, ...], np.ndarray] = {}
    for name, shape in _tensors():
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, np.float32))
            continue
        if shape not in made:  # The same numbers in every layer: only their count takes time.
            numbers = rng.standard_normal(shape, np.float32) * 0.02
            made[shape] = gguf.quantize(numbers, KIND)
        writer.add_tensor(name, made[shape], raw_dtype=KIND)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names, with dimensions as numpy has them: rows first."""
    narrow = EMBEDDING // HEADS * KV_HEADS
    yield "token_embd.weight", (VOCABULARY, EMBEDDING)
    yield "output.weight", (VOCABULARY, EMBEDDING)
    yield "output_norm.weight", (EMBEDDING,)
    for number in range(LAYERS):
        yield f"blk.{number}.attn_norm.weight", (EMBEDDING,)
        yield f"blk.{number}.ffn_norm.weight", (EMBEDDING,)
        yield f"blk.{number}.attn_q.weight", (EMBEDDING, EMBEDDING)
        yield f"blk.{number}.attn_k.weight", (narrow, EMBEDDING)
        yield f"blk.{number}.attn_v.weight", (narrow, EMBEDDING)
        yield f"blk.{number}.attn_output.weight", (EMBEDDING, EMBEDDING)
        yield f"blk.{number}.ffn_gate.weight", (FEED_FORWARD, EMBEDDING)
        yield f"blk.{number}.ffn_up.weight", (FEED_FORWARD, EMBEDDING)
        yield f"blk.{number}.ffn_down.weight", (EMBEDDING, FEED_FORWARD)
