"""`provider` on real requests: queue and migration keep to it, and refusals cost nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from parhelion.link import Open
from parhelion.words import MaxPrice, Problem, ProblemCode, ProviderPreferences


def wants(**said: Any) -> dict[str, ProviderPreferences]:
    return {"provider": ProviderPreferences(**said)}


async def refused(pool: Any, secret: str, **fields: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        await pool.serve(secret, **fields)
    return caught.value


async def untouched(pool: Any, account: str, credits_micro: int) -> bool:
    """No hold was ever taken: nothing in the history but the grant."""
    await pool.settled()
    kinds = {entry.kind for entry in await pool.ledger.history(account, limit=50)}
    return kinds == {"grant"} and await pool.free_micro(account) == credits_micro


async def test_only_the_named_node_gets_it_by_name_peer_or_operator(pool: Any) -> None:
    _other, wanted = await pool.node(), await pool.node(name="rig")
    wanted.script = pool.answering(pool.A)
    _account, secret = await pool.user(10_000)
    for name in (wanted.peer, "rig", f"node:{wanted.peer}"):
        for _ in range(3):
            answer = await pool.serve(secret, **wants(only=(name,)))
            assert (await pool.read(answer))[1].usage.nodes == (wanted.peer,)
    assert not _other.said(Open)
    await pool.assert_settled()


async def test_an_unknown_name_is_400_and_costs_nothing(pool: Any) -> None:
    await pool.node()
    account, secret = await pool.user(1000)
    problem = await refused(pool, secret, **wants(order=("azure",)))
    assert (problem.code, problem.param) == (ProblemCode.INVALID_REQUEST, "provider.order")
    assert "'azure'" in problem.message
    assert await untouched(pool, account, 1000)


async def test_who_may_not_ask_hears_that_and_not_which_names_there_are(pool: Any) -> None:
    await pool.node()
    problem = await refused(pool, None, **wants(order=("azure",)))
    assert problem.code == ProblemCode.MISSING_CREDENTIALS


async def test_a_node_that_was_here_is_away_and_not_unknown(pool: Any) -> None:
    gone = await pool.node(name="rig")
    await pool.node()
    _account, secret = await pool.user(1000)
    gone.die()
    await asyncio.wait_for(gone.task, 5)
    problem = await refused(pool, secret, **wants(only=("rig",)))
    assert problem.code == ProblemCode.NO_NODE and problem.retry_after_s
    assert "your provider object allows" in problem.message


async def test_the_queue_waits_for_the_named_node_beside_a_free_one(pool: Any) -> None:
    other, wanted = await pool.node(), await pool.node(slots=1)
    _account, secret = await pool.user(10_000)
    first = await pool.serve(secret, **wants(only=(wanted.peer,)))
    waiting = asyncio.create_task(pool.serve(secret, **wants(only=(wanted.peer,))))
    await asyncio.sleep(0.05)
    assert pool.coordinator.places.waiting == 1 and not other.said(Open)
    # It bars nobody from the other node.
    other.script = pool.answering(pool.B)
    passing = await pool.serve(secret)
    assert (await pool.read(passing))[1].usage.nodes == (other.peer,)
    wanted.finish(await wanted.job(), [pool.A] * 4)
    await pool.read(first)
    second = await waiting
    wanted.finish(await wanted.job(1), [pool.A] * 4)
    assert (await pool.read(second))[1].usage.nodes == (wanted.peer,)
    await pool.assert_settled()


async def test_a_migrated_stream_stays_inside_only(pool: Any, quick_signatures: None) -> None:
    stranger, first, second = await pool.node(), await pool.node(), await pool.node()
    second.script = pool.answering(pool.B)
    first.signs = False
    _account, secret = await pool.user(10_000)
    names = wants(only=(first.peer, second.peer), order=(first.peer,))
    answer = await pool.serve(secret, **names)
    first.step(await first.job(), [pool.A])
    first.die()
    text, last = await pool.read(answer)
    assert text == "abbb" and last.usage.nodes == (first.peer, second.peer)
    assert not stranger.said(Open)
    await pool.assert_settled()


async def test_without_fallbacks_a_stream_ends_rather_than_leave_the_list(
    pool: Any, quick_signatures: None
) -> None:
    stranger, first = await pool.node(), await pool.node()
    first.signs = False
    _account, secret = await pool.user(10_000)
    answer = await pool.serve(secret, **wants(order=(first.peer,), allow_fallbacks=False))
    first.step(await first.job(), [pool.A])
    first.die()
    with pytest.raises(Problem) as caught:
        await pool.read(answer)
    assert caught.value.code == ProblemCode.NODE_LOST
    assert not stranger.said(Open)
    await pool.assert_settled()


async def test_with_fallbacks_the_others_follow_the_list(pool: Any, quick_signatures: None) -> None:
    other, first = await pool.node(), await pool.node()
    first.signs = False
    other.script = pool.answering(pool.B)
    _account, secret = await pool.user(10_000)
    answer = await pool.serve(secret, **wants(order=(first.peer,)))
    first.step(await first.job(), [pool.A])
    first.die()
    assert (await pool.read(answer))[0] == "abbb"
    await pool.assert_settled()


async def test_a_model_above_the_clients_price_is_refused_before_any_charge(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(10_000)
    limit = MaxPrice(prompt_micro=1_000_000, completion_micro=1_999_999)
    problem = await refused(pool, secret, **wants(max_price=limit))
    assert problem.code == ProblemCode.INVALID_REQUEST
    assert problem.param == "provider.max_price.completion"
    assert "2.000000 PRLX.local" in problem.message and "1.999999 PRLX.local" in problem.message
    assert await untouched(pool, account, 10_000) and not node.said(Open)
    node.script = pool.answering(pool.A)
    exact = MaxPrice(prompt_micro=1_000_000, completion_micro=2_000_000)
    await pool.read(await pool.serve(secret, **wants(max_price=exact)))


async def test_a_request_too_large_for_every_node_is_refused_before_any_charge(pool: Any) -> None:
    small, large = await pool.node(kv_tokens=6), await pool.node(kv_tokens=20)
    large.script = pool.answering(pool.A)
    account, secret = await pool.user(1000)
    problem = await refused(pool, secret, max_tokens=18)
    assert problem.code == ProblemCode.NO_NODE and "the largest holds 20" in problem.message
    assert await untouched(pool, account, 1000)
    # Too large for those that its client allows is the same.
    problem = await refused(pool, secret, max_tokens=4, **wants(only=(small.peer,)))
    assert problem.code == ProblemCode.NO_NODE and "the largest holds 6" in problem.message
    assert await untouched(pool, account, 1000)
    # What nobody named is made to fit them.
    answer = await pool.serve(secret, max_tokens=None, **wants(ignore=(small.peer,)))
    assert (await pool.read(answer))[1].usage.completion_tokens == 17


async def test_a_known_model_without_a_node_is_refused_before_any_charge(pool: Any) -> None:
    account, secret = await pool.user(1000)
    problem = await refused(pool, secret)
    assert problem.code == ProblemCode.NO_NODE and problem.retry_after_s
    assert await untouched(pool, account, 1000)
