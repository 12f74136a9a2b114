"""The baseline: a bare `llama_decode` loop with plain argmax, nothing of ours in the way.

Same library, flags, threads, KV layout and batch as the engine host. `python bench/decode_loop.py
MODEL --streams 8 --tokens 64` prints tokens/s; `measure` and `greedy` are for other scripts.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read by OpenMP when the library is loaded, as in the engine host.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import llama_cpp.llama_cpp as lib
import numpy as np

BATCH_IDS = 512


@dataclass(frozen=True)
class Measured:
    """Ids made by all streams, and the seconds between the first id and the last."""

    ids: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        return self.ids / self.seconds


class Bare:
    """Model, context and batch, with as little as possible around them."""

    def __init__(self, path: Path, *, threads: int = 0, n_ctx: int = 16384, streams: int = 33):
        self._quiet = lib.llama_log_callback(lambda level, text, data: None)
        lib.llama_log_set(self._quiet, ctypes.c_void_p(0))
        lib.llama_backend_init()
        model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        assert model, "the model does not load"
        self.model: Any = model
        vocabulary: Any = lib.llama_model_get_vocab(model)
        self.n_vocab = int(lib.llama_vocab_n_tokens(vocabulary))
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max = n_ctx, streams
        params.n_batch = params.n_ubatch = BATCH_IDS
        params.n_threads = params.n_threads_batch = threads or max(1, (os.cpu_count() or 1) - 1)
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.kv_unified = params.swa_full = params.no_perf = True
        context = lib.llama_init_from_model(model, params)
        assert context, "no context"
        self.context: Any = context
        self.memory: Any = lib.llama_get_memory(context)
        self.batch = lib.llama_batch_init(BATCH_IDS, 0, 1)

    def clear(self) -> None:
        lib.llama_memory_clear(self.memory, False)

    def decode(self, rows: Sequence[tuple[int, int, int, bool]]) -> None:
        """Rows of (id, position, sequence, wants logits)."""
        batch = self.batch
        for i, (id, position, seq, wanted) in enumerate(rows):
            batch.token[i] = id
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = seq
            batch.logits[i] = wanted
        batch.n_tokens = len(rows)
        code = lib.llama_decode(self.context, batch)
        assert code == 0, f"llama_decode answered {code}"

    def argmax(self, row: int) -> int:
        address = ctypes.cast(lib.llama_get_logits_ith(self.context, row), ctypes.c_void_p).value
        assert address
        logits: Any = (ctypes.c_float * self.n_vocab).from_address(address)
        return int(np.frombuffer(logits, np.float32).argmax())

    def prefill(self, ids: Sequence[int], seq: int) -> int:
        """Feed a prompt; the greedy id that follows."""
        last = len(ids) - 1
        for at in range(0, len(ids), BATCH_IDS):
            part = range(at, min(at + BATCH_IDS, len(ids)))
            self.decode([(ids[i], i, seq, i == last) for i in part])
        return self.argmax(self.batch.n_tokens - 1)

    def close(self) -> None:
        lib.llama_batch_free(self.batch)
        lib.llama_free(self.context)
        lib.llama_model_free(self.model)


def greedy(bare: Bare, prompt_ids: Sequence[int], tokens: int) -> list[int]:
    """llama.cpp's own greedy continuation of one prompt, alone in the batch."""
    bare.clear()
    ids = [bare.prefill(prompt_ids, 0)]
    while len(ids) < tokens:
        bare.decode([(ids[-1], len(prompt_ids) + len(ids) - 1, 0, True)])
        ids.append(bare.argmax(0))
    return ids


def measure(bare: Bare, prompts: Sequence[Sequence[int]], tokens: int) -> Measured:
    """All prompts as streams of one batch; only decoding is timed."""
    bare.clear()
    last = [bare.prefill(prompt, seq) for seq, prompt in enumerate(prompts)]
    started_s = time.perf_counter()
    for made in range(tokens - 1):
        bare.decode([(last[s], len(p) + made, s, True) for s, p in enumerate(prompts)])
        last = [bare.argmax(s) for s in range(len(prompts))]
    return Measured(len(prompts) * (tokens - 1), time.perf_counter() - started_s)


def sample_prompts(count: int, length: int) -> list[tuple[int, ...]]:
    """Distinct prompts of ordinary ids, the same in every run."""
    return [
        tuple(1000 + (seq * 977 + i * 131) % 30000 for i in range(length)) for seq in range(count)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    bare = Bare(options.model, threads=options.threads)
    prompts = sample_prompts(options.streams, options.prompt)
    measure(bare, prompts, 4)
    result = measure(bare, prompts, options.tokens)
    print(f"{result.tokens_per_s:.1f} tokens/s with {options.streams} streams")


if __name__ == "__main__":
    main()
