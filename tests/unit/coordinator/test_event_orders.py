"""Whatever happens in whatever order, every hold ends in exactly one post or void."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parhelion.link import Cut
from parhelion.words import Problem

EVENTS = (
    "serve", "serve", "serve", "prefill", "step", "step", "step", "finish", "fail", "die", "join",
    "read", "read", "leave", "cancel", "stop_string", "lie", "pause",
)  # fmt: skip


class Story:
    """A run of events against one pool; who does what is drawn from `dice`."""

    def __init__(self, pool: Any, secret: str, dice: random.Random) -> None:
        self.pool, self.secret, self.dice = pool, secret, dice
        self.serving: list[asyncio.Task[Any]] = []
        self.reading: list[asyncio.Task[Any]] = []
        self.answers: list[Any] = []

    async def tell(self, event: str) -> None:
        await getattr(self, event)()
        for _ in range(self.dice.randrange(4)):
            await asyncio.sleep(0)
        for task in self.serving:
            if task.done() and not task.cancelled() and task.exception() is None:
                self.answers.append(task.result())
        self.serving = [task for task in self.serving if not task.done()]

    async def serve(self) -> None:
        fields = {"max_tokens": self.dice.randrange(1, 7), "stop": ("bc",), "deadline_s": 0.2}
        if self.dice.random() < 0.3:
            fields |= {"idempotency_key": self.dice.choice("xy"), "body_hash": "h"}
        self.serving.append(asyncio.create_task(self.pool.serve(self.secret, **fields)))

    async def prefill(self) -> None:
        for node, job in self.some_job():
            node.prefill(job)

    async def step(self) -> None:
        for node, job in self.some_job():
            room = job.max_tokens - len(node.made[job.job])
            ids = [self.pool.A, self.pool.B, self.pool.SILENT][: self.dice.randrange(1, 4)]
            if len(ids) < room:
                node.step(job, ids)

    async def stop_string(self) -> None:
        for node, job in self.some_job():
            if job.max_tokens - len(node.made[job.job]) > 3:
                node.step(job, [self.pool.B, self.pool.C, self.pool.A])

    async def finish(self) -> None:
        for node, job in self.some_job():
            room = job.max_tokens - len(node.made[job.job])
            if room > 0:
                node.finish(job, [self.pool.A] * room)

    async def fail(self) -> None:
        for node, job in self.some_job():
            node.fail(
                job, self.dice.choice(["engine_failed", "draining", "overloaded", "nonsense"])
            )

    async def lie(self) -> None:
        for node, job in self.some_job():
            if self.dice.random() < 0.3:
                node.made[job.job].append(self.pool.A)
                node.step(job, [self.pool.A])

    async def die(self) -> None:
        if len(self.pool.fakes) > 1 and self.dice.random() < 0.5:
            self.dice.choice(self.pool.fakes).die()

    async def join(self) -> None:
        if len(self.pool.fakes) < 5:
            (await self.pool.node(slots=self.dice.randrange(1, 4))).signs = self.dice.random() < 0.7

    async def read(self) -> None:
        if self.answers:
            answer = self.dice.choice(self.answers)
            self.reading.append(asyncio.create_task(self.one_chunk(answer)))

    async def leave(self) -> None:
        if self.answers:
            answer = self.answers.pop(self.dice.randrange(len(self.answers)))
            self.reading.append(asyncio.create_task(answer.disconnect()))

    async def cancel(self) -> None:
        if self.serving:
            self.dice.choice(self.serving).cancel()

    async def pause(self) -> None:
        await asyncio.sleep(self.dice.random() / 100)

    @staticmethod
    async def one_chunk(answer: Any) -> None:
        try:
            async with asyncio.timeout(0.05):
                await anext(answer)
        except (Problem, TimeoutError, StopAsyncIteration):
            pass

    def some_job(self) -> list[tuple[Any, Any]]:
        open_jobs = [
            (node, job)
            for node in self.pool.fakes
            for job in node.jobs.values()
            if job.job not in {cut.job for cut in node.said(Cut)}
        ]
        return [self.dice.choice(open_jobs)] if open_jobs else []

    async def end(self) -> None:
        """All clients but one leave, all nodes die, and everything comes to rest."""
        for task in self.serving:
            task.cancel()
        for answer in self.answers[1:]:
            self.reading.append(asyncio.create_task(answer.disconnect()))
        await asyncio.sleep(0)
        for node in self.pool.fakes:
            node.die()
        await asyncio.gather(*self.serving, *self.reading, return_exceptions=True)
        await self.pool.assert_settled()


async def play(make: Any, folder: Path, events: list[str], seed: int) -> None:
    pool = make(folder)
    await pool.open()
    try:
        account, secret = await pool.user(500)
        await pool.node(slots=2)
        story = Story(pool, secret, random.Random(seed))
        for event in events:
            await story.tell(event)
        await story.end()
        balance = await pool.ledger.balance(account, pool.ASSET)
        assert balance.held_micro == 0
        entries = await pool.ledger.history(account, limit=1000)
        assert balance.available_micro == 500 + sum(
            entry.amount_micro for entry in entries if entry.kind == "charge"
        )
        for entry in entries:
            if entry.kind == "charge":
                # What was charged has a receipt that says the same.
                id = entry.request.replace("req_", "rcpt_")
                receipt = await pool.receipts.get(id, account)
                assert int(receipt.cost_micro) == -entry.amount_micro
    finally:
        await pool.close()


@given(st.lists(st.sampled_from(EVENTS), min_size=5, max_size=60), st.integers(0, 2**32))
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_order_of_events_leaks_a_hold_or_breaks_the_books(
    pool_class: Any, quick_signatures: None, events: list[str], seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(pool_class, Path(folder), events, seed))
