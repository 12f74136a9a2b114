"""A pipeline on one machine: real stage hosts over slices of a file, wired to each other in memory.

What links and coordinator do between machines is here a call, or a delay; so that a test of the
stages, or of a model's shape, needs neither.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from parhelion.config import EngineConfig
from parhelion.engines.protocol import EngineEvent
from parhelion.engines.stage_protocol import StageTold
from parhelion.engines.stage_supervised import StageHost
from parhelion.models.slices import layout, write_slice
from parhelion.words import TAG_BLOCK_IDS, Job, Problem, ProblemCode, StageJob, StageSpec, Step


def tags_of(ids: Sequence[int], key: bytes = b"test") -> tuple[bytes, ...]:
    """The tags of a prefix as a coordinator makes them: chained, one for each whole block."""
    tags: list[bytes] = []
    last = b""
    for at in range(TAG_BLOCK_IDS, len(ids) + 1, TAG_BLOCK_IDS):
        block = ",".join(map(str, ids[at - TAG_BLOCK_IDS : at])).encode()
        last = hashlib.blake2b(last + block, digest_size=8, key=key).digest()
        tags.append(last)
    return tuple(tags)


class Chain:
    """The stages of one model and what they say; `delay_s` is one hop's."""

    def __init__(self, specs: Sequence[StageSpec], delay_s: float = 0.0) -> None:
        self.specs = tuple(specs)
        self.stages: list[StageHost] = []
        self.events: list[tuple[int, EngineEvent]] = []
        self.failures: list[tuple[int, str, str, str]] = []
        self.steps: list[tuple[int, Step]] = []
        self.hop_bytes = [0] * len(self.specs)
        self._delay_s = delay_s
        self._stepped = asyncio.Event()
        self._inboxes: dict[str, asyncio.Queue[Step | Problem]] = {}

    @classmethod
    async def start(
        cls,
        model: Path,
        cuts: Sequence[int],
        folder: Path,
        *,
        digest: str = "d" * 64,
        config: EngineConfig | None = None,
        delay_s: float = 0.0,
        wire: Literal["fp32", "bf16"] = "fp32",
        **more: Any,
    ) -> Self:
        """Cut `model` at `cuts` (0 and the number of layers included) into `folder`, load it all.

        `more` are further fields of StageSpec: slots (8), context (2048), kv_tokens (8192).
        """
        sizes = {"slots": 8, "context": 2048, "kv_tokens": 8192, **more}
        specs = [
            StageSpec(
                digest=digest,
                start=start,
                end=end,
                layers=cuts[-1],
                stages=len(cuts) - 1,
                wire=wire,
                **sizes,
            )
            for start, end in itertools.pairwise(cuts)
        ]
        chain = cls(specs, delay_s)
        paths = [slice_of(model, spec.start, spec.end, folder) for spec in specs]
        try:
            for place, (path, spec) in enumerate(zip(paths, specs, strict=True)):
                told = chain._told(place)
                chain.stages.append(
                    await StageHost.start(path, spec, config or EngineConfig(threads=1), told)
                )
        except BaseException:
            await chain.stop()
            raise
        return chain

    async def generate(self, job: Job, tags: Sequence[bytes] | None = None) -> list[Step]:
        """All steps of a job, from opening to closing; Problem when a stage has failed it.

        With `tags` a held prefix is used, and what was read is kept for the next one.
        """
        capacity = len(job.prompt_ids) + job.max_tokens
        stage_job = StageJob(
            job=job.job, attempt=job.attempt, capacity=capacity, tags=tuple(tags or ())
        )
        inbox = self._inboxes[job.job] = asyncio.Queue()
        made: list[Step] = []
        try:
            held = await asyncio.gather(
                *(
                    stage.open(stage_job, job if spec.is_first or spec.is_last else None)
                    for stage, spec in zip(self.stages, self.specs, strict=True)
                )
            )
            self.stages[0].go(job.job, job.attempt, min(held))
            while not made or made[-1].finish is None:
                step = await inbox.get()
                if isinstance(step, Problem):
                    raise step
                made.append(step)
            return made
        finally:
            del self._inboxes[job.job]
            ids = job.prompt_ids + job.output_ids + ids_of(made)
            for stage in self.stages:
                stage.close(job.job, job.attempt, tags_of(ids) if tags is not None else ())

    async def made(self, steps: int) -> None:
        """Until so many steps more have been told of."""
        wanted = len(self.steps) + steps
        while len(self.steps) < wanted:
            self._stepped.clear()
            await self._stepped.wait()

    async def stop(self) -> None:
        """End all stages."""
        await asyncio.gather(*(stage.stop() for stage in self.stages))

    def _told(self, place: int) -> StageTold:
        return StageTold(
            on_frame=lambda frame: self._pass_on(place, frame),
            on_steps=lambda steps: self._hear(place, steps),
            on_failed=lambda *failure: self._fail(place, *failure),
            on_event=lambda event: self.events.append((place, event)),
        )

    def _pass_on(self, place: int, frame: bytes) -> None:
        self.hop_bytes[place] += len(frame)
        self._carry(place, frame)

    def _carry(self, place: int, frame: bytes) -> None:
        target = self.stages[(place + 1) % len(self.stages)]
        if self._delay_s:
            asyncio.get_running_loop().call_later(self._delay_s, target.feed, frame)
        else:
            target.feed(frame)

    def _hear(self, place: int, steps: tuple[Step, ...]) -> None:
        for step in steps:
            self.steps.append((place, step))
            self._stepped.set()
            inbox = self._inboxes.get(step.job)
            if inbox is not None:
                inbox.put_nowait(step)

    def _fail(self, place: int, job: str, attempt: int, code: str, message: str) -> None:
        self.failures.append((place, job, code, message))
        inbox = self._inboxes.get(job)
        if inbox is not None:
            inbox.put_nowait(Problem(ProblemCode(code), message))


def ids_of(steps: Sequence[Step]) -> tuple[int, ...]:
    """The output ids of these steps."""
    return tuple(id for step in steps for id in step.ids)


def slice_of(model: Path, start: int, end: int, folder: Path) -> Path:
    """The slice of these layers in `folder`, made once."""
    target = folder / f"{model.stem}.{start}-{end}.gguf"
    if not target.exists():
        write_slice(model, layout(model, start, end), target)
    return target
