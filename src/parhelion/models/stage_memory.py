"""What a stage's process takes beside its weights and its KV cache; pure.

The planner and the node count alike by it: what the one deals out the other does not refuse, and a
node's memory limit holds for the whole process. All of it was measured with stages on a CPU.
"""

from __future__ import annotations

MIB = 1024 * 1024

STAGE_OVERHEAD_BYTES = 76 * MIB
"""Python, numpy, llama.cpp and their libraries: 64 MiB of resident memory when a stage is loaded,
61 of one between others; 66 to 71 after long prompts on all slots, by what its allocators keep."""

VOCABULARY_BYTES = 320
"""Of each id at the last stage: its text and merge in llama.cpp's tables, and the sampler's arrays.
15 MiB for 49,152 ids."""

BATCH_ROWS = 64
"""A step on a CPU has one less at most (engines.host.BATCH_IDS_CPU)."""

MASK_BYTES = 6
"""Of each row and cell of the cache, which row may look at it: as 32 and as 16 bits."""

ROW_FLOATS = 16
"""Of each row and each of the model's dimensions: what lives at once of a layer's graph (the widest
is a feed-forward layer, some four times as wide), a batch, what comes out of it, and its frames."""


def buffer_bytes(hidden_size: int, kv_tokens: int) -> int:
    """Compute buffers of any stage of a model."""
    return BATCH_ROWS * (MASK_BYTES * kv_tokens + 4 * ROW_FLOATS * hidden_size)


def vocabulary_bytes(n_vocab: int, slots: int) -> int:
    """What the last stage has beside: the vocabulary, and a row of logits for each slot."""
    return n_vocab * (VOCABULARY_BYTES + 4 * (slots + 2))
