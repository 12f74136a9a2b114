"""What the batching loop promises: the same text alone and in a crowd, and smooth streams."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bench.batch_invariance import BATCH, compare, jobs_of
from bench.engine_ratio import DIGEST, Gaps, prefill_alone, prefill_gaps
from bench.rows import Row
from parhelion.config import EngineConfig
from parhelion.engines import EngineHost
from parhelion.models import packaged_model

TEXTS = 200
TEXTS_QUICK = 64
LONGEST_TEXT = 64
SCORED = 40

PREFILL = 4000
PREFILL_QUICK = 1000
STREAMS = (1, 4)


def measure(folder: Path, quick: bool) -> list[Row]:
    """Both rows' figures come from one engine host, without the stack around it."""
    return asyncio.run(_measure(quick))


async def _measure(quick: bool) -> list[Row]:
    model = packaged_model()
    engine = await EngineHost.start(model, DIGEST, EngineConfig(), lambda event: None)
    try:
        return [
            await _same_text(engine, model, TEXTS_QUICK if quick else TEXTS),
            *await _smooth_streams(engine, PREFILL_QUICK if quick else PREFILL),
        ]
    finally:
        await engine.stop()


async def _same_text(engine: EngineHost, model: Path, texts: int) -> Row:
    found = await compare(engine, jobs_of(model, texts, 0, LONGEST_TEXT), SCORED)
    differing = len(found.partings)
    return Row(
        f"same seed alone and in a batch of {BATCH}: texts that differ",
        f"{differing} of {found.texts}",
        "printed",
        None,
        f"audit of honest output: {found.mismatches} mismatches in {found.ids} ids",
    )


async def _smooth_streams(engine: EngineHost, prompt: int) -> list[Row]:
    alone_s = await prefill_alone(engine, prompt)
    return [
        _gaps_row(await prefill_gaps(engine, prompt, streams), prompt, streams, alone_s)
        for streams in STREAMS
    ]


def _gaps_row(gaps: Gaps, prompt: int, streams: int, alone_s: float) -> Row:
    beside = f"{streams} running stream{'s' * (streams > 1)}"
    return Row(
        f"p95 gap of {beside} during a {prompt:,}-token prefill",
        f"{gaps.ratio:.2f} x normal",
        "< 3 x",
        gaps.ratio < 3,
        f"p95 {gaps.normal_p95_ms:.0f} to {gaps.during_p95_ms:.0f} ms, largest gap "
        f"{gaps.largest_ms:.0f} ms; prefill {gaps.prefill_s:.1f} s, alone {alone_s:.1f} s",
    )
