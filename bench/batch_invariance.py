"""How often the same seed gives another text in a batch of 8 than alone, and where it parts.

`python -m bench.batch_invariance MODEL --count 200 --tokens 16`. Every generation is also scored.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path

from bench.engine_ratio import DIGEST, job
from parhelion.config import EngineConfig
from parhelion.engines import EngineHost
from parhelion.words import Job

BATCH = 8


def parting(a: Sequence[int], b: Sequence[int]) -> int | None:
    """The first index at which two outputs differ."""
    if list(a) == list(b):
        return None
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))
    return sum(1 for _ in same)


async def ids_of(engine: EngineHost, work: Job) -> list[int]:
    """A job's whole output."""
    return [id async for step in engine.generate(work) for id in step.ids]


def prompt(number: int) -> tuple[int, ...]:
    """Lengths from 5 to 44, so that the sequences of a batch are at different places."""
    size = 5 + number * 7 % 40
    return tuple(1000 + (number * 977 + i * 131) % 30000 for i in range(size))


async def run(options: argparse.Namespace) -> None:
    """Count, and print what was found."""
    engine = await EngineHost.start(options.model, DIGEST, EngineConfig(), lambda event: None)
    jobs = [
        job(f"b{n}", prompt(options.first + n), options.tokens, scope="")
        for n in range(options.count)
    ]
    alone = [await ids_of(engine, one) for one in jobs]
    together: list[list[int]] = []
    for batch in chunks(jobs):
        together += await asyncio.gather(*(ids_of(engine, one) for one in batch))
    partings = [
        at for a, b in zip(alone, together, strict=True) if (at := parting(a, b)) is not None
    ]
    print(f"{len(partings)} of {len(jobs)} texts differ; they part at {sorted(partings)}")
    scored = ids = 0
    for one, output in list(zip(jobs, together, strict=True))[: options.scored]:
        found = await engine.score(one.prompt_ids, output, one.params, one.seed)
        scored += len(found)
        ids += len(output)
    print(f"score: {scored} mismatches in {ids} ids of honest output")
    await engine.stop()


def chunks(jobs: Sequence[Job]) -> list[Sequence[Job]]:
    """Batches of BATCH (itertools.batched is newer than Python 3.11)."""
    return [jobs[i : i + BATCH] for i in range(0, len(jobs), BATCH)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--scored", type=int, default=40)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
