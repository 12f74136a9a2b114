"""The ids that stages choose are the whole model's: for each architecture, cut anywhere.

The tiny models are Q8_0 where the order of a sum must not matter: llama.cpp's CPU kernels then give
the same bits for any number of rows a step. Unquantised ones are asked one job at a time, in steps
of the same rows as the whole model's.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import msgspec
import pytest

from parhelion.config import EngineConfig
from parhelion.engines import EngineHost
from parhelion.models.anatomy import anatomy
from parhelion.models.gguf_header import read_outline
from parhelion.testing.stages import Chain, ids_of, tags_of
from parhelion.words import TAG_BLOCK_IDS, Job, SamplerParams
from tests.tiny_models import SHAPES, write_tiny

DIGEST = "d" * 64
TOKENS = 32
LEAST_DISTINCT = 6
"""Of TOKENS ids; an answer that stands still would be equal whatever a stage does wrong."""

ONE_THREAD = EngineConfig(slots=4, kv_tokens=4096, threads=1, gpu_layers=0)
WHOLE_CHUNKS = msgspec.structs.replace(ONE_THREAD, step_budget_ms=60_000)
"""A prompt is read in the fewest steps, however slow the machine is just now."""

PROMPTS: tuple[tuple[int, ...], ...] = (
    (5,),
    tuple(range(40, 60)),
    tuple((7 * k * k + 3) % 250 for k in range(90)),
    tuple((11 * k * k + 40) % 250 for k in range(200)),
)
"""An id, a step, two steps, four."""

CUTS: dict[str, tuple[tuple[int, ...], ...]] = {
    # Within the leading dense layers, right behind them, further; a stage of one dense layer.
    "deepseek2": ((1,), (2,), (3,), (4,), (7,), (2, 3), (3, 5), (1, 3, 6)),
    "deepseek2-lite": ((1,), (26,), (9, 18), (13, 14, 26)),
    "glm4moe": ((1,), (2,), (5,), (1, 2), (2, 4), (1, 3, 5)),
}
SIX_LAYERS = ((1,), (3,), (5,), (2, 4), (1, 2, 4))

_numbers = itertools.count(1)


def job(prompt: Sequence[int], temperature: float, seed: int, digest: str = DIGEST) -> Job:
    return Job(
        job=f"job_{next(_numbers)}",
        attempt=0,
        digest=digest,
        cache_scope="",
        prompt_ids=tuple(prompt),
        max_tokens=TOKENS,
        params=SamplerParams(temperature=temperature),
        seed=seed,
    )


@dataclass(frozen=True)
class Whole:
    """What the whole model answers: to each prompt greedily, then drawn with a seed."""

    path: Path
    layers: int
    prompts: tuple[tuple[int, ...], ...]
    greedy: list[tuple[int, ...]]
    drawn: list[tuple[int, ...]]


async def whole_answers(
    path: Path, prompts: Sequence[tuple[int, ...]], config: EngineConfig = ONE_THREAD
) -> Whole:
    """By the engine that serves whole models."""
    layers = anatomy(read_outline(path)).layers
    engine = await EngineHost.start(path, DIGEST, config, lambda event: None)

    async def answer(one: Job) -> tuple[int, ...]:
        return ids_of([step async for step in engine.generate(one)])

    try:
        # One after the other: of the unquantised models each has steps of its own.
        greedy = [await answer(job(prompt, 0.0, 0)) for prompt in prompts]
        drawn = [await answer(job(prompt, 1.0, seed)) for seed, prompt in enumerate(prompts)]
    finally:
        await engine.stop()
    return Whole(path, layers, tuple(prompts), greedy, drawn)


@asynccontextmanager
async def cut(
    whole: Whole, cuts: Sequence[int], folder: Path, config: EngineConfig = ONE_THREAD
) -> AsyncIterator[Chain]:
    """The same model in stages that end before the layers `cuts`."""
    edges = (0, *cuts, whole.layers)
    chain = await Chain.start(whole.path, edges, folder, config=config, slots=4, kv_tokens=4096)
    try:
        yield chain
    finally:
        await chain.stop()


async def check(whole: Whole, chain: Chain) -> None:
    """All prompts at once, greedily and drawn: the stages work on several of them at a time."""

    async def answer(one: Job) -> tuple[int, ...]:
        return ids_of(await chain.generate(one))

    greedy = await asyncio.gather(*(answer(job(prompt, 0.0, 0)) for prompt in whole.prompts))
    drawn = await asyncio.gather(
        *(answer(job(prompt, 1.0, seed)) for seed, prompt in enumerate(whole.prompts))
    )
    assert greedy == whole.greedy
    assert drawn == whole.drawn
    assert chain.failures == []


async def check_reuse(whole: Whole, chain: Chain) -> None:
    """The longest prompt twice: every stage then holds its whole blocks, but never the last id."""
    prompt = whole.prompts[-1]
    for expected in (0, (len(prompt) - 1) // TAG_BLOCK_IDS * TAG_BLOCK_IDS):
        steps = await chain.generate(job(prompt, 0.0, 0), tags_of(prompt))
        assert ids_of(steps) == whole.greedy[-1]
        assert max(step.cached for step in steps) == expected


def says_something(answers: Sequence[tuple[int, ...]]) -> bool:
    return len(set(answers)) == len(answers) and all(
        len(ids) == TOKENS and len(set(ids)) >= LEAST_DISTINCT for ids in answers
    )


@pytest.mark.parametrize(("name", "at"), [("deepseek2", 2), ("glm4", 3)])
async def test_two_stages_choose_the_whole_models_ids(tmp_path: Path, name: str, at: int) -> None:
    path = write_tiny(tmp_path / f"{name}.gguf", SHAPES[name], quantised=True)
    whole = await whole_answers(path, PROMPTS[:3])
    assert says_something(whole.greedy)
    assert whole.drawn != whole.greedy
    async with cut(whole, (at,), tmp_path) as chain:
        await check(whole, chain)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SHAPES)
async def test_stages_choose_the_whole_models_ids_wherever_it_is_cut(
    tmp_path: Path, name: str
) -> None:
    path = write_tiny(tmp_path / f"{name}.gguf", SHAPES[name], quantised=True)
    whole = await whole_answers(path, PROMPTS)
    assert says_something(whole.greedy)
    assert whole.layers == SHAPES[name].layers  # Of those that only predict, no stage has one.
    for cuts in CUTS.get(name, SIX_LAYERS):
        async with cut(whole, cuts, tmp_path) as chain:
            await check(whole, chain)
            await check_reuse(whole, chain)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SHAPES)
async def test_unquantised_stages_choose_the_whole_models_ids(tmp_path: Path, name: str) -> None:
    path = write_tiny(tmp_path / f"{name}.gguf", SHAPES[name])
    whole = await whole_answers(path, PROMPTS, WHOLE_CHUNKS)
    assert says_something(whole.greedy)
    for cuts in (CUTS.get(name, SIX_LAYERS)[1], CUTS.get(name, SIX_LAYERS)[-2]):
        async with cut(whole, cuts, tmp_path, WHOLE_CHUNKS) as chain:
            for prompt, expected in zip(whole.prompts, whole.greedy, strict=True):
                assert ids_of(await chain.generate(job(prompt, 0.0, 0))) == expected


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_packaged_models_stages_choose_its_ids(smollm2: Path, tmp_path: Path) -> None:
    whole = await whole_answers(smollm2, english(smollm2))
    for cuts in ((1,), (15,), (10, 20), (7, 15, 29)):
        async with cut(whole, cuts, tmp_path) as chain:
            await check(whole, chain)


def english(path: Path) -> list[tuple[int, ...]]:
    vocabulary = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    asks = ("the sea", "a clock that is late", "bread", "why the moon is there at noon, at length")
    turns = "<|im_start|>user\nTell me about {}.<|im_end|>\n<|im_start|>assistant\n"
    return [tuple(vocabulary.tokenize(turns.format(ask).encode(), False, True)) for ask in asks]
