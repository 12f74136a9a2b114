"""A client that leaves before its first token: owed is what the coordinator knows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from parhelion.identity import NodeKey, operator_account
from parhelion.ledger import TREASURY
from parhelion.words import Problem


async def test_before_prefill_a_leaving_client_pays_nothing(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    await node.job()
    await answer.disconnect()
    assert await pool.free_micro(account) == 1000
    await pool.assert_settled()


async def test_a_strangers_word_of_its_prefill_costs_a_leaving_client_nothing(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    node.prefill(await node.job(), 3)
    await asyncio.sleep(0.01)
    await answer.disconnect()
    assert await pool.free_micro(account) == 1000
    assert await pool.free_micro(operator_account(node.peer)) == 0
    with pytest.raises(Problem):
        await pool.receipts.get(answer.receipt, account)
    await pool.assert_settled()


@pytest.mark.parametrize("role", ["fallback", "own"])
async def test_once_our_own_engine_prefills_a_leaving_client_pays_the_prompt(
    closed_pool: Any, role: str
) -> None:
    pool = closed_pool
    key = NodeKey.load_or_create(pool.folder / "own.key")
    await pool.open(**({"fallback": key.peer} if role == "fallback" else {"own": (key.peer,)}))
    own = pool.fake(key=key)
    await pool.join(own)
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    own.prefill(await own.job())
    await asyncio.sleep(0.01)
    await answer.disconnect()
    assert await pool.free_micro(account) == 997
    # Operators are paid by output, so that of a prompt without any stays in the treasury.
    assert await pool.free_micro(operator_account(key.peer)) == 0
    assert await pool.free_micro(TREASURY) == 3
    receipt = await pool.receipts.get(answer.receipt, account)
    assert (receipt.prompt_tokens, receipt.output_ids, receipt.cost_micro) == (3, 0, "3")
    await pool.assert_settled()


async def test_a_strangers_first_id_proves_its_prefill(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    node.step(await node.job(), [pool.SILENT])
    await asyncio.sleep(0.01)
    await answer.disconnect()
    assert await pool.free_micro(account) == 997
    await pool.assert_settled()


async def test_a_prefill_that_we_lost_is_never_the_clients(closed_pool: Any) -> None:
    pool = closed_pool
    key = NodeKey.load_or_create(pool.folder / "own.key")
    await pool.open(own=(key.peer,))
    first = pool.fake(key=key)
    await pool.join(first)
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    first.prefill(await first.job())
    second = await pool.node()
    first.die()
    await second.job()
    # The second node has not begun when the client leaves.
    await answer.disconnect()
    assert await pool.free_micro(account) == 1000
    await pool.assert_settled()
