"""The parent's side of an engine: a kept host process, whose steps go to each job's reader."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import ClassVar, Self

import msgspec

from parhelion.config import EngineConfig
from parhelion.engines.host_messages import (
    Cancel,
    Coming,
    Failed,
    FromHost,
    Made,
    Ping,
    Pong,
    Run,
    Score,
    Scored,
)
from parhelion.engines.keeper import Keeper
from parhelion.engines.protocol import EngineCard, EngineEvent, Mismatch
from parhelion.engines.steps import Inbox
from parhelion.words import Job, Problem, ProblemCode, SamplerParams, Step


class EngineHost(Keeper):
    """An Engine whose model lives in a child process; see `protocol.Engine`."""

    module: ClassVar[str] = "parhelion.engines.host"

    def __init__(
        self,
        path: Path,
        digest: str,
        config: EngineConfig,
        on_event: Callable[[EngineEvent], None],
        on_coming: Callable[[Coming], None] = lambda _: None,
    ) -> None:
        super().__init__(on_event, msgspec.msgpack.Decoder(FromHost), Ping())
        self._path = path
        self._digest = digest
        self._config = config
        self._on_coming = on_coming
        self._card: EngineCard | None = None
        self._inboxes: dict[tuple[str, int], Inbox] = {}
        self._scores: dict[int, asyncio.Future[tuple[Mismatch, ...]]] = {}
        self._tickets = itertools.count(1)

    @classmethod
    async def start(
        cls,
        path: Path,
        digest: str,
        config: EngineConfig,
        on_event: Callable[[EngineEvent], None],
        on_coming: Callable[[Coming], None] = lambda _: None,
    ) -> Self:
        """Load the model in a new host; Problem ENGINE_FAILED with its last words if it cannot.

        `on_coming` is told how far each start of it is, also of a host that is brought back.
        """
        return await cls(path, digest, config, on_event, on_coming)._begin()

    def describe(self) -> EngineCard:
        """The card the host gave when it was ready."""
        assert self._card is not None, "start() returns only after Ready"
        return self._card

    async def generate(self, job: Job) -> AsyncIterator[Step]:
        """Run `job`; see `protocol.Engine.generate`."""
        size = len(job.prompt_ids) + max(job.max_tokens, len(job.output_ids))
        if size > self.describe().context:
            raise Problem(
                ProblemCode.CONTEXT_LENGTH_EXCEEDED,
                f"{size} tokens do not fit a context of {self.describe().context}",
            )
        await self._await_ready()
        key = (job.job, job.attempt)
        if key in self._inboxes:
            raise Problem(ProblemCode.CONFLICT, "this attempt is already running")
        inbox = self._inboxes[key] = Inbox(job.max_tokens - len(job.output_ids))
        finished = False
        try:
            self._ask(Run(job=job))
            while not finished:
                step = await inbox.next()
                finished = step.finish is not None
                yield step
            self._failures = 0
        finally:
            del self._inboxes[key]
            if not finished and not inbox.failed:
                self._send(Cancel(job=job.job, attempt=job.attempt))

    def cancel(self, job: str, attempt: int) -> None:
        """Tell the host; its last Step for the job has finish "cancelled"."""
        if (job, attempt) in self._inboxes:
            self._send(Cancel(job=job, attempt=attempt))

    async def score(
        self,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int],
        params: SamplerParams,
        seed: int,
    ) -> tuple[Mismatch, ...]:
        """Re-derive every choice in the host; see `protocol.Engine.score`."""
        await self._await_ready()
        ticket = next(self._tickets)
        answer: asyncio.Future[tuple[Mismatch, ...]] = asyncio.get_running_loop().create_future()
        self._scores[ticket] = answer
        try:
            self._ask(
                Score(
                    ticket=ticket,
                    prompt_ids=tuple(prompt_ids),
                    output_ids=tuple(output_ids),
                    params=params,
                    seed=seed,
                )
            )
            return await answer
        finally:
            del self._scores[ticket]

    async def embed(self, ids: Sequence[int]) -> tuple[float, ...]:
        """Refused: the generating context keeps no hidden states."""
        raise Problem(
            ProblemCode.UNSUPPORTED_PARAMETER, f"this engine makes no embeddings ({len(ids)} ids)"
        )

    # --- what the host says -------------------------------------------------------------------

    def _arguments(self) -> tuple[str, ...]:
        return str(self._path), self._digest, msgspec.json.encode(self._config).decode()

    def _is_busy(self) -> bool:
        return bool(self._inboxes or any(not one.done() for one in self._scores.values()))

    def _take(self, message: FromHost) -> None:
        if isinstance(message, Made):
            for step in message.steps:
                inbox = self._inboxes.get((step.job, step.attempt))
                if inbox is not None:
                    # A host that makes too much is broken: what this raises ends it.
                    inbox.put(step)
        elif isinstance(message, Failed):
            inbox = self._inboxes.get((message.job, message.attempt))
            if inbox is not None:
                inbox.fail(Problem(ProblemCode(message.code), message.message))
        elif isinstance(message, Scored):
            self._on_scored(message)
        elif isinstance(message, Coming):
            self._on_coming(message)
        elif not isinstance(message, Pong):
            self._card = message.card
            self._ready.set()

    def _on_scored(self, message: Scored) -> None:
        answer = self._scores.get(message.ticket)
        if answer is None or answer.done():
            return
        if message.code:
            answer.set_exception(Problem(ProblemCode(message.code), message.message))
        else:
            answer.set_result(message.mismatches)

    def _fail_waiting(self, problem: Problem) -> None:
        for inbox in self._inboxes.values():
            inbox.fail(problem)
        for answer in self._scores.values():
            if not answer.done():
                answer.set_exception(problem)
