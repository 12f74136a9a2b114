"""Real stage hosts over slices of the packaged model, against the whole model in one host."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import llama_cpp
import psutil
import pytest
import pytest_asyncio

from parhelion.config import EngineConfig
from parhelion.engines import EngineHost
from parhelion.engines.hidden import Entry, FrameBroken, encode_ids
from parhelion.engines.stage_protocol import StageTold
from parhelion.engines.stage_supervised import StageHost
from parhelion.hosts import resident_bytes
from parhelion.models import ModelWeight
from parhelion.models.slices import weigh
from parhelion.models.stage_memory import STAGE_OVERHEAD_BYTES, buffer_bytes, vocabulary_bytes
from parhelion.testing.stages import Chain, ids_of, slice_of, tags_of
from parhelion.words import Job, Problem, ProblemCode, SamplerParams, StageJob, StageSpec, Step

pytestmark = [pytest.mark.asyncio(loop_scope="module")]

DIGEST = "d" * 64
CONFIG = EngineConfig(slots=8, threads=1, kv_tokens=8192)
NO_END = ((0, -100.0), (2, -100.0))
MIB = 1024 * 1024

_names = itertools.count(1)


def job(prompt: tuple[int, ...], tokens: int, temperature: float = 0.0, **more: Any) -> Job:
    params = SamplerParams(temperature=temperature, logit_bias=NO_END)
    fields = {
        "job": f"job_{next(_names)}", "attempt": 0, "digest": DIGEST, "cache_scope": "",
        "prompt_ids": prompt, "max_tokens": tokens, "params": params, "seed": 11, **more,
    }  # fmt: skip
    return Job(**fields)


def prompt(number: int, size: int) -> tuple[int, ...]:
    return tuple(1000 + (number * 977 + i * 131) % 30000 for i in range(size))


async def whole(engine: EngineHost, one: Job) -> tuple[int, ...]:
    return ids_of([step async for step in engine.generate(one)])


def english(path: Path) -> list[tuple[int, ...]]:
    """On noise the model has no opinion, and any rounding changes its mind."""
    vocabulary = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    asks = ("the sea", "a clock", "winter", "bread", "a library", "the moon")
    turns = (f"<|im_start|>user\nTell me about {one}.<|im_end|>\n" for one in asks)
    return [
        tuple(vocabulary.tokenize(f"{turn}<|im_start|>assistant\n".encode(), False, True))
        for turn in turns
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slices")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(smollm2: Path) -> AsyncIterator[EngineHost]:
    host = await EngineHost.start(smollm2, DIGEST, CONFIG, lambda event: None)
    yield host
    await host.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two(smollm2: Path, folder: Path) -> AsyncIterator[Chain]:
    chain = await Chain.start(smollm2, (0, 15, 30), folder, digest=DIGEST)
    yield chain
    await chain.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def three(smollm2: Path, folder: Path) -> AsyncIterator[Chain]:
    chain = await Chain.start(smollm2, (0, 10, 20, 30), folder, digest=DIGEST)
    yield chain
    await chain.stop()


async def test_two_stages_choose_what_the_whole_model_chooses(
    engine: EngineHost, two: Chain
) -> None:
    jobs = [job(prompt(n, size), 6) for n, size in enumerate((1, 12, 40))]
    expected = await asyncio.gather(*(whole(engine, one) for one in jobs))
    made = await asyncio.gather(*(two.generate(one) for one in jobs))
    assert [ids_of(steps) for steps in made] == expected
    assert two.failures == []


@pytest.mark.slow
@pytest.mark.parametrize("streams", [1, 4, 8])
@pytest.mark.parametrize("stages", [2, 3])
async def test_stages_choose_what_the_whole_model_chooses(
    engine: EngineHost, two: Chain, three: Chain, stages: int, streams: int
) -> None:
    chain = two if stages == 2 else three
    jobs = [job(prompt(n, 3 + 41 * n), 24) for n in range(streams)]
    expected = await asyncio.gather(*(whole(engine, one) for one in jobs))
    made = await asyncio.gather(*(chain.generate(one) for one in jobs))
    assert [ids_of(steps) for steps in made] == expected
    for steps in made:
        starts = [step.start for step in steps if step.ids]
        assert starts == list(range(24)) and steps[-1].finish == "length"


@pytest.mark.slow
async def test_a_long_prompt_in_chunks_beside_running_streams(
    engine: EngineHost, three: Chain
) -> None:
    jobs = [job(prompt(70, 700), 12), *(job(prompt(n, 9), 40, 0.8, seed=n) for n in range(3))]
    expected = [await whole(engine, one) for one in jobs]
    made = await asyncio.gather(*(three.generate(one) for one in jobs))
    assert [ids_of(steps) for steps in made] == expected
    progress = [step.prefilled for step in made[0] if not step.ids]
    assert len(progress) > 8 and progress == sorted(progress)


@pytest.mark.slow
async def test_a_reused_prefix_is_not_read_again_and_changes_no_id(
    engine: EngineHost, two: Chain, three: Chain
) -> None:
    first = job(prompt(9, 300), 20)
    for chain in (two, three):
        before = ids_of(await chain.generate(first, tags_of(first.prompt_ids)))
        second = job((*first.prompt_ids, *before, 2000, 2001), 16)
        rows = [stage.stats().rows for stage in chain.stages]
        steps = await chain.generate(second, tags_of(second.prompt_ids))
        assert ids_of(steps) == await whole(engine, second)
        # 319 of the first one's ids were read: 19 whole blocks of 16.
        assert steps[-1].cached == 304
        read = [stage.stats().rows - n for stage, n in zip(chain.stages, rows, strict=True)]
        assert read == [len(second.prompt_ids) - 304 + 15] * len(chain.stages)
        first = job(prompt(9, 300), 20)


@pytest.mark.slow
async def test_bf16_on_the_wire_halves_the_bytes_and_mostly_agrees(
    engine: EngineHost, smollm2: Path, folder: Path, two: Chain
) -> None:
    chain = await Chain.start(smollm2, (0, 15, 30), folder, digest=DIGEST, wire="bf16")
    try:
        jobs = [job(said, 24) for said in english(smollm2)]
        expected = [await whole(engine, one) for one in jobs]
        made = await asyncio.gather(*(chain.generate(one) for one in jobs))
        pairs = [
            pair
            for steps, ids in zip(made, expected, strict=True)
            for pair in zip(ids_of(steps), ids, strict=True)
        ]
        same = sum(a == b for a, b in pairs)
        print(f"bf16: {same} of {len(pairs)} greedy ids are the whole model's")
        # Where one id differs, all that follow do.
        assert same > 0.5 * len(pairs)
        rows = chain.stages[0].stats().rows
        print(f"bytes a row and hop: {chain.hop_bytes[0] / rows:.0f}")
        assert chain.hop_bytes[0] / rows < 576 * 2 + 80
    finally:
        await chain.stop()


@pytest.mark.slow
async def test_a_stage_takes_the_memory_of_its_layers(
    engine: EngineHost, two: Chain, three: Chain
) -> None:
    all_bytes = psutil.Process(engine.pid).memory_info().rss
    print(f"\nthe whole model: {all_bytes >> 20} MiB resident")
    for chain in (two, three):
        for stage in chain.stages:
            card = stage.describe()
            layers = f"{card.spec.start}-{card.spec.end}"
            print(f"layers {layers}: {card.resident_bytes >> 20} MiB, {card.kv_tokens} KV tokens")
            assert card.resident_bytes < all_bytes
            assert card.n_embd == 576


def held_bytes(chain: Chain, model: Path, folder: Path) -> list[int]:
    """What each process has in memory: its own pages, and those of the model, shared or not."""
    files = [[model, slice_of(model, spec.start, spec.end, folder)] for spec in chain.specs]
    pids = [stage.pid for stage in chain.stages]
    return [resident_bytes(pid, mapped) or 0 for pid, mapped in zip(pids, files, strict=True)]


def need_bytes(weight: ModelWeight, spec: StageSpec) -> int:
    """The weights of a stage's layers, what the ends have beside, and its KV memory."""
    layers = slice(spec.start, spec.end)
    edges = weight.head_bytes * spec.is_first + weight.tail_bytes * spec.is_last
    kv = sum(weight.kv_bytes_per_token[layers]) * spec.kv_tokens
    return sum(weight.layer_bytes[layers]) + edges + kv


@pytest.mark.slow
async def test_a_stage_takes_its_layers_and_what_any_stage_process_takes_and_no_more(
    smollm2: Path, folder: Path
) -> None:
    """A process of the same place in the ring with one layer tells what a process costs by itself;
    what a larger one has beyond that is its weights and its KV memory.

    The whole file counts too, mapped and shared with whomever: a stage that touches it is found
    out by what a process costs. The expected bytes are the whole model's own, not the slice's.
    """
    weight = weigh(smollm2)
    held: dict[tuple[bool, bool], list[tuple[int, int]]] = {}
    for cuts in ((0, 1, 29, 30), (0, 14, 15, 30)):
        chain = await Chain.start(smollm2, cuts, folder, digest=DIGEST, kv_tokens=2048)
        try:
            # At work too, not only as it was loaded.
            await asyncio.gather(*(chain.generate(job(prompt(n, 40 * n + 1), 8)) for n in range(4)))
            sizes = held_bytes(chain, smollm2, folder)
        finally:
            await chain.stop()
        for spec, size in zip(chain.specs, sizes, strict=True):
            place = spec.is_first, spec.is_last
            held.setdefault(place, []).append((need_bytes(weight, spec), size))
    for place, ((less_need, less), (more_need, more)) in (
        (place, sorted(both)) for place, both in held.items()
    ):
        process_bytes = less - less_need
        own_bytes = more - process_bytes
        print(
            f"\n{PLACES[place]}: {more_need / MIB:.1f} MiB of layers and KV memory, "
            f"{more / MIB:.1f} resident, {process_bytes / MIB:.1f} of them what a process takes"
        )
        counted = STAGE_OVERHEAD_BYTES + buffer_bytes(576, 2048)
        if place[1]:
            counted += vocabulary_bytes(weight.n_vocab, 8)
        assert 0 < process_bytes < counted, "the planner counts on so much at most"
        assert abs(own_bytes - more_need) < PROPORTION * more_need


PLACES = {(True, False): "first", (False, False): "middle", (False, True): "last"}

PROPORTION = 0.1
"""Of a stage's layers and KV memory: two processes with the same layers differ by up to 4 MiB in
what their allocators keep and in llama.cpp's buffers for a graph, which grow a little with layers.
The larger ones here need 79 to 101 MiB, so that two layers too many would show."""


@pytest.mark.slow
async def test_a_killed_stage_is_an_event_fails_its_jobs_and_comes_back(
    smollm2: Path, folder: Path, engine: EngineHost
) -> None:
    chain = await Chain.start(smollm2, (0, 15, 30), folder, digest=DIGEST)
    try:
        running = asyncio.create_task(chain.generate(job(prompt(1, 5), 2000)))
        async with asyncio.timeout(20):
            await chain.made(10)
        killed_s = time.monotonic()
        os.kill(chain.stages[1].pid, signal.SIGKILL)
        with pytest.raises(Problem) as caught:
            await running
        assert caught.value.code is ProblemCode.ENGINE_CRASHED
        assert time.monotonic() - killed_s < 3
        again = job(prompt(1, 5), 8)
        assert ids_of(await chain.generate(again)) == await whole(engine, again)
        kinds = [event.kind for place, event in chain.events if place == 1]
        assert kinds == ["ready", "crashed", "restarting", "ready"]
        assert [event.kind for place, event in chain.events if place == 0] == ["ready"]
    finally:
        await chain.stop()


async def test_a_step_is_timed_while_nobody_is_served(two: Chain) -> None:
    one, eight = [await two.stages[1].time(rows, 3) for rows in (1, 8)]
    assert 0 < one < eight
    with pytest.raises(Problem) as caught:
        await two.stages[1].time(5000, 1)
    assert caught.value.code is ProblemCode.INVALID_REQUEST


async def test_what_no_honest_stage_sends_is_refused_before_it_reaches_the_host(two: Chain) -> None:
    entry = Entry("job_x", 0, 0, 1, False)
    for body in (b"", bytes(100), encode_ids([entry], [1])):
        with pytest.raises(FrameBroken):
            two.stages[1].feed(body)
    two.stages[0].feed(encode_ids([entry], [1]))  # Nobody's, but sound.
    assert ids_of(await two.generate(job(prompt(2, 4), 2)))


async def test_a_job_that_does_not_fit_is_refused_and_nothing_is_left_open(two: Chain) -> None:
    big = StageJob(job="job_big", attempt=0, capacity=100_000)
    for stage in two.stages:
        with pytest.raises(Problem) as caught:
            await stage.open(big, job(prompt(1, 4), 2, job="job_big"))
        assert caught.value.code is ProblemCode.CONTEXT_LENGTH_EXCEEDED
        assert stage._open == set()


@pytest.mark.slow
async def test_a_file_that_is_not_that_stage_does_not_start(smollm2: Path, folder: Path) -> None:
    told = StageTold(
        on_frame=lambda frame: None,
        on_steps=lambda steps: None,
        on_failed=lambda *failure: None,
        on_event=lambda event: None,
    )
    spec = StageSpec(
        digest=DIGEST, start=0, end=10, layers=30, stages=3, slots=2, context=512, kv_tokens=512
    )
    with pytest.raises(Problem) as caught:
        await StageHost.start(slice_of(smollm2, 0, 15, folder), spec, CONFIG, told)
    assert "the file holds 15 layers, the stage has 10" in caught.value.message


async def test_steps_of_a_cancelled_job_stop(two: Chain) -> None:
    running = asyncio.create_task(two.generate(job(prompt(3, 6), 2000)))
    async with asyncio.timeout(20):
        await two.made(5)
    running.cancel()
    await asyncio.wait([running])
    made, before = len(two.steps), [-1]
    async with asyncio.timeout(20):  # A step that is under way ends when it does.
        while before != (rows := [stage.stats().rows for stage in two.stages]):
            before = rows
            await asyncio.sleep(0.3)
    assert len(two.steps) < made + 100 and two.failures == [], "of 2,000 that were to come"
    assert all(isinstance(step, Step) for _, step in two.steps)
