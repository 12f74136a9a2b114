"""How often the same seed gives another text in a batch of 8 than alone, and where it parts.

Why it can: attention sums over a sequence's KV cells in the order in which they lie. When cells
are freed they are filled next, so a running sequence's later ids may lie before its earlier ones;
the sums then differ in their last bits, which a 4-bit model with 8-bit activations amplifies. A
finished job under a cache scope frees nothing until the memory is full; without one it frees its
cells at once (`--unscoped`: the worst case). Batch size and chunk size alone change no bit on a
CPU (below 64 rows a step).

`python -m bench.batch_invariance MODEL --count 200 --tokens 16`. Every generation is also scored.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path

import llama_cpp
import msgspec

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


SUBJECTS = ("the sea", "a clock", "winter", "bread", "a library", "the moon", "trains", "bees")
ASKS = (
    "Write two sentences about {}.",
    "What is special about {}?",
    "Explain {} to a child of seven, please, in your own words.",
    "Give three facts on {} and say which one surprises most people, and why that is so.",
    "Tell a story about {}.",
)


def prompts(path: Path, count: int, first: int) -> list[tuple[int, ...]]:
    """Chat prompts in plain English, each of another wording or length."""
    vocabulary = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    texts = [
        ASKS[n % len(ASKS)].format(SUBJECTS[n // len(ASKS) % len(SUBJECTS)]) + f" ({n})"
        for n in range(first, first + count)
    ]
    return [
        tuple(vocabulary.tokenize(chat(text).encode(), add_bos=False, special=True))
        for text in texts
    ]


def chat(text: str) -> str:
    """The ChatML turn of the packaged model."""
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


async def run(options: argparse.Namespace) -> None:
    """Count, and print what was found."""
    engine = await EngineHost.start(options.model, DIGEST, EngineConfig(), lambda event: None)
    jobs = [
        job(f"b{n}", ids, options.tokens, scope="" if options.unscoped else f"account-{n}")
        for n, ids in enumerate(prompts(options.model, options.count, options.first))
    ]
    alone = [await ids_of(engine, msgspec.structs.replace(one, cache_scope="")) for one in jobs]
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
    parser.add_argument("--unscoped", action="store_true")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
