"""More prompts at once than the credits are good for: exactly the paid ones are served."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import aiohttp
import pytest

from parhelion.testing.processes import Running

PROMPTS = 50
MAX_TOKENS = 25
RATE_MICRO_PER_TOKEN = 4


class Purse:
    """An account with credits for exactly `prompts`, and a key to it."""

    def __init__(self, pool: Running, cost_micro: int) -> None:
        self._pool = pool
        self.cost_micro = cost_micro
        self.secret = ""
        self.account = ""

    async def fill(self, admin: str, prompts: int, limit: int | None = None) -> None:
        """A new account and key; the key's spending limit is good for `limit` prompts."""
        body: dict[str, Any] = {"name": "purse", "grant": str(prompts * self.cost_micro)}
        if limit is not None:
            body["limit"] = str(limit * self.cost_micro)
        status, _headers, made = await asyncio.to_thread(
            self._pool.call, "POST", "/v1/keys", body, key=admin
        )
        assert status == 201, made
        self.secret, self.account = made["secret"], made["account"]

    async def spend(self, prompt: str) -> list[tuple[int, Any]]:
        """All prompts at once; status and body of each. The balance is watched meanwhile."""
        headers = {"authorization": f"Bearer {self.secret}"}
        body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": MAX_TOKENS}
        async with aiohttp.ClientSession(
            self._pool.api, connector=aiohttp.TCPConnector(limit=0), headers=headers
        ) as session:

            async def one() -> tuple[int, Any]:
                async with session.post("/v1/chat/completions", json=body) as answer:
                    return answer.status, await answer.json()

            watching = asyncio.create_task(watch(session))
            answers = await asyncio.gather(*(one() for _ in range(PROMPTS)))
            watching.cancel()
            await asyncio.wait([watching])
        if not watching.cancelled():
            watching.result()
        return answers


async def watch(session: aiohttp.ClientSession) -> None:
    """Look at the balance again and again: it is never below zero, whatever runs."""
    while True:
        async with session.get("/v1/credits/balance") as answer:
            body = await answer.json()
        assert int(body["available"]) >= 0 and int(body["held"]) >= 0, body
        # The rate limit counts these looks too.
        await asyncio.sleep(0.01)


async def balance(pool: Running, key: str) -> tuple[int, int]:
    _s, _h, body = await asyncio.to_thread(pool.call, "GET", "/v1/credits/balance", key=key)
    return int(body["available"]), int(body["held"])


@pytest.fixture
def purse(pools: Any, tongue: Any) -> Purse:
    """An empty purse in a running pool; a prompt costs its tokens and all its `max_tokens`."""
    cost_micro = (len(tongue.prompt_ids) + MAX_TOKENS) * RATE_MICRO_PER_TOKEN
    return Purse(pools.start(), cost_micro)


def check_answers(purse: Purse, answers: list[tuple[int, Any]], served: int, code: str) -> None:
    """`served` whole answers that used all their tokens; every other a 402 with this code."""
    assert Counter(status for status, _body in answers) == {200: served, 402: PROMPTS - served}
    for status, body in answers:
        if status == 200:
            assert body["usage"]["completion_tokens"] == MAX_TOKENS
            assert body["usage"]["cost"] == str(purse.cost_micro)
            assert body["choices"][0]["finish_reason"] == "length"
        else:
            assert body["error"]["code"] == code
            assert body["error"]["hint"]


async def check_books(pools: Any, purse: Purse, granted: int, served: int) -> None:
    """Exact, nothing open, and at no moment of the history is less than nothing there."""
    books = pools.books()
    assert await books.ledger.audit() == ()
    assert await books.ledger.open_holds() == ()
    costs = books.rows("SELECT state, cost_micro FROM holds WHERE account = ?", purse.account)
    assert list(costs) == [("posted", purse.cost_micro)] * served
    entries = await books.ledger.history(purse.account, limit=1000)
    left = 0
    for entry in reversed(entries):
        left += entry.amount_micro if entry.kind != "charge" else 0
        assert left >= 0
    assert left == (granted - served) * purse.cost_micro
    books.close()


async def test_fifty_prompts_on_a_balance_for_ten_serve_exactly_ten(
    pools: Any, purse: Purse, joined: Any, tongue: Any
) -> None:
    pool = pools.running[-1]
    # A pace: so all fifty are inside before the first is done.
    async with joined(pool.api, tokens_per_s=50, slots=PROMPTS):
        await purse.fill(pools.admin_key, 10)
        answers = await purse.spend(tongue.prompt)
        check_answers(purse, answers, 10, "insufficient_credit")
        assert await balance(pool, purse.secret) == (0, 0)
        # What is left is exactly nothing: one more is refused too.
        assert {status for status, _body in await purse.spend(tongue.prompt)} == {402}
    await check_books(pools, purse, 10, 10)


async def test_a_keys_spending_limit_for_three_serves_exactly_three(
    pools: Any, purse: Purse, joined: Any, tongue: Any
) -> None:
    pool = pools.running[-1]
    async with joined(pool.api, tokens_per_s=50, slots=PROMPTS):
        await purse.fill(pools.admin_key, 10, limit=3)
        answers = await purse.spend(tongue.prompt)
        check_answers(purse, answers, 3, "key_limit_reached")
        assert await balance(pool, purse.secret) == (0, 0), "nothing is left of the key's part"
    await check_books(pools, purse, 10, 3)
