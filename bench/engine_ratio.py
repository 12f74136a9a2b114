"""Tokens/s of the engine host against the bare loop, back to back, several rounds; medians.

`python -m bench.engine_ratio MODEL` also measures the time to first token of a second prompt that
shares 1,000 tokens, and the gaps of two running streams during a 4,000-token prefill.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from pathlib import Path
from typing import NamedTuple

from bench.decode_loop import Bare, measure, sample_prompts
from parhelion.config import EngineConfig
from parhelion.engines import EngineHost
from parhelion.words import Job, SamplerParams

DIGEST = "bench"

PROMPT_IDS = 8
"""Short, so that all streams decode together for most of a round."""


def job(
    name: str,
    prompt_ids: tuple[int, ...],
    tokens: int,
    temperature: float = 0.8,
    scope: str = "bench",
) -> Job:
    """A job that a bench runs."""
    return Job(
        job=name,
        attempt=0,
        digest=DIGEST,
        cache_scope=scope,
        prompt_ids=prompt_ids,
        params=SamplerParams(temperature=temperature, logit_bias=((2, -100.0), (0, -100.0))),
        seed=7,
        max_tokens=tokens,
    )


async def stamps(engine: EngineHost, work: Job, until: asyncio.Event | None = None) -> list[float]:
    """When each id of a job arrived."""
    times: list[float] = []
    async for step in engine.generate(work):
        times += [time.perf_counter()] * len(step.ids)
        if until is not None and until.is_set():
            break
    return times


async def throughput(engine: EngineHost, number: int, streams: int, tokens: int) -> float:
    """Tokens/s of all streams while every one of them decodes (prefill is over)."""
    prompts = sample_prompts(streams, PROMPT_IDS)
    jobs = [job(f"t{number}-{i}", ids, tokens, scope="") for i, ids in enumerate(prompts)]
    times = await asyncio.gather(*(stamps(engine, one) for one in jobs))
    begin = max(one[0] for one in times)
    end = min(one[-1] for one in times)
    made = sum(sum(begin < at <= end for at in one) for one in times)
    return made / (end - begin)


async def shared_prefix(engine: EngineHost, number: int) -> float:
    """Time to first token of the second prompt sharing 1,000 tokens, over that of the first."""
    shared = sample_prompts(40 + number, 1000)[-1]
    waits: list[float] = []
    for i in range(2):
        started_s = time.perf_counter()
        times = await stamps(
            engine, job(f"p{number}-{i}", (*shared, *range(500 + i, 520 + i)), 1, 0.0, f"s{number}")
        )
        waits.append(times[0] - started_s)
    return waits[1] / waits[0]


class Gaps(NamedTuple):
    """Of running streams beside one long prefill: gaps between their ids, and how long it took."""

    normal_p95_ms: float
    during_p95_ms: float
    largest_ms: float
    prefill_s: float

    @property
    def ratio(self) -> float:
        return self.during_p95_ms / self.normal_p95_ms


numbers = itertools.count()
"""A job that was left may still be running for a step when the next one begins."""

NORMAL_S = 5.0
"""Before and after the prefill the streams run so long by themselves: the machine may change."""


async def prefill_gaps(engine: EngineHost, prompt: int, streams: int = 2) -> Gaps:
    """Gaps of `streams` running streams, by themselves and during the whole of a long prefill."""
    enough = asyncio.Event()
    runs = [
        asyncio.create_task(stamps(engine, job(f"g{next(numbers)}", ids, 3000, scope=""), enough))
        for ids in sample_prompts(streams, 32)
    ]
    await asyncio.sleep(NORMAL_S)
    began = time.perf_counter()
    prefill_s = await prefill_alone(engine, prompt)
    ended = began + prefill_s
    await asyncio.sleep(NORMAL_S)
    enough.set()
    normal: list[float] = []
    during: list[float] = []
    for times in await asyncio.gather(*runs):
        for a, b in itertools.pairwise(times[20:]):
            if b < began or a > ended:
                normal.append((b - a) * 1e3)
            elif began < a and b < ended:
                during.append((b - a) * 1e3)
    return Gaps(p95(normal), p95(during), max(during), prefill_s)


async def prefill_alone(engine: EngineHost, prompt: int) -> float:
    """Seconds to the first id of a prompt of so many ids that nothing is kept of."""
    began = time.perf_counter()
    long = job(f"long{next(numbers)}", sample_prompts(60, prompt)[-1], 1, 0.0, "")
    times = await stamps(engine, long)
    return times[0] - began


def p95(values: list[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(values, n=20)[-1]


async def run(options: argparse.Namespace) -> None:
    """All rows."""
    bare = Bare(options.model)
    engine = await EngineHost.start(options.model, DIGEST, EngineConfig(), lambda event: None)
    ratios: list[float] = []
    for number in range(options.rounds):
        prompts = sample_prompts(options.streams, PROMPT_IDS)
        base = measure(bare, prompts, options.tokens).tokens_per_s
        ours = await throughput(engine, number, options.streams, options.tokens)
        ratios.append(ours / base)
        print(f"{options.streams} streams: engine {ours:.1f}, bare {base:.1f} tokens/s", flush=True)
    print(f"engine / bare: {statistics.median(ratios):.3f} (of {[round(r, 3) for r in ratios]})")
    if not options.short:
        shares = [await shared_prefix(engine, i) for i in range(3)]
        print(f"shared 1,000 tokens, second / first TTFT: {statistics.median(shares):.3f}")
        gaps = await prefill_gaps(engine, options.prefill)
        print(
            f"{options.prefill}-token prefill ({gaps.prefill_s:.1f} s): gaps normal p95 "
            f"{gaps.normal_p95_ms:.1f} ms, during p95 {gaps.during_p95_ms:.1f} "
            f"({gaps.ratio:.2f}x), largest {gaps.largest_ms:.1f}"
        )
    await engine.stop()
    bare.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prefill", type=int, default=4000)
    parser.add_argument("--short", action="store_true")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
