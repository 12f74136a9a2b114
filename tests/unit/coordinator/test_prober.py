"""Strangers get paid work when their ids agree with the pool's own engine's, and not before."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from parhelion.coordinator import prober
from parhelion.identity import NodeKey
from parhelion.link import Open, Standing
from parhelion.words import Problem, ProblemCode, SamplerParams

PROMPT = (2, 3, 4)
GREEDY = SamplerParams(temperature=0.0)


def model(ids: tuple[int, ...], salt: bytes = b"") -> int:
    """The greedy next id of a model: a hash of all ids before it."""
    return 2 + hashlib.blake2b(bytes(ids) + salt, digest_size=1).digest()[0] % 10


def engine(next_id: Callable[[tuple[int, ...], int], int]) -> Callable[[Any, Any], None]:
    """A script that answers every job at once with this engine's ids."""

    def answer(node: Any, job: Any) -> None:
        ids = list(job.prompt_ids + job.output_ids)
        made = []
        while len(job.output_ids) + len(made) < job.max_tokens:
            made.append(next_id(tuple(ids), len(ids)))
            ids.append(made[-1])
        node.finish(job, made)

    return answer


HONEST = engine(lambda ids, _at: model(ids))
OTHER_MODEL = engine(lambda ids, _at: model(ids, b"other"))
CUT_CONTEXT = engine(lambda ids, _at: model(ids[-4:]))
NOISE = engine(lambda _ids, at: 2 + at % 10)
OTHER_ROUNDING = engine(lambda ids, at: model(ids) if at % 23 else 2)
"""An honest node of another build: now and then a tie falls the other way."""


@pytest.fixture
async def pool(closed_pool: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """A pool with a fallback of its own to compare with."""
    monkeypatch.setattr(prober, "LOOK_S", 0.005)
    key = NodeKey.load_or_create(closed_pool.folder / "own.key")
    await closed_pool.open(fallback=key.peer, probe=True)
    own = closed_pool.fake(key=key)
    own.script = HONEST
    await closed_pool.join(own)
    closed_pool.own = own
    yield closed_pool


async def settle(pool: Any, node: Any, *states: str) -> Any:
    """The node's view once it is in one of these states."""
    async with asyncio.timeout(5):
        while True:
            views = {view.peer: view for view in pool.coordinator.nodes()}
            if node.peer in views and views[node.peer].state in states:
                return views[node.peer]
            await asyncio.sleep(0.005)


async def joined(pool: Any, script: Callable[[Any, Any], None], **card: Any) -> Any:
    node = pool.fake()
    node.script = script
    await pool.join(node, **card)
    return node


async def test_an_honest_node_is_measured_first_and_then_serves(pool: Any) -> None:
    node = await joined(pool, HONEST)
    await settle(pool, node, "ready")
    _account, secret = await pool.user(1000)
    _text, last = await pool.read(await pool.serve(secret, params=GREEDY))
    assert (last.usage.route, last.usage.nodes) == ("pool", (node.peer,))
    assert node.said(Standing)[-1].paid_work
    await pool.assert_settled()


@pytest.mark.parametrize("lie", [OTHER_MODEL, CUT_CONTEXT, NOISE])
async def test_who_serves_something_else_gets_no_paid_work_and_is_told_why(
    pool: Any, lie: Callable[[Any, Any], None]
) -> None:
    node = await joined(pool, lie)
    view = await settle(pool, node, "refused")
    assert "greedy ids differ from the coordinator's own engine" in view.reason
    told = node.said(Standing)[-1]
    assert not told.paid_work and told.reason == view.reason
    _account, secret = await pool.user(1000)
    for _ in range(3):
        _text, last = await pool.read(await pool.serve(secret))
        assert last.usage.route == "fallback"
    assert all(len(job.prompt_ids) > len(PROMPT) for job in node.jobs.values()), "probes alone"
    await pool.assert_settled()


async def test_an_honest_node_of_another_build_is_not_punished(pool: Any) -> None:
    node = await joined(pool, OTHER_ROUNDING, backend="another build")
    await settle(pool, node, "ready")
    trial = pool.coordinator.prober._trials[node.peer, pool.DIGEST]
    assert trial.probes <= 4
    await pool.assert_settled()


async def test_nobody_is_served_by_a_node_that_is_still_being_measured(pool: Any) -> None:
    node = await joined(pool, lambda _node, _job: None)
    view = await settle(pool, node, "measuring")
    assert view.reason
    _account, secret = await pool.user(1000)
    _text, last = await pool.read(await pool.serve(secret))
    assert last.usage.route == "fallback"
    await pool.settled()
    assert await pool.ledger.open_holds() == ()


async def test_a_node_that_turns_is_found_at_the_next_probe_and_one_that_mends_is_back(
    pool: Any,
) -> None:
    node = await joined(pool, HONEST)
    await settle(pool, node, "ready")
    node.script = NOISE
    pool.clock.s += 2 * prober.AGAIN_S
    for one in (node, pool.own):
        one.beat()
    await settle(pool, node, "refused")
    node.script = HONEST
    pool.clock.s += 2 * prober.AGAIN_S
    for one in (node, pool.own):
        one.beat()
    await settle(pool, node, "ready")
    await pool.assert_settled()


async def test_without_an_engine_of_its_own_a_pool_sends_no_probes(closed_pool: Any) -> None:
    pool = closed_pool
    await pool.open(probe=True)
    node = await joined(pool, NOISE)
    await settle(pool, node, "ready")
    await asyncio.sleep(0.05)
    assert node.said(Open) == []


async def test_a_stranger_is_not_let_off_by_joining_again(pool: Any) -> None:
    node = await joined(pool, NOISE)
    await settle(pool, node, "refused")
    node.die()
    again = pool.fake(key=node.key)
    again.script = NOISE
    await pool.join(again)
    view = await settle(pool, again, "measuring", "refused")
    assert view.state in {"measuring", "refused"}
    await settle(pool, again, "refused")
    _account, secret = await pool.user(1000)
    with pytest.raises(Problem) as caught:
        pool.own.die()
        await asyncio.sleep(0.02)
        await pool.serve(secret)
    assert caught.value.code == ProblemCode.NO_NODE


async def test_an_own_engine_that_fails_is_not_asked_again_at_once(pool: Any) -> None:
    pool.own.script = lambda node, job: node.fail(job)
    node = await joined(pool, HONEST)
    await asyncio.sleep(0.2)
    assert len(node.said(Open)) == len(pool.own.said(Open)) == 1
    pool.own.script = HONEST
    pool.clock.s += prober.RETRY_S + 1
    for one in (node, pool.own):
        one.beat()
    await settle(pool, node, "ready")
