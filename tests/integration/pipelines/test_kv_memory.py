"""What an id takes of KV memory as card, planner and engine reckon it is what llama.cpp takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp
import numpy as np
import pytest

from parhelion.engines import llama
from parhelion.models import inspect
from parhelion.models.anatomy import anatomy
from parhelion.models.gguf_header import read_outline
from parhelion.models.model_weight import weight_of
from parhelion.models.slices import layout, write_slice
from tests.tiny_models import SHAPES, write_tiny

lib: Any = llama_cpp.llama_cpp

POSITION_BYTES = 12
"""Of each cell: its position and its sequence, which are written out with it."""

SHAPE = llama.ContextShape(n_ctx=256, n_batch=32, n_seq=1, n_rows=32, threads=1)


@pytest.mark.parametrize("name", SHAPES)
def test_an_ids_share_of_the_kv_memory_is_known(tmp_path: Path, name: str) -> None:
    path = write_tiny(tmp_path / "whole.gguf", SHAPES[name])
    planned = weight_of(anatomy(read_outline(path))).kv_bytes_per_token
    assert measured(path) == (sum(planned), sum(planned))
    if not SHAPES[name].prediction_layers:  # Those are counted in the card, for they may be used.
        card = inspect(path, "lab/whole", tmp_path)
        assert card.memory_bytes - card.size_bytes == sum(planned) * card.context
    first = tmp_path / "first.gguf"
    write_slice(path, layout(path, 0, 2), first)
    assert measured(first) == (sum(planned[:2]), sum(planned[:2]))


def measured(path: Path) -> tuple[int, int]:
    """Bytes a cell: as the engine reckons them, and as they are."""
    model = llama.Model(path, gpu_layers=0)
    context = llama.Context(model, SHAPE)
    batch = llama.Batch(32)
    sizes: list[int] = []
    for start in (0, 32):
        batch.clear()
        batch.add(0, start, np.arange(32, dtype=np.int32), start + 31)
        assert context.decode(batch) == llama.DECODED
        sizes.append(int(lib.llama_state_seq_get_size(context.handle, 0)))
    reckoned = model.kv_bytes_per_token()
    context.close()
    model.close()
    return reckoned, (sizes[1] - sizes[0]) // 32 - POSITION_BYTES
