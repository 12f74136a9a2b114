"""How often the same seed gives another text in a batch of 8 than alone, and where it parts.

Always 8 run: whenever one has ended the next begins, so cells become free beside running streams,
which is what can move last bits (engines/cells.py says how, and what is done about it). Every
other job has a cache scope, so kept prefixes come and go too. Batch size and chunk size change no
bit on a CPU below 64 rows a step. With more than one thread a step of one row does: from 512 cells
on llama.cpp then splits it by cells, one part a thread.

`python -m bench.batch_invariance MODEL` makes 200 texts; `--scored` of them are audited too.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

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


class Found(NamedTuple):
    """Of so many texts, where those part that differ; and what an audit says of `ids` ids."""

    texts: int
    partings: tuple[int, ...]
    ids: int
    mismatches: int


def jobs_of(path: Path, count: int, first: int, tokens: int) -> list[Job]:
    """Jobs of a quarter to the whole of `tokens`, every other one under a cache scope."""
    return [
        job(f"b{n}", ids, max(1, tokens * (1 + n % 4) // 4), scope=f"account-{n % 6}" * (n % 2))
        for n, ids in enumerate(prompts(path, count, first))
    ]


async def compare(engine: EngineHost, jobs: Sequence[Job], scored: int) -> Found:
    """Make each text alone and in a batch of 8, and audit the first `scored` of the latter."""
    seats = asyncio.Semaphore(BATCH)

    async def seated(one: Job) -> list[int]:
        async with seats:
            return await ids_of(engine, one)

    alone = [await ids_of(engine, msgspec.structs.replace(one, cache_scope="")) for one in jobs]
    together = await asyncio.gather(*map(seated, jobs))
    partings = [
        at for a, b in zip(alone, together, strict=True) if (at := parting(a, b)) is not None
    ]
    ids = mismatches = 0
    for one, output in list(zip(jobs, together, strict=True))[:scored]:
        found = await engine.score(one.prompt_ids, output, one.params, one.seed)
        mismatches += len(found)
        ids += len(output)
    return Found(len(jobs), tuple(sorted(partings)), ids, mismatches)


async def run(options: argparse.Namespace) -> None:
    """Count, and print what was found."""
    config = EngineConfig(threads=options.threads)
    engine = await EngineHost.start(options.model, DIGEST, config, lambda event: None)
    jobs = jobs_of(options.model, options.count, options.first, options.tokens)
    found = await compare(engine, jobs, options.scored)
    print(f"{len(found.partings)} of {found.texts} texts differ; they part at {found.partings}")
    print(f"score: {found.mismatches} mismatches in {found.ids} ids of honest output")
    await engine.stop()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--scored", type=int, default=40)
    parser.add_argument("--threads", type=int, default=0)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
