"""How honest builds and liars fare before the coordinator's own judging code, probe by probe.

Questions are the prober's own; answers come from real engines; each is compared by
`coordinator.judge` with the installed engine, and the findings go through `coordinator.compare`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import llama_cpp
import msgspec

from bench.probe_engines import DIGEST, SLOTS, Build, ids_of, renamed
from parhelion.coordinator import judge, questions
from parhelion.coordinator.compare import SAME_BACKEND_RATE, Tally, Verdict
from parhelion.engines import EngineHost
from parhelion.words import Job

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What the packaged model's template says where nobody says anything."""

COMPARED_AT_ONCE = 2
"""Few, so that the engine keeps each prompt for the next question about it."""

T = TypeVar("T")
Ids = tuple[int, ...]
Findings = tuple[tuple[int, int, int], ...]
"""One probe: (compared, differing, far), in order."""


def jobs_of(model: Path, count: int, longest_sentences: int, seed: int) -> list[Job]:
    """As many probes, as the prober draws them."""
    vocabulary = llama_cpp.Llama(str(model), vocab_only=True, verbose=False)
    dice = random.Random(seed)
    jobs: list[Job] = []
    for number in range(count):
        question = questions.draw(dice, longest_sentences)
        said = [(one.role, str(one.content)) for one in question.messages]
        if said[0][0] != "system":
            said = [("system", SYSTEM), *said]
        text = "".join(f"<|im_start|>{role}\n{words}<|im_end|>\n" for role, words in said)
        prompt = vocabulary.tokenize(
            f"{text}<|im_start|>assistant\n".encode(), add_bos=False, special=True
        )
        jobs.append(
            Job(
                job=f"j{number}", attempt=1, digest=DIGEST, cache_scope=f"s{number}",
                prompt_ids=tuple(prompt), params=question.params, seed=dice.getrandbits(64),
                max_tokens=question.ids, opening=bytes(32),
            )
        )  # fmt: skip
    return jobs


class Oracle:
    """The coordinator's engine; what it was asked before it answers from memory."""

    def __init__(self, engine: EngineHost) -> None:
        self._engine = engine
        self._known: dict[bytes, Ids] = {}
        self._asked = 0

    async def __call__(self, job: Job) -> Ids:
        """The ids that follow the job's `output_ids`."""
        key = self._key(job)
        if key not in self._known:
            self._asked += 1
            self._known[key] = await ids_of(self._engine, renamed(job, self._asked))
        return self._known[key]

    def learn(self, jobs: Sequence[Job], answers: Sequence[Ids]) -> None:
        """What it answered to these before."""
        self._known |= {self._key(job): ids for job, ids in zip(jobs, answers, strict=True)}

    @staticmethod
    def _key(job: Job) -> bytes:
        return msgspec.msgpack.encode(msgspec.structs.replace(job, job="", cache_scope=""))


class Recording(Tally):
    """A tally that never decides, and keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(SAME_BACKEND_RATE)
        self.told: list[tuple[int, int, int]] = []

    def add(self, compared: int, differing: int, far: int = 0) -> None:
        self.told.append((compared, differing, far))

    @property
    def verdict(self) -> Verdict:
        return Verdict.OPEN


async def findings(oracle: Oracle, jobs: Sequence[Job], answers: Sequence[Ids]) -> list[Findings]:
    """What the judge finds in each answer."""

    async def one(job: Job, ids: Ids) -> Findings:
        told = Recording()
        await judge.compare(oracle, job, ids, told)
        return tuple(told.told)

    works = [lambda j=j, a=a: one(j, a) for j, a in zip(jobs, answers, strict=True)]
    return await crowd(works, COMPARED_AT_ONCE)


async def crowd(works: Sequence[Callable[[], Awaitable[T]]], at_once: int = SLOTS) -> list[T]:
    """All of them, so many at a time."""
    seats = asyncio.Semaphore(at_once)

    async def seated(work: Callable[[], Awaitable[T]]) -> T:
        async with seats:
            return await work()

    return list(await asyncio.gather(*map(seated, works)))


async def answers_of(build: Build, model: Path, jobs: Sequence[Job], kept: Path) -> list[Ids]:
    """The engine's answers to all jobs; those of an earlier run on the same jobs are kept."""
    asked = hashlib.sha256(msgspec.msgpack.encode([build.name, model.name, list(jobs)]))
    file = kept / f"{asked.hexdigest()[:16]}.json"
    if (known := _kept(file)) is not None:
        return known
    engine = await build.start(model)
    try:
        answers = await crowd([lambda job=job: ids_of(engine, job) for job in jobs])
    finally:
        await engine.stop()
    _keep(file, answers)
    return answers


def _kept(file: Path) -> list[Ids] | None:
    return [tuple(ids) for ids in json.loads(file.read_text())] if file.exists() else None


def _keep(file: Path, answers: Sequence[Ids]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(answers))


async def noisy(oracle: Oracle, job: Job, share: float, dice: random.Random, n_vocab: int) -> Ids:
    """The model's own answer with a share of ids made up on the way."""
    made: list[int] = []
    while len(made) < job.max_tokens:
        rest = await oracle(msgspec.structs.replace(job, output_ids=tuple(made)))
        at = next((at for at in range(len(rest)) if dice.random() < share), len(rest))
        made += rest[:at]
        if at == len(rest):
            break
        made.append(dice.randrange(n_vocab))
    return tuple(made)


class Trials(NamedTuple):
    """Tests made of the same probes one after the other, from each of them on in turn.

    `found_after`: probes until refused, tests following each other as the prober makes them; as
    many as there are probes where it was not refused.
    """

    tests: int
    refused: int
    found_after: tuple[int, ...]


def judged(found: Sequence[Findings], tolerance: float) -> Trials:
    """Verdicts over these probes: honest tests back to back, and how soon a liar is found."""
    tests = refused = 0
    tally = Tally(tolerance)
    for probe in found:
        verdict = _told(tally, probe)
        if verdict is not Verdict.OPEN:
            tests += 1
            refused += verdict is Verdict.FOREIGN
            tally = Tally(tolerance)
    return Trials(
        tests, refused, tuple(_found_after(found, start, tolerance) for start in range(len(found)))
    )


def _found_after(found: Sequence[Findings], start: int, tolerance: float) -> int:
    tally = Tally(tolerance)
    for offset in range(len(found)):
        verdict = _told(tally, found[(start + offset) % len(found)])
        if verdict is Verdict.FOREIGN:
            return offset + 1
        if verdict is Verdict.SAME:
            tally = Tally(tolerance)
    return len(found)


def _told(tally: Tally, probe: Findings) -> Verdict:
    for finding in probe:
        tally.add(*finding)
        if tally.verdict is Verdict.FOREIGN:
            break
    return tally.verdict
