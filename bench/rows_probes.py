"""Probes of strangers: who is refused and who is not, of honest builds and liars, with counts."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bench.probe_engines import BUILDS, PROBES, Build, builds, quantised
from bench.probes import (
    COMPARED_AT_ONCE,
    Findings,
    Ids,
    Oracle,
    answers_of,
    crowd,
    findings,
    jobs_of,
    judged,
    noisy,
)
from bench.rows import Row
from parhelion.coordinator.compare import SAME_BACKEND_RATE
from parhelion.models import packaged_model
from parhelion.words import Job

SENTENCES = 4
"""Of most questions here: prefill is nearly all of the time that this takes."""

LONG_SENTENCES = 24
LONG_LEAST_TOKENS = 200

LIARS, NOISY, LONG = 60, 60, 12
QUICK = 24

QUANTISATIONS = ("Q8_0", "Q4_0", "Q2_K")
NOISE = (0.1, 0.05, 0.02, 0.01)
CUTS: dict[str, Callable[[Ids], Ids]] = {
    "only the last 128 ids of the prompt": lambda ids: ids[-128:],
    "the first 32 and the last 96 ids": lambda ids: ids[:32] + ids[-96:],
}


def measure(folder: Path, quick: bool) -> list[Row]:
    """All classes; each answer is compared with the installed engine's."""
    return asyncio.run(_measure(folder, quick))


async def _measure(folder: Path, quick: bool) -> list[Row]:
    kept = Path(os.environ.get(BUILDS, folder))
    model = packaged_model()
    jobs = jobs_of(model, QUICK if quick else PROBES, SENTENCES, 1)
    rows = Told()
    engine = await Build("own").start(model)
    try:
        oracle = Oracle(engine)
        oracle.learn(jobs, await answers_of(Build("own"), model, jobs, kept / "answers"))
        for build in builds(kept):
            asked = jobs[: build.probes]
            answers = await answers_of(build, model, asked, kept / "answers")
            rows.append(_honest(build.name, await findings(oracle, asked, answers)))
        some = jobs[:LIARS]
        for kind in QUANTISATIONS:
            served = quantised(model, kind, kept)
            answers = await answers_of(Build(kind), served, some, kept / "answers")
            rows.append(_liar(f"weights as {kind}", await findings(oracle, some, answers), None))
        n_vocab = engine.describe().n_vocab
        for share in NOISE:
            rows.append(await _noise(oracle, jobs[:NOISY], share, n_vocab))
        rows += await _cut(oracle, model, quick)
    finally:
        await engine.stop()
    return rows


class Told(list[Row]):
    """Rows that are said at once: all of them take half an hour."""

    def append(self, row: Row) -> None:
        print(f"  {row.line()}", file=sys.stderr, flush=True)
        super().append(row)


async def _noise(oracle: Oracle, jobs: Sequence[Job], share: float, n_vocab: int) -> Row:
    dice = random.Random(share)
    answers = await crowd(
        [lambda job=job: noisy(oracle, job, share, dice, n_vocab) for job in jobs],
        COMPARED_AT_ONCE,
    )
    found = await findings(oracle, jobs, answers)
    return _liar(f"{share:.0%} of the ids made up", found, share >= 0.02)


async def _cut(oracle: Oracle, model: Path, quick: bool) -> list[Row]:
    drawn = jobs_of(model, 200, LONG_SENTENCES, 2)
    jobs = [job for job in drawn if len(job.prompt_ids) >= LONG_LEAST_TOKENS][: LONG // (1 + quick)]
    rows: list[Row] = []
    for name, cut in CUTS.items():
        seen = [msgspec.structs.replace(job, prompt_ids=cut(job.prompt_ids)) for job in jobs]
        answers = await crowd([lambda job=job: oracle(job) for job in seen])
        rows.append(_liar(name, await findings(oracle, jobs, answers), True))
    return rows


def _honest(name: str, found: Sequence[Findings]) -> Row:
    trials = judged(found, SAME_BACKEND_RATE)
    ids, differing, far = _sums(found)
    return Row(
        f"honest, {name}: tests that refuse it",
        f"{trials.refused} of {trials.tests}",
        "0",
        trials.refused == 0,
        f"{len(found)} probes, {ids} ids; {differing / ids:.2%} differ, {far} by far (95 %: at most"
        f" {_bound(differing, ids):.2%} and {_bound(far, ids):.2%}); refused from"
        f" {sum(after < len(found) for after in trials.found_after)} of {len(found)} starts",
    )


def _liar(name: str, found: Sequence[Findings], is_due: bool | None) -> Row:
    trials = judged(found, SAME_BACKEND_RATE)
    ids, differing, far = _sums(found)
    after = [one for one in trials.found_after if one < len(found)]
    median = f"after {statistics.median(after):.0f} (median)" if after else "never"
    return Row(
        f"liar, {name}: found",
        f"from {len(after)} of {len(found)} starts",
        "reported" if is_due is None else "all" if is_due else "reported",
        len(after) == len(found) if is_due else None,
        f"{median} and at most {max(trials.found_after)} probes; {ids} ids, {differing / ids:.1%}"
        f" differ, {far / ids:.1%} by far; {trials.refused} of {trials.tests} single tests refuse",
    )


def _sums(found: Sequence[Findings]) -> tuple[int, int, int]:
    told = [finding for probe in found for finding in probe]
    ids, differing, far = (sum(part) for part in zip(*told, strict=True))
    return ids, differing, far


def _bound(count: int, of: int) -> float:
    """An upper bound of a rate at 95 %: the rule of three where nothing was seen."""
    if not count:
        return 3 / of
    share = count / of
    return share + 1.645 * (share * (1 - share) / of) ** 0.5
