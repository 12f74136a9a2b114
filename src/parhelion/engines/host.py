"""The engine host: a child process that loads one model and runs the batching loop.

`python -m parhelion.engines.host MODEL DIGEST CONFIG` (CONFIG: EngineConfig as JSON). It speaks
frames on its pipes, and ends when its parent does, also in the middle of a step.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil

from parhelion.config import EngineConfig
from parhelion.engines import llama
from parhelion.engines.batching import Limits, Loop
from parhelion.engines.host_messages import Coming, FromHost, Ready, ToHost
from parhelion.engines.protocol import EngineCard
from parhelion.engines.prove import findings
from parhelion.engines.share import kv_tokens
from parhelion.hosts import Pipe, claim_pipe

BATCH_IDS_CPU = 63
"""The most ids of one step. From 64 rows on llama.cpp's CPU attention sums in another order, and
the least difference grows to 0.5 in the logits of a 4-bit model; below, the same cells give the
same bits at any number of rows. A larger step does not prefill faster on any CPU seen."""

BATCH_IDS_GPU = 512
"""Enough rows to keep a GPU busy; its sums depend on the batch's shape anyway."""

INBOX_LENGTH = 4096
"""Messages read but not heard; past it the pipe fills, and the parent's writes wait."""

PARKED_TOKENS_CPU = 2048
"""Kept prefixes are masked cells that every row must look at: 2,048 make a step of 8 streams 7 %
longer on a CPU (53 -> 57 ms), 16,384 would add half of it. On a GPU they cost little."""

CROWDED_TOKENS_CPU = 256
"""Beside many streams a CPU keeps next to none: 8 streams ran at 0.95 of the bare loop, with 2,048
kept ids at 0.87."""

CALIBRATION_IDS = 16
"""Enough rows to tell the cost of one more."""


def main(arguments: list[str]) -> None:
    """Load, prove by a first step, say Ready, serve."""
    path, digest, settings = arguments
    pipe = claim_pipe()
    config = msgspec.json.decode(settings, type=EngineConfig)
    inbox: queue.Queue[ToHost] = queue.Queue(INBOX_LENGTH)
    # First of all, so that a parent that dies during a long load is noticed too.
    hear(pipe, inbox, msgspec.msgpack.Decoder(ToHost))
    encoder = msgspec.msgpack.Encoder()

    def emit(message: FromHost) -> None:
        pipe.write(encoder.encode(message))

    def loaded(percent: int) -> None:
        # The parent is gone: the reader ends this process, and no exception may cross llama.cpp.
        with contextlib.suppress(BrokenPipeError):
            emit(Coming(phase="loading", percent=percent))

    model = load(Path(path), config, loaded)
    emit(Coming(phase="proving"))
    limits = _limits(model, digest, config)
    threads = threads_of(config)
    rows = BATCH_IDS_CPU if model.device() == "cpu" else BATCH_IDS_GPU
    rows = max(rows, 2 * limits.slots)  # However many streams, there is room for prompts beside.
    shape = llama.ContextShape(limits.kv_tokens, rows, limits.sequences, limits.rows, threads)
    context = llama.Context(model, shape)
    batch = llama.Batch(rows)
    limits = replace(limits, keeps_order=limits.keeps_order and _can_compact(context, batch))
    loop = Loop(context, batch, limits, emit)
    _calibrate(loop, context, batch)
    emit(Ready(card=_card(model, limits)))
    try:
        loop.run(inbox)
    except BrokenPipeError:
        end()


def hear(pipe: Pipe, inbox: queue.Queue[Any], decoder: msgspec.msgpack.Decoder[Any]) -> None:
    """Read the parent's messages into `inbox`; the process ends when the parent is gone."""
    threading.Thread(target=_read, args=(pipe, inbox, decoder), daemon=True, name="reader").start()


def _read(pipe: Pipe, inbox: queue.Queue[Any], decoder: msgspec.msgpack.Decoder[Any]) -> None:
    try:
        while (body := pipe.read()) is not None:
            inbox.put(decoder.decode(body))
    except (msgspec.MsgspecError, ValueError, OSError):
        # A host that no longer hears its parent is of no use, and must not look alive.
        traceback.print_exc()
        end(1)
    end()


def end(status: int = 0) -> None:
    """End this process at once, also in the middle of a step."""
    # The loop may be inside a long decode: nothing of it is worth waiting for.
    sys.stderr.flush()
    os._exit(status)


def load(
    path: Path, config: EngineConfig, progress: Callable[[int], None] | None = None
) -> llama.Model:
    """The model, with what was found to work on this machine; `progress` is told in percent."""
    llama.start_backend()
    found = findings()
    return llama.Model(
        path,
        gpu_layers=config.gpu_layers,
        use_extra_bufts=found.use_extra_bufts if found is not None else True,
        progress=progress,
    )


def threads_of(config: EngineConfig) -> int:
    """As set, or one core is left to everything else."""
    return config.threads or max(1, (os.cpu_count() or 1) - 1)


def _limits(model: llama.Model, digest: str, config: EngineConfig) -> Limits:
    free_bytes, token_bytes = psutil.virtual_memory().available, model.kv_bytes_per_token()
    size = config.kv_tokens or kv_tokens(model.context, config.slots, free_bytes, token_bytes)
    size = -(-size // 256) * 256  # llama.cpp rounds up to this by itself.
    on_cpu = model.device() == "cpu"
    return Limits(
        digest=digest,
        slots=config.slots,
        context=min(model.context, size),
        kv_tokens=size,
        parked_tokens=PARKED_TOKENS_CPU if on_cpu else size,
        crowded_tokens=CROWDED_TOKENS_CPU if on_cpu else size,
        n_vocab=model.n_vocab,
        step_budget_ms=float(config.step_budget_ms),
        eog=model.eog,
        can_rewind=model.can_rewind,
        keeps_order=on_cpu and model.can_rewind,
    )


def _card(model: llama.Model, limits: Limits) -> EngineCard:
    return EngineCard(
        digest=limits.digest,
        backend="llama.cpp",
        device=model.device_label(),
        slots=limits.slots,
        kv_tokens=limits.kv_tokens,
        context=limits.context,
        n_vocab=limits.n_vocab,
    )


def _can_compact(context: llama.Context, batch: llama.Batch) -> bool:
    """Try it on three ids: a kind of memory that cannot must be known before jobs depend on it."""
    batch.clear()
    batch.add(0, 0, np.arange(1, 4, dtype=np.int32), 2)
    context.decode(batch)
    return compacts(context)


def compacts(context: llama.Context) -> bool:
    """Whether the three ids in sequence 0, which are gone then, could be moved together."""
    try:
        context.retire(0, 2)
        context.compact()
    except llama.LlamaFault as fault:
        sys.stderr.write(f"cells are freed at once, a seed may give another text: {fault}\n")
        context.clear()
        return False
    context.drop(0)
    return True


def _calibrate(loop: Loop, context: llama.Context, batch: llama.Batch) -> None:
    """Two small steps on an empty sequence: the first proves the build, all set the first pace."""
    for streams, count in ((0, CALIBRATION_IDS), (0, CALIBRATION_IDS), (1, 1)):
        at = context.length(0)
        batch.clear()
        for offset in range(count):
            batch.add(0, at + offset, offset + 1, at + count - 1)
        started_s = time.perf_counter()
        context.decode(batch)
        took_ms = (time.perf_counter() - started_s) * 1e3
        loop.meter.measured(streams, 0 if streams else count, took_ms)
    context.drop(0)


if __name__ == "__main__":
    main(sys.argv[1:])
