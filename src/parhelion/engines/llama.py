"""A thin, typed layer over llama.cpp's C API: model, context, batch and the KV memory.

Only what the batching loop needs, with every result checked. Nothing here decides anything.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from parhelion.engines.devices import found_devices, label, uses_gpu
from parhelion.engines.shared_cells import SharedCells
from parhelion.engines.tap import Tap

LOG_LEVEL_WARN = 3
"""Below this llama.cpp prints hundreds of lines a load, which would push out a crash's cause."""

DECODED = 0
NO_ROOM = 1
"""llama_decode's "no KV slot for this batch": the memory is as it was before the call."""

COPY_LIMIT_BYTES = 4 * 1024 * 1024
"""Of KV memory, what is moved at once: memory that nothing else may count on. A whole state would
take as much again as the cache that it is in."""


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

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int,
        use_extra_bufts: bool = True,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        params = lib.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.use_extra_bufts = use_extra_bufts
        # Kept until the load has returned: ctypes drops a callback that nothing refers to.
        callback = None if progress is None else _progress_callback(progress)
        if callback is not None:
            params.progress_callback = callback
        handle = lib.llama_model_load_from_file(str(path).encode(), params)
        if not handle:
            raise LlamaFault("the model file cannot be loaded")
        self.handle: Any = handle
        self._gpu_layers = gpu_layers
        vocabulary: Any = lib.llama_model_get_vocab(handle)
        self.n_vocab = int(lib.llama_vocab_n_tokens(vocabulary))
        self.context = int(lib.llama_model_n_ctx_train(handle))
        self.architecture = _said(handle, b"general.architecture")
        self.n_layers = int(lib.llama_model_n_layer(handle))
        self.n_embd = int(lib.llama_model_n_embd(handle))
        self.eog = frozenset(
            id for id in range(self.n_vocab) if lib.llama_vocab_is_eog(vocabulary, id)
        )
        # A recurrent state cannot be cut back to an earlier position.
        self.can_rewind = not (
            lib.llama_model_is_recurrent(handle) or lib.llama_model_is_hybrid(handle)
        )

    def kv_bytes_per_token(self) -> int:
        """Memory of one cell with 16-bit keys and values."""
        width = self.n_embd // max(1, int(lib.llama_model_n_head(self.handle)))
        kv_heads = int(lib.llama_model_n_head_kv(self.handle))
        key = self._number("attention.key_length", width)
        # Latent attention: the values are a part of the keys, and are not kept beside them.
        is_latent = self._number("attention.value_length_mla", 0) > 0
        value = 0 if is_latent else self._number("attention.value_length", width)
        return self.n_layers * kv_heads * (key + value) * 2

    def _number(self, key: str, default: int) -> int:
        said = _said(self.handle, f"{self.architecture}.{key}".encode())
        return int(said) if said.isdecimal() else default

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


def _progress_callback(progress: Callable[[int], None]) -> Any:
    """What llama.cpp calls with the share that is loaded; `progress` is told each percent once."""
    told = -1

    def on_progress(share: float, _: object) -> bool:
        nonlocal told
        percent = min(100, max(0, int(100 * share)))
        if percent > told:
            told = percent
            progress(percent)
        return True  # False would end the load.

    return lib.llama_progress_callback(on_progress)


def _said(model: Any, key: bytes) -> str:
    """A text of the file's metadata; empty where it says none."""
    text: Any = ctypes.create_string_buffer(128)
    length = int(lib.llama_model_meta_val_str(model, key, text, len(text)))
    return text.value.decode("utf-8", "replace") if length > 0 else ""


class Batch:
    """One step's rows, in arrays that llama.cpp reads in place: nothing is rebuilt per step.

    They are token ids, or with `n_embd` hidden states of that width. Where the graph takes no
    hidden states (`takes_hidden`) the rows go as ids, and a tap writes `hidden` over them.
    """

    def __init__(self, capacity: int, n_embd: int = 0, *, takes_hidden: bool = True) -> None:
        self.capacity = capacity
        self.size = 0
        self.token = np.zeros(capacity, np.int32)
        self.hidden = np.zeros((capacity, n_embd), np.float32)
        self.pos = np.zeros(capacity, np.int32)
        self.seq = np.zeros(capacity, np.int32)
        self.wants = np.zeros(capacity, np.int8)
        self._n_seq = np.ones(capacity, np.int32)
        # Each row belongs to one sequence: its pointer leads into `seq` for good.
        self._seq_pointers = self.seq.ctypes.data + 4 * np.arange(capacity, dtype=np.uint64)
        as_hidden = n_embd > 0 and takes_hidden
        self.struct = lib.llama_batch(
            0,
            None if as_hidden else _pointer(self.token, ctypes.c_int32),
            _pointer(self.hidden, ctypes.c_float) if as_hidden else None,
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
        at, end = self._append(seq, start, 1 if isinstance(ids, int) else len(ids), wanted_from)
        self.token[at:end] = ids

    def add_hidden(self, seq: int, start: int, rows: NDArray[np.float32], wanted_from: int) -> None:
        """The same with hidden states in place of ids."""
        at, end = self._append(seq, start, len(rows), wanted_from)
        self.hidden[at:end] = rows

    def _append(self, seq: int, start: int, count: int, wanted_from: int) -> tuple[int, int]:
        at = self.size
        end = at + count
        if end > self.capacity:
            raise LlamaFault(f"{end} rows in a batch of {self.capacity}")
        self.pos[at:end] = np.arange(start, start + end - at, dtype=np.int32)
        self.seq[at:end] = seq
        self.wants[at:end] = self.pos[at:end] >= wanted_from
        self.size = end
        return at, end


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(ctypes.c_void_p(array.ctypes.data), ctypes.POINTER(kind))


class Context:
    """A KV memory with its compute buffers.

    One memory shared by all sequences (`kv_unified`), with flash attention: measured on a CPU at
    1 and 8 streams it is as fast as a memory each (56 to 58 against 57 ms a step at 8), lets a
    prefix be shared in place, and does not split a step when the busy sequences have gaps.
    Without flash attention masked cells cost in full (150 against 78 ms with 8,192 parked cells).
    """

    def __init__(self, model: Model, shape: ContextShape, tap: Tap | None = None) -> None:
        params = lib.llama_context_default_params()
        if tap is not None:
            params.cb_eval = tap.callback
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
        self._tap = tap
        self._n_vocab = model.n_vocab
        self._n_seq = shape.n_seq
        self._copy: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._cell_bytes = max(1, model.kv_bytes_per_token())
        self._shared = SharedCells()
        memory = lib.llama_get_memory(handle)
        if memory is None:
            raise LlamaFault("the model keeps no memory of what it has read")
        self._memory = memory

    def decode(self, batch: Batch) -> int:
        """Run one step: DECODED, NO_ROOM, or LlamaFault for anything worse."""
        batch.struct.n_tokens = batch.size
        if self._tap is not None:
            self._tap.begin(batch.size)
        code = int(lib.llama_decode(self.handle, batch.struct))
        if code not in (DECODED, NO_ROOM):
            raise LlamaFault(f"llama_decode answered {code}")
        if self._tap is not None and code == DECODED and (fault := self._tap.fault()):
            raise LlamaFault(f"hidden states are lost: {fault}")
        return code

    def hidden(self, rows: int) -> NDArray[np.float32]:
        """What the tap took of the last decode: a view that the next one overwrites."""
        assert self._tap is not None, "only a stage that is not the last has a tap"
        return self._tap.rows[:rows]

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
        self._shared.cut(seq, 0)

    def clear(self) -> None:
        """Forget all sequences."""
        lib.llama_memory_clear(self._memory, False)
        self._shared.clear()

    def cut(self, seq: int, length: int) -> bool:
        """Keep only the first `length` ids of a sequence; False where the memory cannot."""
        done = bool(lib.llama_memory_seq_rm(self._memory, seq, length, -1))
        self._shared.cut(seq, length)
        return done and self.length(seq) == length

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        """Share the first `length` ids with the empty sequence `target`; False if that failed."""
        lib.llama_memory_seq_cp(self._memory, source, target, 0, length)
        self._shared.copied(source, target, length)
        return self.length(target) == length

    def length(self, seq: int) -> int:
        """How many ids of a sequence the memory holds."""
        return int(lib.llama_memory_seq_pos_max(self._memory, seq)) + 1

    def retire(self, seq: int, start: int) -> None:
        """Forget a sequence's ids from `start` on; their cells stay taken."""
        lib.llama_memory_seq_cp(self._memory, seq, self._n_seq, start, -1)
        if not lib.llama_memory_seq_rm(self._memory, seq, start, -1):
            raise LlamaFault(f"sequence {seq} cannot be cut at {start}")
        self._shared.cut(seq, start)

    def free_retired(self) -> None:
        """The retired cells may be filled."""
        self.drop(self._n_seq)

    def compact(self) -> None:
        """Free the retired cells and close the gaps; each sequence's cells keep their order.

        One part after the other is written out and back into the lowest empty cells. These are
        never above its own, so no order is lost; behind it all empty ones are above it, and stay
        so, because the next part's own lower ones are filled first.
        """
        self.free_retired()
        lengths = self._lengths()
        step = max(1, COPY_LIMIT_BYTES // self._cell_bytes)
        for run in self._shared.runs(lengths):
            for start in range(run.start, run.end, step):
                self._move(run.seqs, start, min(start + step, run.end))
        if self._lengths() != lengths:
            raise LlamaFault("sequences came back from compaction with other lengths")

    def _move(self, seqs: Sequence[int], start: int, end: int) -> None:
        """Put the cells that these sequences share at [start, end) into the lowest empty ones."""
        spare: Any = self._n_seq
        memory = self._memory
        lib.llama_memory_seq_cp(memory, seqs[0], spare, start, end)
        for seq in seqs:
            if not lib.llama_memory_seq_rm(memory, seq, start, end):
                raise LlamaFault(f"ids {start} to {end} of sequence {seq} cannot be moved")
        size = int(lib.llama_state_seq_get_size(self.handle, spare))
        if self._copy.size < size:
            # Kept for the next time: fresh pages cost ten times as much as the copy itself.
            self._copy = np.empty(size, np.uint8)
        at = _pointer(self._copy, ctypes.c_uint8)
        written = int(lib.llama_state_seq_get_data(self.handle, at, size, spare))
        self.drop(spare)
        restored = 0
        if written == size:
            restored = int(lib.llama_state_seq_set_data(self.handle, at, size, spare))
        if restored != size:
            raise LlamaFault(
                f"of {size} bytes of KV memory {written} were read, {restored} put back"
            )
        for seq in seqs:
            lib.llama_memory_seq_cp(memory, spare, seq, start, end)
        self.drop(spare)

    def _lengths(self) -> list[int]:
        return [self.length(seq) for seq in range(self._n_seq)]

    def close(self) -> None:
        """Free the memory and buffers."""
        lib.llama_free(self.handle)
