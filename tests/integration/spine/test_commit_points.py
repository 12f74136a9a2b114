"""kill -9 at every commit point of a request: after the restart the books are exact."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from parhelion.bootstrap import SystemClock
from parhelion.bootstrap.ground import MIGRATIONS
from parhelion.proof import verify
from parhelion.store import Store
from parhelion.testing.processes import Running
from parhelion.words import AssetClass, kin

MAX_TOKENS = 40
TOKENS_PER_S = 60
"""The answer takes 0.7 s, so the journal (every 250 ms) is written more than once."""

RATE_MICRO_PER_TOKEN = 4
GRANTED_MICRO = 10_000_000
UNITS_LIMIT = 12
"""Far more commits than one request makes: a loop that gets here does not end."""

DIES_WITHIN_S = 10.0

pytestmark = pytest.mark.timeout(300)


@dataclass
class Heard:
    """What a client got before the answer ended or the connection broke."""

    status: int | None = None
    text: str = ""
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


@dataclass
class Cut:
    """A request whose pool was killed at its commit `number` (or not: there were fewer).

    More `units` may be counted than that: a journal line and the post may be on their way at once.
    """

    number: int
    died: bool
    units: list[str]
    heard: Heard
    request: str | None
    seed: int | None
    name: str
    received: int = field(default=0)


class Client:
    """Sends the one prompt under an Idempotency-Key, and reads whatever comes."""

    def __init__(self, pool: Running, prompt: str) -> None:
        self._pool = pool
        # No seed: after a crash it must be the first run's, which only the pool knows.
        self._body = {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": MAX_TOKENS,
            "stream": True,
        }

    async def ask(self, name: str) -> Heard:
        heard = Heard()
        headers = {"authorization": f"Bearer {self._pool.key}", "idempotency-key": name}
        timeout = aiohttp.ClientTimeout(total=30)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(
                    f"{self._pool.api}/v1/chat/completions", json=self._body, headers=headers
                ) as answer,
            ):
                heard.status = answer.status
                if answer.status != 200:
                    heard.error = (await answer.json())["error"]
                    return heard
                async for line in answer.content:
                    _hear(heard, line)
        except aiohttp.ClientError:
            assert heard.usage is None
        return heard


def _hear(heard: Heard, line: bytes) -> None:
    if not line.startswith(b"data: {"):
        return
    event = json.loads(line.removeprefix(b"data: "))
    heard.error = event.get("error", heard.error)
    for choice in event.get("choices", ()):
        heard.text += choice["delta"].get("content") or ""
    heard.usage = event.get("usage") or heard.usage


class Trial:
    """One data folder, killed again and again; `spent_micro` is what every request may have cost.

    `cut` kills one request's pool; `again` starts the pool as shipped and sends the request anew.
    """

    def __init__(self, pools: Any, joined: Any, tongue: Any) -> None:
        self.pools = pools
        self._joined = joined
        self._tongue = tongue
        self.full_micro = (len(tongue.prompt_ids) + MAX_TOKENS) * RATE_MICRO_PER_TOKEN

    async def cut(self, point: str, number: int, name: str) -> Cut:
        """Send one request to a pool that dies at its commit `number`."""
        pool = await asyncio.to_thread(self.pools.start_mortal, point, number)
        async with self._joined(pool.api, tokens_per_s=TOKENS_PER_S):
            self.pools.arm(True)
            heard = await Client(pool, self._tongue.prompt).ask(name)
            self.pools.arm(False)
            died = heard.usage is None
            if died:
                assert await asyncio.to_thread(pool.process.wait, DIES_WITHIN_S) == -9
            else:
                await asyncio.to_thread(pool.kill)
        cut = Cut(number, died, self.pools.units(), heard, *self._claimed(name), name)
        if cut.seed is not None:
            cut.received = self._tongue.count(heard.text, cut.seed, MAX_TOKENS)
        return cut

    def _claimed(self, name: str) -> tuple[str | None, int | None]:
        books = self.pools.books()
        rows = books.rows("SELECT request, seed FROM idempotency WHERE key = ?", name)
        books.close()
        return (rows[0][0], int(rows[0][1])) if rows else (None, None)

    async def again(self, cuts: list[Cut]) -> None:
        """After a restart: what the cuts cost is right, and the same key can be sent again."""
        pool = await asyncio.to_thread(self.pools.start)
        async with self._joined(pool.api):
            await self._check_books(pool)
            costs = [await self._check_cost(cut) for cut in cuts]
            most = max(cut.received for cut in cuts)
            assert sum(costs) <= (len(self._tongue.prompt_ids) + most) * RATE_MICRO_PER_TOKEN
            client = Client(pool, self._tongue.prompt)
            heard = await client.ask(cuts[-1].name)
            if heard.status == 409:
                await self._check_finished(pool, cuts[-1], heard)
            else:
                self._check_rerun(cuts, sum(costs), heard)
                await self._check_replay(client, pool, cuts[-1].name, heard)
            await self._check_books(pool)
            await asyncio.to_thread(pool.kill)

    async def _check_cost(self, cut: Cut) -> int:
        """The cost of a cut run: never more than what its client received."""
        if cut.request is None:
            # Killed before the hold was durable: it never was.
            assert cut.heard.text == ""
            return 0
        books = self.pools.books()
        told = await books.ledger.explain(cut.request)
        books.close()
        prompt = len(self._tongue.prompt_ids) if told.prompt_tokens else 0
        received_micro = (prompt + cut.received) * RATE_MICRO_PER_TOKEN if cut.received else 0
        assert told.cost_micro <= received_micro
        assert told.hold.state in {"posted", "voided"}
        assert told.returned_micro == told.hold.amount_micro - told.cost_micro
        paid = sum(leg.amount_micro for leg in told.transfers)
        assert paid == told.cost_micro
        if any("journal" in unit for unit in cut.units[: max(0, cut.number - 2)]):
            assert told.cost_micro > 0, "what was journalled is billed"
        return told.cost_micro

    def _check_rerun(self, cuts: list[Cut], before_micro: int, heard: Heard) -> None:
        assert heard.status == 200 and heard.error is None, heard
        assert heard.usage is not None
        assert int(heard.usage["cost"]) == self.full_micro - before_micro, "billed once in all"
        assert heard.usage["completion_tokens"] == MAX_TOKENS
        for cut in cuts:
            assert heard.text.startswith(cut.heard.text), "a cut run goes on with its seed"

    async def _check_replay(self, client: Client, pool: Running, name: str, first: Heard) -> None:
        """Sent a third time, the finished answer is told again and costs nothing."""
        before = await self._available(pool)
        third = await client.ask(name)
        assert (third.status, third.text) == (200, first.text)
        assert await self._available(pool) == before

    async def _check_finished(self, pool: Running, cut: Cut, heard: Heard) -> None:
        """It was posted, only nobody had been told: the client is shown its receipt."""
        assert cut.request is not None and heard.error is not None
        assert any(unit.startswith("post") for unit in cut.units)
        assert cut.received == MAX_TOKENS
        assert heard.error["code"] == "idempotency_finished"
        receipt = kin("rcpt", cut.request)
        assert receipt in heard.error["message"]
        status, _headers, body = await asyncio.to_thread(
            pool.call, "GET", f"/v1/receipts/{receipt}"
        )
        assert status == 200 and body["completion_tokens"] == MAX_TOKENS

    async def _available(self, pool: Running) -> int:
        _s, _h, body = await asyncio.to_thread(pool.call, "GET", "/v1/credits/balance")
        assert body["held"] == "0"
        return int(body["available"])

    async def _check_books(self, pool: Running) -> None:
        """Exact, nothing held, the balance is its history's sum, receipts are those of posts."""
        available_micro = await self._available(pool)
        books = self.pools.books()
        assert await books.ledger.audit() == ()
        assert await books.ledger.open_holds() == ()
        holds = books.rows("SELECT id, state, cost_micro, reason, key FROM holds")
        spent_micro = sum(row[2] for row in holds)
        assert available_micro == GRANTED_MICRO - spent_micro
        (account,) = {row[0] for row in books.rows("SELECT account FROM keys")}
        entries = await books.ledger.history(account, limit=1000)
        owned = sum(entry.amount_micro for entry in entries if entry.kind in {"grant", "charge"})
        moved = sum(entry.amount_micro for entry in entries if entry.kind != "charge")
        assert owned == moved == available_micro, "the history explains the balance"
        assert books.rows("SELECT reserved_micro, spent_micro FROM keys") == [(0, spent_micro)]
        self._check_receipts(books, holds)
        books.close()

    def _check_receipts(self, books: Any, holds: list[Any]) -> None:
        """One for each post that this pool's life saw to its end, none for any other."""
        finished = {row[0]: row[2] for row in holds if row[1] == "posted" and row[3] != "restart"}
        bodies = {id: body for id, body in books.rows("SELECT id, body FROM receipts")}
        assert {kin("hold", id) for id in bodies} == set(finished)
        for id, body in bodies.items():
            assert not [c for c in verify(body.encode()) if c.state == "failed"]
            assert json.loads(body)["cost_micro"] == str(finished[kin("hold", id)])


@pytest.fixture
def trial(pools: Any, joined: Any, tongue: Any) -> Trial:
    return Trial(pools, joined, tongue)


async def chain_holds(data: Path) -> None:
    """The chain of commits went on over all the kills."""
    store = await Store.open(data / "parhelion.db", MIGRATIONS, AssetClass.LOCAL, SystemClock())
    assert await store.verify_chain() == ()
    await store.close()


def covers_a_whole_request(units: list[str]) -> None:
    """From the hold over journal lines to the post."""
    assert "hold" in units[0] and "post" in units[-1], units
    assert len([unit for unit in units if "journal" in unit]) >= 2, units


@pytest.mark.slow
@pytest.mark.parametrize("point", ["before", "after"])
async def test_killed_at_every_commit_of_a_request_the_books_are_exact(
    trial: Trial, point: str
) -> None:
    units: list[str] = []
    for number in itertools.count(1):
        assert number < UNITS_LIMIT
        cut = await trial.cut(point, number, f"{point}-{number}")
        if not cut.died:
            break
        units.append(cut.units[number - 1])
        await trial.again([cut])
    covers_a_whole_request(units)
    await chain_holds(trial.pools.data)


@pytest.mark.slow
async def test_a_run_that_goes_on_after_a_cut_may_be_cut_at_every_commit_too(
    trial: Trial,
) -> None:
    units: list[str] = []
    for number in itertools.count(1):
        assert number < UNITS_LIMIT
        # Unit 2 is the first journal line: something was billed, and the next run goes on there.
        first = await trial.cut("after", 2, f"twice-{number}")
        assert first.died
        second = await trial.cut("after", number, first.name)
        if not second.died:
            break
        units.append(second.units[number - 1])
        await trial.again([first, second])
    covers_a_whole_request(units)
    await chain_holds(trial.pools.data)
