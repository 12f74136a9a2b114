from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import llama_cpp
import msgspec
import pytest

from parhelion.engines import EngineHost
from parhelion.words import Job, Problem, ProblemCode, SamplerParams, Step

pytestmark = pytest.mark.asyncio(loop_scope="module")

NewJob = Callable[..., Job]

ROOT = Path(__file__).parents[3]


def prompt(number: int, size: int) -> tuple[int, ...]:
    return tuple(1000 + (number * 977 + i * 131) % 30000 for i in range(size))


async def steps(engine: EngineHost, job: Job) -> list[Step]:
    return [step async for step in engine.generate(job)]


def ids(made: list[Step]) -> list[int]:
    return [id for step in made for id in step.ids]


async def test_greedy_output_is_llama_cpps_own(
    engine: EngineHost, new_job: NewJob, smollm2: Path
) -> None:
    prompts = [prompt(n, size) for n, size in enumerate((1, 7, 40, 90))]
    theirs = await bare_greedy(smollm2, prompts, 24)
    for one, expected in zip(prompts, theirs, strict=True):
        made = ids(await steps(engine, new_job(one, 24)))
        assert made == expected[: len(made)]
        assert made  # Only end-of-text may end it early, and then as the last id.


async def bare_greedy(path: Path, prompts: list[tuple[int, ...]], tokens: int) -> list[list[int]]:
    """llama.cpp's own greedy ids, from bench/decode_loop.py in a process of its own."""
    script = (
        "import sys, json; from pathlib import Path; from bench.decode_loop import Bare, greedy\n"
        "bare = Bare(Path(sys.argv[1]))\n"
        "print(json.dumps([greedy(bare, p, int(sys.argv[3])) for p in json.loads(sys.argv[2])]))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        str(path),
        msgspec.json.encode(prompts).decode(),
        str(tokens),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return msgspec.json.decode(out.splitlines()[-1], type=list[list[int]])


@pytest.mark.slow
async def test_a_seed_gives_the_same_text_alone_and_in_a_batch_of_8(
    engine: EngineHost, new_job: NewJob, smollm2: Path
) -> None:
    jobs = [
        new_job(said, 6 + 10 * (n % 4), 0.8, seed=n) for n, said in enumerate(2 * english(smollm2))
    ]
    alone = [ids(await steps(engine, job)) for job in jobs]
    together = [ids(made) for made in await eight_at_a_time(engine, jobs)]
    same = sum(a == b for a, b in zip(alone, together, strict=True))
    # A GPU's sums depend on the batch's shape; bench/batch_invariance.py counts more of them.
    assert same == len(jobs) if engine.describe().device == "cpu" else same >= 8
    for job, output in list(zip(jobs, together, strict=True))[:4]:
        found = await engine.score(job.prompt_ids, output, job.params, job.seed)
        assert found == () or engine.describe().device != "cpu"


async def eight_at_a_time(engine: EngineHost, jobs: list[Job]) -> list[list[Step]]:
    """Whenever one has ended the next begins: cells become free while others run."""
    seats = asyncio.Semaphore(8)

    async def seated(job: Job) -> list[Step]:
        async with seats:
            return await steps(engine, job)

    return await asyncio.gather(*map(seated, jobs))


def english(path: Path) -> list[tuple[int, ...]]:
    """Eight chat prompts: on noise the model has no opinion, and any rounding changes its mind."""
    vocabulary = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    asks = ("the sea", "a clock", "winter", "bread", "a library", "the moon", "trains", "bees")
    return [
        tuple(vocabulary.tokenize(chat(f"Tell me about {one}.").encode(), False, True))
        for one in asks
    ]


def chat(text: str) -> str:
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_a_resumed_text_is_the_undisturbed_one(
    engine: EngineHost, new_job: NewJob, temperature: float
) -> None:
    job = new_job(prompt(3, 30), 24, temperature, seed=5)
    whole = ids(await steps(engine, job))
    assert len(whole) > 12
    rest = await steps(engine, msgspec.structs.replace(job, attempt=1, output_ids=tuple(whole[:9])))
    assert whole[:9] + ids(rest) == whole
    assert next(step.start for step in rest if step.ids) == 9


async def test_a_context_overflow_is_refused_before_decoding(
    engine: EngineHost, new_job: NewJob
) -> None:
    context = engine.describe().context
    with pytest.raises(Problem) as caught:
        await steps(engine, new_job(prompt(1, 10), context - 9))
    assert caught.value.code is ProblemCode.CONTEXT_LENGTH_EXCEEDED


async def test_end_of_text_ends_the_job_and_is_its_last_id(
    engine: EngineHost, new_job: NewJob
) -> None:
    params = SamplerParams(temperature=0.0, logit_bias=((2, 1000.0),))
    made = await steps(engine, new_job(prompt(1, 5), 50, params=params))
    assert (made[-1].finish, made[-1].ids) == ("eog", (2,))


async def test_a_cancelled_job_ends_within_a_step(engine: EngineHost, new_job: NewJob) -> None:
    job = new_job(prompt(1, 10), 2000, 0.8, params=no_end(0.8))
    asked_s = 0.0
    last = None
    async for step in engine.generate(job):
        last = step
        if step.start >= 5 and not asked_s:
            asked_s = time.monotonic()
            engine.cancel(job.job, 0)
    assert last is not None
    assert last.finish == "cancelled"
    # 100 ms to the host and one step of 80 ms, times 5 for a busy machine.
    assert time.monotonic() - asked_s < 0.9


def no_end(temperature: float) -> SamplerParams:
    return SamplerParams(temperature=temperature, logit_bias=((0, -100.0), (2, -100.0)))


async def test_score_finds_few_mismatches_in_an_honest_output_and_many_in_a_changed_one(
    engine: EngineHost, new_job: NewJob
) -> None:
    params = no_end(0.8)
    job = new_job(prompt(4, 20), 80, params=params, seed=77)
    made = ids(await steps(engine, job))
    assert len(made) == 80
    honest = await engine.score(job.prompt_ids, made, params, 77)
    assert len(honest) <= 3
    changed = [(id + 1) % 49152 for id in made]
    assert len(await engine.score(job.prompt_ids, changed, params, 77)) > 40
    assert len(await engine.score(job.prompt_ids, made, params, 78)) > 8


async def test_a_shared_prefix_is_reused_in_its_scope_with_the_same_greedy_ids(
    engine: EngineHost, new_job: NewJob
) -> None:
    shared = prompt(9, 300)
    second = (*shared, 2000, 2001)
    first_s, _ = await timed(engine, new_job((*shared, 1999), 1, cache_scope="mine"))
    second_s, cached = await timed(engine, new_job(second, 8, cache_scope="mine"))
    _, foreign = await timed(engine, new_job(second, 8, cache_scope="yours"))
    assert cached[-1].cached == 300
    assert foreign[-1].cached == 0
    assert ids(cached) == ids(foreign)
    # How much is the bench's business (0.3 at 1,000 tokens): 300 may take a fast machine 20 ms.
    assert second_s < first_s


async def timed(engine: EngineHost, job: Job) -> tuple[float, list[Step]]:
    """Seconds to the first id, and all steps."""
    started_s, first_s = time.monotonic(), 0.0
    made: list[Step] = []
    async for step in engine.generate(job):
        made.append(step)
        if step.ids and not first_s:
            first_s = time.monotonic() - started_s
    return first_s, made


WATCHED_S = 20.0
"""How much of a long prefill a test waits for."""

SETTLING, PACED = 30, 60
"""Steps of each stream before its pace is normal, and those that say what normal is."""


@pytest.mark.slow
async def test_running_streams_keep_their_pace_during_a_4000_token_prefill(
    engine: EngineHost, new_job: NewJob
) -> None:
    streams = [new_job(prompt(n, 10), 3000, params=no_end(0.8)) for n in (1, 2)]
    arrivals: list[list[float]] = [[], []]
    arrived = asyncio.Event()

    async def listen(job: Job, times: list[float]) -> None:
        async for _ in engine.generate(job):
            times.append(time.monotonic())
            arrived.set()

    async def until_each_has(counts: list[int]) -> None:
        async with asyncio.timeout(60):
            while any(len(times) < n for times, n in zip(arrivals, counts, strict=True)):
                arrived.clear()
                await arrived.wait()

    listening = [
        asyncio.create_task(listen(job, times))
        for job, times in zip(streams, arrivals, strict=True)
    ]
    await until_each_has([SETTLING + PACED] * 2)
    began = time.monotonic()
    long = new_job(prompt(50, 4000), 1)
    prefilling = asyncio.create_task(steps(engine, long))
    # On two cores it takes a minute or two: `python -m bench batching` waits for all of it.
    await asyncio.wait([prefilling], timeout=WATCHED_S)
    ended = time.monotonic()
    engine.cancel(long.job, 0)
    made = await prefilling
    # The streams go on by themselves: a machine that became slower meanwhile is not our doing.
    seen = list(map(len, arrivals))
    await until_each_has([n + PACED for n in seen])
    for job in streams:
        engine.cancel(job.job, 0)
    await asyncio.gather(*listening)
    gaps = [gap for times in arrivals for gap in pairs(times[SETTLING:])]
    normal = [b - a for a, b in gaps if b < began] + [
        b - a for times, n in zip(arrivals, seen, strict=True) for a, b in pairs(times[n + 2 :])
    ]
    during = [b - a for a, b in gaps if began < a and b < ended]
    # A fast machine is through in a second, a busy one takes few steps in twenty.
    assert len(during) >= 10
    assert p95(during) < 3 * p95(normal)
    prefilled = max(step.prefilled for step in made)
    assert prefilled > 200  # The running streams did not starve the newcomer either.


def pairs(times: list[float]) -> itertools.pairwise[tuple[float, float]]:
    return itertools.pairwise(times)


def p95(gaps: list[float]) -> float:
    return statistics.quantiles(gaps, n=20)[-1]
