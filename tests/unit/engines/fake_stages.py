"""Stages without a model: a hidden state is the id itself, so that every stage's memory can be
held against what a whole model would have read. The ring between them is a list of frames.
"""

from __future__ import annotations

import importlib.util
import random
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parhelion.engines.host_messages import Failed
from parhelion.engines.stage_first import FirstLoop
from parhelion.engines.stage_later import LastLoop, LaterLoop
from parhelion.engines.stage_loop import StageLoop
from parhelion.engines.stage_messages import (
    Close,
    Feed,
    FromStage,
    Go,
    Open,
    Opened,
    Reported,
    Stepped,
)
from parhelion.engines.stage_rules import StageLimits
from parhelion.testing import ManualClock
from parhelion.testing.stages import tags_of
from parhelion.words import Job, SamplerParams, StageJob, StageSpec, Step

_spec = importlib.util.spec_from_file_location(
    "fake_decoder", Path(__file__).with_name("fake_decoder.py")
)
assert _spec is not None and _spec.loader is not None
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)

WIDTH = 2
DIGEST = "d" * 64


class FakeStageBatch(fake.FakeBatch):  # type: ignore[misc,name-defined]
    def add_hidden(self, seq: int, start: int, rows: NDArray[np.float32], wanted_from: int) -> None:
        self.add(seq, start, np.abs(rows[:, 0]).astype(np.int32), wanted_from)


class FakeStageDecoder(fake.FakeDecoder):  # type: ignore[misc,name-defined]
    """`poisoned` is a sequence whose hidden states come out as no numbers."""

    poisoned = -1

    def decode(self, batch: Any) -> int:
        self.hidden_rows = np.array([[id, 0.5] for _, _, id, _ in batch.rows], np.float32)
        for at, (seq, *_) in enumerate(batch.rows):
            if seq == self.poisoned:
                self.hidden_rows[at] = np.nan
        return int(super().decode(batch))

    def hidden(self, rows: int) -> NDArray[np.float32]:
        assert rows == len(self.hidden_rows)
        return self.hidden_rows


class Ring:
    """Stages and what is under way between them; `kinds` of loops as in the host."""

    def __init__(
        self,
        stages: int = 2,
        slots: int = 8,
        kv_tokens: int = 4000,
        rows: tuple[int, ...] = (64,),
        wire: str = "fp32",
    ) -> None:
        self.clock = ManualClock()
        self.inboxes: list[deque[bytes]] = [deque() for _ in range(stages)]
        self.said: list[list[FromStage]] = [[] for _ in range(stages)]
        self.loops: list[StageLoop] = []
        self.decoders: list[FakeStageDecoder] = []
        for place in range(stages):
            spec = StageSpec(
                digest=DIGEST, start=place, end=place + 1, layers=stages, stages=stages,
                slots=slots, context=1000, kv_tokens=kv_tokens, wire=wire,  # type: ignore[arg-type]
            )  # fmt: skip
            limits = StageLimits(
                spec=spec, n_embd=WIDTH, n_vocab=fake.VOCABULARY, context=1000, eog=frozenset({0}),
                kv_tokens=kv_tokens, parked_tokens=600, crowded_tokens=300, step_budget_ms=80.0,
                keeps_order=True,
            )  # fmt: skip
            kind = FirstLoop if place == 0 else LastLoop if place == stages - 1 else LaterLoop
            self.decoders.append(FakeStageDecoder(kv_tokens))
            batch = FakeStageBatch(rows[place % len(rows)])
            self.loops.append(
                kind(self.decoders[-1], batch, limits, self._hears(place), self.clock.monotonic_s)
            )

    def _hears(self, place: int) -> Any:
        def hear(message: FromStage) -> None:
            self.said[place].append(message)
            if isinstance(message, Stepped):
                self.inboxes[(place + 1) % len(self.loops)].append(message.frame)

        return hear

    # --- what a coordinator does --------------------------------------------------------------

    def open(self, job: Job, tags: tuple[bytes, ...] = (), capacity: int = 0) -> list[Opened]:
        """Open it everywhere; the answers."""
        size = capacity or len(job.prompt_ids) + job.max_tokens
        stage_job = StageJob(job=job.job, attempt=job.attempt, capacity=size, tags=tags)
        last = len(self.loops) - 1
        for place, loop in enumerate(self.loops):
            loop.tell(Open(ticket=1, job=stage_job, ids=job if place in (0, last) else None))
        return [self.answers(place)[-1] for place in range(len(self.loops))]

    def begin(self, job: Job, tags: tuple[bytes, ...] = ()) -> int:
        """Open and go; how many ids are reused."""
        answers = self.open(job, tags)
        assert not any(answer.code for answer in answers), answers
        reused = min(answer.held for answer in answers)
        self.loops[0].tell(Go(job=job.job, attempt=job.attempt, reused=reused))
        return reused

    def close(self, job: Job, tags: tuple[bytes, ...] = ()) -> None:
        for loop in self.loops:
            loop.tell(Close(job=job.job, attempt=job.attempt, tags=tags))

    def park(self, job: Job) -> None:
        """Close it, and have what was read kept."""
        self.close(job, tags_of((*job.prompt_ids, *self.ids(job.job))))

    # --- the ring -----------------------------------------------------------------------------

    def deliver(self, place: int) -> None:
        self.loops[place].tell(Feed(frame=self.inboxes[place].popleft()))

    def turn(self, place: int) -> bool:
        """Hear all that has come, make one step; False where there was nothing to do."""
        busy = bool(self.inboxes[place])
        while self.inboxes[place]:
            self.deliver(place)
        busy = busy or self.loops[place].ready
        self.loops[place].step()
        return busy

    def run(self, chance: random.Random | None = None) -> None:
        """Until nothing moves; with `chance` the stages and frames move in any order."""
        for _ in range(50_000):
            if chance is None:
                if not any([self.turn(place) for place in range(len(self.loops))]):
                    return
                continue
            movable = [n for n, loop in enumerate(self.loops) if self.inboxes[n] or loop.ready]
            if not movable:
                return
            place = chance.choice(movable)
            if self.inboxes[place] and (not self.loops[place].ready or chance.random() < 0.6):
                self.deliver(place)
            else:
                self.loops[place].step()
        raise AssertionError("the ring does not come to rest")

    # --- what was said ------------------------------------------------------------------------

    def answers(self, place: int) -> list[Opened]:
        return [one for one in self.said[place] if isinstance(one, Opened)]

    def failures(self, place: int) -> list[Failed]:
        return [one for one in self.said[place] if isinstance(one, Failed)]

    def steps(self, place: int, name: str) -> list[Step]:
        told = [one for one in self.said[place] if isinstance(one, Stepped | Reported)]
        return [step for one in told for step in one.steps if step.job == name]

    def ids(self, name: str) -> list[int]:
        return [id for step in self.steps(len(self.loops) - 1, name) for id in step.ids]


def job(name: str, prompt: Iterable[int], tokens: int = 8, **more: Any) -> Job:
    fields: dict[str, Any] = {
        "job": name,
        "attempt": 0,
        "digest": DIGEST,
        "cache_scope": "",
        "prompt_ids": tuple(prompt),
        "max_tokens": tokens,
        "params": SamplerParams(temperature=0.0),
        **more,
    }
    return Job(**fields)


def truth(prompt: Iterable[int], tokens: int) -> list[int]:
    """What a whole model would say."""
    given = list(prompt)
    ids = list(given)
    for _ in range(tokens):
        ids.append(fake.expected_next(ids))
    return ids[len(given) :]
