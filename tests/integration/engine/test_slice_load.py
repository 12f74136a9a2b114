"""llama.cpp loads every kind of slice, and stages one after another are the whole model."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray

from parhelion.engines import llama
from parhelion.models.slices import layout, write_slice

lib: Any = llama_cpp.llama_cpp

Rows = NDArray[np.float32]

IDS = (1, 504, 2365, 6354, 2043, 282, 4649, 314, 100, 200, 300)


class _Tensor(ctypes.Structure):
    """ggml_tensor up to its name, of the llama.cpp that we pin."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    ]


class Loaded:
    """One file in a context of its own; the last layer's rows are taken as they pass by."""

    def __init__(self, path: Path) -> None:
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model: Any = lib.llama_model_load_from_file(os.fsencode(path), params)
        assert self.model, path
        self.layers = lib.llama_model_n_layer(self.model)
        self.width = lib.llama_model_n_embd(self.model)
        self.words = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.hidden: Rows | None = None
        self._seen = lib.ggml_backend_sched_eval_callback(self._see)
        shape = lib.llama_context_default_params()
        shape.n_ctx, shape.n_batch, shape.n_ubatch = 64, len(IDS), len(IDS)
        shape.n_threads = shape.n_threads_batch = 1
        shape.cb_eval = self._seen
        self.context: Any = lib.llama_init_from_model(self.model, shape)
        assert self.context

    def _see(self, address: Any, ask: bool, _: Any) -> bool:
        tensor = _Tensor.from_address(ctypes.cast(address, ctypes.c_void_p).value or 0)
        wanted = tensor.name == f"l_out-{self.layers - 1}".encode()
        if wanted and not ask:
            rows, width = tensor.ne[1], tensor.ne[0]
            raw = ctypes.string_at(tensor.data, rows * width * 4)
            self.hidden = np.frombuffer(raw, np.float32).reshape(rows, width)
        return wanted or not ask

    def step(self, ids: Sequence[int], hidden: Rows | None) -> Rows:
        """The logits of every row, with `hidden` instead of the ids where there are any."""
        batch = lib.llama_batch_init(len(ids), 0 if hidden is None else self.width, 1)
        batch.n_tokens = len(ids)
        for at, id in enumerate(ids):
            if hidden is None:
                batch.token[at] = id
            batch.pos[at], batch.n_seq_id[at], batch.logits[at] = at, 1, 1
            batch.seq_id[at][0] = 0
        if hidden is not None:
            ctypes.memmove(batch.embd, hidden.ctypes.data, hidden.nbytes)
        assert lib.llama_decode(self.context, batch) == 0
        lib.llama_batch_free(batch)
        logits = lib.llama_get_logits(self.context)
        return np.ctypeslib.as_array(logits, (len(ids), self.words)).copy()

    def close(self) -> None:
        lib.llama_free(self.context)
        lib.llama_model_free(self.model)


@pytest.fixture
def load() -> Any:
    """Loads files, and frees them afterwards."""
    llama.start_backend()
    made: list[Loaded] = []

    def one(path: Path) -> Loaded:
        made.append(Loaded(path))
        return made[-1]

    yield one
    for loaded in made:
        loaded.close()


def test_three_slices_give_the_logits_of_the_whole_model(
    load: Callable[[Path], Loaded], smollm2: Path, tmp_path: Path
) -> None:
    whole = load(smollm2).step(IDS, None)
    hidden: Rows | None = None
    words: list[int] = []
    logits = whole * 0
    for start, end in ((0, 13), (13, 21), (21, 30)):
        target = tmp_path / f"{start}.gguf"
        write_slice(smollm2, layout(smollm2, start, end), target)
        stage = load(target)
        assert (stage.layers, stage.width) == (end - start, 576)
        logits = stage.step(IDS, hidden)
        hidden = stage.hidden
        words.append(stage.words)
    assert words == [49152, 1, 49152]
    assert np.array_equal(logits, whole)


def test_the_last_slice_ends_texts_as_the_whole_model_does(
    load: Callable[[Path], Loaded], smollm2: Path, tmp_path: Path
) -> None:
    def ends(loaded: Loaded) -> list[int]:
        vocabulary = lib.llama_model_get_vocab(loaded.model)
        return [id for id in range(loaded.words) if lib.llama_vocab_is_eog(vocabulary, id)]

    write_slice(smollm2, layout(smollm2, 29, 30), tmp_path / "last.gguf")
    assert ends(load(tmp_path / "last.gguf")) == ends(load(smollm2)) != []
