"""Whether a GGUF file holds its whole model: every tensor it lists, to the last byte; pure."""

from __future__ import annotations

import re

from parhelion.models.gguf_header import HeaderBroken, Outline, Tensor

DEFAULT_ALIGNMENT_BYTES = 32
ALIGNMENT_LIMIT_BYTES = 1024 * 1024

EMBEDDING = "token_embd.weight"
"""The one tensor that every model of llama.cpp has, whatever its architecture."""

_LAYER = re.compile(r"(?:^|\.)blk\.(\d{1,6})\.")

BLOCKS: dict[int, tuple[int, int]] = {
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    9: (32, 40),  # Q8_1
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    15: (256, 292),  # Q8_K
    16: (256, 66),  # IQ2_XXS
    17: (256, 74),  # IQ2_XS
    18: (256, 98),  # IQ3_XXS
    19: (256, 50),  # IQ1_S
    20: (32, 18),  # IQ4_NL
    21: (256, 110),  # IQ3_S
    22: (256, 82),  # IQ2_S
    23: (256, 136),  # IQ4_XS
    24: (1, 1),  # I8
    25: (1, 2),  # I16
    26: (1, 4),  # I32
    27: (1, 8),  # I64
    28: (1, 8),  # F64
    29: (256, 56),  # IQ1_M
    30: (1, 2),  # BF16
    34: (256, 54),  # TQ1_0
    35: (256, 66),  # TQ2_0
    39: (32, 17),  # MXFP4
    40: (64, 36),  # NVFP4
    41: (128, 18),  # Q1_0
}
"""By ggml's number of a type: elements of a block, and the bytes that a block takes."""


def check_whole(outline: Outline, layers: int) -> None:
    """HeaderBroken unless the file has the tensors of so many layers, and all of each."""
    if not outline.tensors:
        raise HeaderBroken("it has a vocabulary and no weights: it can tokenise, not answer")
    names = {tensor.name for tensor in outline.tensors}
    if EMBEDDING not in names:
        raise HeaderBroken(f"the tensor {EMBEDDING} is not in it")
    found = {int(match[1]) for name in names if (match := _LAYER.search(name))}
    missing = next((number for number in range(layers) if number not in found), None)
    if missing is not None:
        raise HeaderBroken(f"layer {missing} of {layers} is not in it")
    begin = data_begin(outline)
    for tensor in outline.tensors:
        end = begin + tensor.offset + size_bytes(tensor)
        if end > outline.size_bytes:
            raise HeaderBroken(
                f"it is cut short: {tensor.name!r} ends at byte {end}, "
                f"and the file has {outline.size_bytes}"
            )


def data_begin(outline: Outline) -> int:
    """Where the tensors' part begins: behind the list, at the next multiple of the alignment."""
    bytes_ = outline.header.get("general.alignment", DEFAULT_ALIGNMENT_BYTES)
    if not isinstance(bytes_, int) or not 0 < bytes_ <= ALIGNMENT_LIMIT_BYTES:
        raise HeaderBroken("general.alignment is no usable number")
    return -(-outline.read_bytes // bytes_) * bytes_


def size_bytes(tensor: Tensor) -> int:
    # Of a type that is newer than this table only the place is known: then that is checked.
    elements, size_bytes = BLOCKS.get(tensor.kind, (1, 0))
    return -(-tensor.elements // elements) * size_bytes
