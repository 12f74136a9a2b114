"""A thin, typed layer over llama.cpp's C API: model, context, batch and the KV memory.

Only what the batching loop needs, with every result checked. Nothing here decides anything.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from parhelion.engines.devices import found_devices, label, uses_gpu

LOG_LEVEL_WARN = 3
"""Below this llama.cpp prints hundreds of lines a load, which would push out a crash's cause."""

DECODED = 0
NO_ROOM = 1
"""llama_decode's "no KV slot for this batch": the memory is as it was before the call."""


class LlamaFault(Exception):
    """A call into llama.cpp did not do what was asked; the text says which."""


@dataclass(frozen=True, slots=True)
class ContextShape:
    """How large a context is: cells of KV memory, ids a batch, sequences, rows of logits."""

    n_ctx: int
    n_batch: int
    n_seq: int
    n_rows: int
    threads: int


def _on_log(level: int, text: bytes, _: object) -> None:
    if level >= LOG_LEVEL_WARN:
        sys.stderr.write(text.decode("utf-8", "replace"))


# ctypes drops a callback that nothing refers to, and llama.cpp would then call freed memory.
_LOG_CALLBACK = lib.llama_log_callback(_on_log)


def start_backend() -> None:
    """Prepare the library, once a process, before anything else here."""
    lib.llama_log_set(_LOG_CALLBACK, ctypes.c_void_p(0))
    lib.llama_backend_init()


class Model:
    """A loaded GGUF and the facts about it that scheduling needs."""

    def __init__(self, path: Path, *, gpu_layers: int, use_extra_bufts: bool = True) -> None:
        params = lib.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.use_extra_bufts = use_extra_bufts
        handle = lib.llama_model_load_from_file(str(path).encode(), params)
        if not handle:
            raise LlamaFault("the model file cannot be loaded")
        self.handle: Any = handle
        self._gpu_layers = gpu_layers
        vocabulary: Any = lib.llama_model_get_vocab(handle)
        self.n_vocab = int(lib.llama_vocab_n_tokens(vocabulary))
        self.context = int(lib.llama_model_n_ctx_train(handle))
        self.eog = frozenset(
            id for id in range(self.n_vocab) if lib.llama_vocab_is_eog(vocabulary, id)
        )
        # A recurrent state cannot be cut back to an earlier position.
        self.can_rewind = not (
            lib.llama_model_is_recurrent(handle) or lib.llama_model_is_hybrid(handle)
        )

    def kv_bytes_per_token(self) -> int:
        """Memory of one cell with 16-bit keys and values."""
        heads = max(1, int(lib.llama_model_n_head(self.handle)))
        width = int(lib.llama_model_n_embd(self.handle)) // heads
        kv_heads = int(lib.llama_model_n_head_kv(self.handle))
        return int(lib.llama_model_n_layer(self.handle)) * kv_heads * width * 2 * 2

    def device(self) -> str:
        """The processor it runs on: "gpu" if llama.cpp found one, else "cpu"."""
        # llama_supports_gpu_offload() says yes for a build with the RPC backend and no GPU at all.
        return "gpu" if uses_gpu(found_devices(lib._lib), self._gpu_layers) else "cpu"

    def device_label(self) -> str:
        """The same with the device's own name, for the node's card."""
        return label(found_devices(lib._lib), self._gpu_layers)

    def close(self) -> None:
        """Free the weights."""
        lib.llama_model_free(self.handle)


class Batch:
    """One step's rows, in arrays that llama.cpp reads in place: nothing is rebuilt per step."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self.token = np.zeros(capacity, np.int32)
        self.pos = np.zeros(capacity, np.int32)
        self.seq = np.zeros(capacity, np.int32)
        self.wants = np.zeros(capacity, np.int8)
        self._n_seq = np.ones(capacity, np.int32)
        # Each row belongs to one sequence: its pointer leads into `seq` for good.
        self._seq_pointers = self.seq.ctypes.data + 4 * np.arange(capacity, dtype=np.uint64)
        self.struct = lib.llama_batch(
            0,
            _pointer(self.token, ctypes.c_int32),
            None,
            _pointer(self.pos, ctypes.c_int32),
            _pointer(self._n_seq, ctypes.c_int32),
            _pointer(self._seq_pointers, ctypes.POINTER(ctypes.c_int32)),
            _pointer(self.wants, ctypes.c_int8),
        )

    def clear(self) -> None:
        """Start a new step."""
        self.size = 0

    def add(self, seq: int, start: int, ids: NDArray[np.int32] | int, wanted_from: int) -> None:
        """Append `ids` of `seq` at positions from `start`; logits from `wanted_from` on."""
        at = self.size
        end = at + (1 if isinstance(ids, int) else len(ids))
        if end > self.capacity:
            raise LlamaFault(f"{end} rows in a batch of {self.capacity}")
        self.token[at:end] = ids
        self.pos[at:end] = np.arange(start, start + end - at, dtype=np.int32)
        self.seq[at:end] = seq
        self.wants[at:end] = self.pos[at:end] >= wanted_from
        self.size = end


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(ctypes.c_void_p(array.ctypes.data), ctypes.POINTER(kind))


class Context:
    """A KV memory with its compute buffers.

    One memory shared by all sequences (`kv_unified`), with flash attention: measured on a CPU at
    1 and 8 streams it is as fast as a memory each (56 to 58 against 57 ms a step at 8), lets a
    prefix be shared in place, and does not split a step when the busy sequences have gaps.
    Without flash attention masked cells cost in full (150 against 78 ms with 8,192 parked cells).
    """

    def __init__(self, model: Model, shape: ContextShape) -> None:
        params = lib.llama_context_default_params()
        params.n_ctx = shape.n_ctx
        params.n_batch = shape.n_batch
        params.n_ubatch = shape.n_batch
        # One more: it holds the cells of ended sequences until they are freed.
        params.n_seq_max = shape.n_seq + 1
        params.n_outputs_max = shape.n_rows
        params.n_threads = shape.threads
        params.n_threads_batch = shape.threads
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.kv_unified = True
        params.swa_full = True
        params.no_perf = True
        handle = lib.llama_init_from_model(model.handle, params)
        if not handle:
            raise LlamaFault("no context: too little memory, or the model cannot do this")
        self.handle: Any = handle
        self.n_ctx = int(lib.llama_n_ctx(handle))
        self._n_vocab = model.n_vocab
        self._n_seq = shape.n_seq
        self._copy: NDArray[np.uint8] = np.empty(0, np.uint8)
        memory = lib.llama_get_memory(handle)
        if memory is None:
            raise LlamaFault("the model keeps no memory of what it has read")
        self._memory = memory

    def decode(self, batch: Batch) -> int:
        """Run one step: DECODED, NO_ROOM, or LlamaFault for anything worse."""
        batch.struct.n_tokens = batch.size
        code = int(lib.llama_decode(self.handle, batch.struct))
        if code not in (DECODED, NO_ROOM):
            raise LlamaFault(f"llama_decode answered {code}")
        return code

    def logits(self, rows: int) -> NDArray[np.float32]:
        """The wanted rows in the batch's order: a view that the next decode overwrites."""
        address = ctypes.cast(lib.llama_get_logits(self.handle), ctypes.c_void_p).value
        if not address:
            raise LlamaFault("the step left no logits")
        block: Any = (ctypes.c_float * (rows * self._n_vocab)).from_address(address)
        return np.frombuffer(block, np.float32).reshape(rows, self._n_vocab)

    def settle(self) -> None:
        """Wait for the device; of one that has failed llama.cpp ends the process."""
        lib.llama_synchronize(self.handle)

    def drop(self, seq: int) -> None:
        """Forget a whole sequence."""
        if not lib.llama_memory_seq_rm(self._memory, seq, -1, -1):
            raise LlamaFault(f"sequence {seq} cannot be removed")

    def clear(self) -> None:
        """Forget all sequences."""
        lib.llama_memory_clear(self._memory, False)

    def cut(self, seq: int, length: int) -> bool:
        """Keep only the first `length` ids of a sequence; False where the memory cannot."""
        done = bool(lib.llama_memory_seq_rm(self._memory, seq, length, -1))
        return done and self.length(seq) == length

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        """Share the first `length` ids with the empty sequence `target`; False if that failed."""
        lib.llama_memory_seq_cp(self._memory, source, target, 0, length)
        return self.length(target) == length

    def length(self, seq: int) -> int:
        """How many ids of a sequence the memory holds."""
        return int(lib.llama_memory_seq_pos_max(self._memory, seq)) + 1

    def retire(self, seq: int, start: int) -> None:
        """Forget a sequence's ids from `start` on; their cells stay taken."""
        lib.llama_memory_seq_cp(self._memory, seq, self._n_seq, start, -1)
        if not lib.llama_memory_seq_rm(self._memory, seq, start, -1):
            raise LlamaFault(f"sequence {seq} cannot be cut at {start}")

    def free_retired(self) -> None:
        """The retired cells may be filled."""
        self.drop(self._n_seq)

    def compact(self) -> None:
        """Free the retired cells and close the gaps, by writing the whole state out and back.

        llama.cpp puts a whole state's cells side by side in their old order, shared ones once.
        """
        self.free_retired()
        lengths = self._lengths()
        size = int(lib.llama_state_get_size(self.handle))
        if self._copy.size < size:
            # Kept for the next time: fresh pages cost ten times as much as the copy itself.
            self._copy = np.empty(size, np.uint8)
        at = _pointer(self._copy, ctypes.c_uint8)
        written = int(lib.llama_state_get_data(self.handle, at, size))
        restored = int(lib.llama_state_set_data(self.handle, at, size)) if written == size else 0
        if restored != size or self._lengths() != lengths:
            raise LlamaFault(
                f"of {size} bytes of KV memory {written} were read, {restored} put back"
            )

    def _lengths(self) -> list[int]:
        return [self.length(seq) for seq in range(self._n_seq)]

    def close(self) -> None:
        """Free the memory and buffers."""
        lib.llama_free(self.handle)
