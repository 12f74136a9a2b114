"""EchoEngine: an Engine without a model, whose every id depends on everything before it.

The next id is a keyed hash of all prompt ids, all output ids so far, the seed and the position:
one id lost, doubled or changed on the way alters everything after it. The sampler's parameters
are not used.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from parhelion.engines import EngineCard, Mismatch
from parhelion.words import Clock, Job, Problem, ProblemCode, SamplerParams, Step

log = logging.getLogger("parhelion.testing")

HASH_KEY = b"parhelion echo engine"

DEFAULT_CONTEXT = 8192
DEFAULT_DIGEST = "00" * 32


class EchoEngine:
    """Implements `engines.Engine`; `tokens_per_s` is each stream's pace (0: none).

    All streams step at the same moments, as an engine that batches them does. `silent` ids
    (end-of-text and the like) are never output. `sleep` waits in the clock's time.
    """

    def __init__(
        self,
        *,
        slots: int = 16,
        tokens_per_s: float = 0.0,
        n_vocab: int = 49152,
        digest: str = DEFAULT_DIGEST,
        context: int = DEFAULT_CONTEXT,
        silent: frozenset[int] = frozenset(),
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if len(silent) >= n_vocab:
            raise ValueError("a vocabulary needs an id that is not silent")
        self._slots = asyncio.Semaphore(slots)
        self._tokens_per_s = tokens_per_s
        self._silent = silent
        self._monotonic_s = clock.monotonic_s if clock is not None else time.monotonic
        self._sleep = sleep
        self._live: dict[tuple[str, int], asyncio.Event] = {}
        self._stopped = False
        self._card = EngineCard(
            digest=digest,
            backend="echo",
            device="none",
            slots=slots,
            kv_tokens=slots * context,
            context=context,
            n_vocab=n_vocab,
        )

    def describe(self) -> EngineCard:
        """The card made of the constructor's arguments."""
        return self._card

    async def generate(self, job: Job) -> AsyncIterator[Step]:
        """Ids up to `max_tokens`, one a Step; see `engines.Engine.generate`."""
        self._refuse(job)
        key = (job.job, job.attempt)
        log.debug("job", extra={"job": job.job, "attempt": job.attempt})
        cancelled = self._live[key] = asyncio.Event()
        try:
            async with self._slots:
                async for step in self._steps(job, cancelled):
                    yield step
        finally:
            del self._live[key]

    def cancel(self, job: str, attempt: int) -> None:
        """The job's next and last Step has finish "cancelled"."""
        cancelled = self._live.get((job, attempt))
        if cancelled is not None:
            cancelled.set()

    async def score(
        self,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int],
        params: SamplerParams,
        seed: int,
    ) -> tuple[Mismatch, ...]:
        """Every output id that is not the hash of what stands before it."""
        trail = Trail(prompt_ids, seed, self._card.n_vocab, self._silent)
        found: list[Mismatch] = []
        for position, id in enumerate(output_ids):
            expected = trail.next()
            if expected != id:
                found.append(Mismatch(position=position, expected=expected, found=id))
            trail.add(id)
        return tuple(found)

    async def embed(self, ids: Sequence[int]) -> tuple[float, ...]:
        """Refused, as an engine without a model must."""
        raise Problem(ProblemCode.UNSUPPORTED_PARAMETER, "the echo engine makes no embeddings")

    async def stop(self) -> None:
        """End all streams with ENGINE_FAILED, as a host that dies does."""
        self._stopped = True
        for cancelled in self._live.values():
            cancelled.set()

    def _refuse(self, job: Job) -> None:
        size = len(job.prompt_ids) + max(job.max_tokens, len(job.output_ids))
        if self._stopped:
            raise Problem(ProblemCode.ENGINE_FAILED, "the echo engine was stopped")
        if size > self._card.context:
            text = f"{size} tokens do not fit a context of {self._card.context}"
            raise Problem(ProblemCode.CONTEXT_LENGTH_EXCEEDED, text)
        if (job.job, job.attempt) in self._live:
            raise Problem(ProblemCode.CONFLICT, "this attempt is already running")

    async def _steps(self, job: Job, cancelled: asyncio.Event) -> AsyncIterator[Step]:
        trail = Trail(job.prompt_ids, job.seed, self._card.n_vocab, self._silent)
        for id in job.output_ids:
            trail.add(id)
        started_s = self._last_beat_s()
        first = position = len(job.output_ids)
        prefilled = len(job.prompt_ids)

        def step(ids: tuple[int, ...], finish: str | None) -> Step:
            return Step(
                job=job.job,
                attempt=job.attempt,
                start=position,
                ids=ids,
                finish=finish,
                prefilled=prefilled,
            )

        while position < job.max_tokens:
            # Paced from the start, not from the last id, so that delays do not add up.
            await self._pause(started_s, position + 1 - first, cancelled)
            if self._stopped:
                raise Problem(ProblemCode.ENGINE_FAILED, "the echo engine was stopped")
            if cancelled.is_set():
                yield step((), ProblemCode.CANCELLED)
                return
            id = trail.next()
            trail.add(id)
            made = step((id,), "length" if position + 1 == job.max_tokens else None)
            position += 1
            yield made
        if first >= job.max_tokens:
            yield step((), "length")

    def _last_beat_s(self) -> float:
        """The latest moment at which streams stepped: the next one is at most a pace away."""
        now_s = self._monotonic_s()
        return now_s - now_s % (1 / self._tokens_per_s) if self._tokens_per_s > 0 else now_s

    async def _pause(self, started_s: float, made: int, cancelled: asyncio.Event) -> None:
        if self._tokens_per_s <= 0:
            await asyncio.sleep(0)
            return
        due_s = started_s + made / self._tokens_per_s
        wait_s = due_s - self._monotonic_s()
        if wait_s <= 0:
            await asyncio.sleep(0)
            return
        waits = [
            asyncio.ensure_future(self._sleep(wait_s)),
            asyncio.ensure_future(cancelled.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


class Trail:
    """The running hash of prompt, seed and output; `next()` is the id that must follow."""

    def __init__(
        self, prompt_ids: Sequence[int], seed: int, n_vocab: int, silent: frozenset[int]
    ) -> None:
        self._n_vocab = n_vocab
        self._silent = silent
        self._position = 0
        self._hash = hashlib.blake2b(key=HASH_KEY, digest_size=8)
        # The length stands first, so that no id can move between prompt and output unseen.
        self._hash.update(seed.to_bytes(8, "little") + len(prompt_ids).to_bytes(8, "little"))
        self._hash.update(array("q", prompt_ids).tobytes())

    def add(self, id: int) -> None:
        """An output id follows."""
        self._hash.update(id.to_bytes(8, "little"))
        self._position += 1

    def next(self) -> int:
        """The id at the present position, never a silent one."""
        state = self._hash.copy()
        state.update(b"at" + self._position.to_bytes(8, "little"))
        id = int.from_bytes(state.digest(), "little") % self._n_vocab
        while id in self._silent:
            id = (id + 1) % self._n_vocab
        return id
