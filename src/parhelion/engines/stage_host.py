"""The stage host: a child process that loads one slice of a model and runs a stage's loop.

`python -m parhelion.engines.stage_host SLICE SPEC CONFIG` (StageSpec and EngineConfig as JSON). It
speaks frames on its pipes, and ends when its parent does, also in the middle of a step.
"""

from __future__ import annotations

import queue
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import psutil

from parhelion.config import EngineConfig
from parhelion.engines import host, llama
from parhelion.engines.hidden import rows_limit
from parhelion.engines.share import kv_tokens
from parhelion.engines.stage_first import FirstLoop
from parhelion.engines.stage_later import LastLoop, LaterLoop
from parhelion.engines.stage_loop import StageLoop
from parhelion.engines.stage_messages import FromStage, StageReady, ToStage
from parhelion.engines.stage_protocol import StageCard
from parhelion.engines.stage_rules import StageLimits
from parhelion.engines.tap import Tap
from parhelion.hosts import claim_pipe
from parhelion.models.architectures import ARCHITECTURES
from parhelion.words import StageSpec


def main(arguments: list[str]) -> None:
    """Load, prove by a first step, say Ready, serve."""
    path, stage, settings = arguments
    pipe = claim_pipe()
    spec = msgspec.json.decode(stage, type=StageSpec)
    config = msgspec.json.decode(settings, type=EngineConfig)
    inbox: queue.Queue[ToStage] = queue.Queue(host.INBOX_LENGTH)
    # First of all, so that a parent that dies during a long load is noticed too.
    host.hear(pipe, inbox, msgspec.msgpack.Decoder(ToStage))
    model = host.load(Path(path), config)
    check(model, spec)
    limits = _limits(model, spec, config)
    rows = _rows(model, spec)
    takes_hidden = spec.is_first or ARCHITECTURES[model.architecture].takes_hidden
    batch = llama.Batch(rows, 0 if spec.is_first else model.n_embd, takes_hidden=takes_hidden)
    tap = _tap(model, spec, batch, takes_hidden=takes_hidden)
    # llama.cpp wants room for a row of each sequence, and of one more: see llama.Context.
    outputs = limits.sequences + 1 if spec.is_last else max(rows, limits.sequences + 1)
    shape = llama.ContextShape(
        limits.kv_tokens, rows, limits.sequences, outputs, host.threads_of(config)
    )
    context = llama.Context(model, shape, tap)
    limits = replace(limits, keeps_order=limits.keeps_order and _can_compact(context, batch, spec))
    encoder = msgspec.msgpack.Encoder()

    def emit(message: FromStage) -> None:
        pipe.write(encoder.encode(message))

    loop = _kind(spec)(context, batch, limits, emit)
    _calibrate(loop, context, batch, spec)
    emit(StageReady(card=_card(model, limits, rows)))
    try:
        loop.run(inbox)
    except BrokenPipeError:
        host.end()


def check(model: llama.Model, spec: StageSpec) -> None:
    """LlamaFault where this file cannot be that stage."""
    if not 0 <= spec.start < spec.end <= spec.layers or spec.stages < 2:
        raise llama.LlamaFault(f"no stage: layers {spec.start} to {spec.end} of {spec.layers}")
    if spec.is_first and spec.is_last:
        raise llama.LlamaFault("a whole model is an ordinary engine's, not a stage's")
    if model.n_layers != spec.end - spec.start:
        raise llama.LlamaFault(
            f"the file holds {model.n_layers} layers, the stage has {spec.end - spec.start}"
        )
    if model.architecture not in ARCHITECTURES:
        raise llama.LlamaFault(f"a model of {model.architecture[:64]!r} is cut by nobody")
    if not model.can_rewind:
        # Its batches are reordered inside llama.cpp, and a state cannot be cut back.
        raise llama.LlamaFault("a recurrent model cannot be split into stages")


def _tap(
    model: llama.Model, spec: StageSpec, batch: llama.Batch, *, takes_hidden: bool
) -> Tap | None:
    """What brings hidden states out of the graph, and into one that would not take a batch."""
    if spec.is_last and takes_hidden:
        return None
    layers = 0 if spec.is_last else model.n_layers
    return Tap(layers, model.n_embd, batch.capacity, None if takes_hidden else batch.hidden)


def _kind(spec: StageSpec) -> type[StageLoop]:
    if spec.is_first:
        return FirstLoop
    return LastLoop if spec.is_last else LaterLoop


def _rows(model: llama.Model, spec: StageSpec) -> int:
    """Rows of one step, all of which must fit into one frame."""
    rows = host.BATCH_IDS_CPU if model.device() == "cpu" else host.BATCH_IDS_GPU
    return min(max(rows, 2 * spec.slots), rows_limit(model.n_embd, spec.wire))


def _limits(model: llama.Model, spec: StageSpec, config: EngineConfig) -> StageLimits:
    free_bytes, token_bytes = psutil.virtual_memory().available, model.kv_bytes_per_token()
    wanted = spec.kv_tokens or config.kv_tokens
    size = wanted or kv_tokens(spec.context, spec.slots, free_bytes, token_bytes)
    size = -(-size // 256) * 256  # llama.cpp rounds up to this by itself.
    on_cpu = model.device() == "cpu"
    return StageLimits(
        spec=spec,
        n_embd=model.n_embd,
        n_vocab=model.n_vocab,
        context=min(spec.context, size),
        kv_tokens=size,
        parked_tokens=host.PARKED_TOKENS_CPU if on_cpu else size,
        crowded_tokens=host.CROWDED_TOKENS_CPU if on_cpu else size,
        step_budget_ms=float(config.step_budget_ms),
        eog=model.eog,
        keeps_order=on_cpu,
    )


def _card(model: llama.Model, limits: StageLimits, rows: int) -> StageCard:
    return StageCard(
        spec=limits.spec,
        n_embd=model.n_embd,
        n_vocab=model.n_vocab,
        backend="llama.cpp",
        device=model.device_label(),
        kv_tokens=limits.kv_tokens,
        resident_bytes=psutil.Process().memory_info().rss,
        rows=rows,
    )


def _put(batch: llama.Batch, spec: StageSpec, start: int, count: int) -> None:
    """Rows of nobody's in sequence 0; one row of logits is enough, but a tap takes all rows."""
    wanted_from = start + count - 1 if spec.is_last else 0
    batch.clear()
    if spec.is_first:
        batch.add(0, start, np.zeros(count, np.int32), wanted_from)
    else:
        noise = np.random.default_rng(start).standard_normal((count, batch.hidden.shape[1]))
        batch.add_hidden(0, start, noise.astype(np.float32), wanted_from)


def _can_compact(context: llama.Context, batch: llama.Batch, spec: StageSpec) -> bool:
    """Try it on three rows: a kind of memory that cannot must be known before jobs depend on it."""
    _put(batch, spec, 0, 3)
    context.decode(batch)
    return host.compacts(context)


def _calibrate(
    loop: StageLoop, context: llama.Context, batch: llama.Batch, spec: StageSpec
) -> None:
    """Small steps on an empty sequence: the first proves the build, all set the first pace."""
    for streams, count in ((0, host.CALIBRATION_IDS), (0, host.CALIBRATION_IDS), (1, 1)):
        _put(batch, spec, context.length(0), count)
        started_s = time.perf_counter()
        context.decode(batch)
        context.settle()
        took_ms = (time.perf_counter() - started_s) * 1e3
        loop.meter.measured(streams, 0 if streams else count, took_ms)
    context.drop(0)


if __name__ == "__main__":
    main(sys.argv[1:])
