"""Who is probed next: nobody who joins waits for those whose probes come to nothing."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from parhelion.coordinator import asking, prober
from parhelion.coordinator.asking import DEADLINE_S, FIRST_TRY_S, first_try_s
from parhelion.coordinator.speed import Speed
from parhelion.coordinator.trials import (
    FAILED_PER_SITE,
    NEW_AT_ONCE,
    NEW_PER_SITE,
    PROBES_AT_ONCE,
    PROBES_WAITING,
    Due,
    Lane,
    Trials,
    chosen,
)
from parhelion.link import Open, Standing
from tests.unit.coordinator.test_prober import HONEST, NOISE, joined, settle
from tests.unit.coordinator.test_prober import pool as pool

KEY = ("a peer", "a digest")


def due(lane: Lane, site: str = "here", due_s: float = 0.0) -> Due:
    session: Any = SimpleNamespace(node=SimpleNamespace(site=site))
    return Due(due_s, session, "a digest", lane)


def sites(picked: list[Due]) -> list[str]:
    return [one.site for one in picked]


def test_one_address_has_a_part_of_the_first_probes_and_others_need_not_wait_for_it() -> None:
    crowd = [due("new", "sybils") for _ in range(100)]
    running = chosen(crowd, (), 0)
    assert sites(running) == ["sybils"] * NEW_PER_SITE
    assert chosen(crowd, running, 0) == []
    honest = due("new", "elsewhere", due_s=9.0)
    assert chosen([*crowd, honest], running, 0) == [honest]


def test_addresses_take_turns() -> None:
    many = [due("new", f"site {number % 20}") for number in range(20 * NEW_PER_SITE)]
    picked = chosen([*[due("new", "sybils") for _ in range(50)], *many], (), 0)
    assert len(picked) == NEW_AT_ONCE
    assert len(set(sites(picked))) == 21


def test_the_new_wait_neither_for_who_failed_nor_for_who_serves() -> None:
    running = [*[due("failed")] * 50, *[due("again")] * 50]
    new = due("new")
    assert chosen([due("failed"), due("again"), new], running, 0) == [new]


def test_who_failed_leaves_probes_to_who_serves() -> None:
    failed = [due("failed", "sybils", float(number)) for number in range(10)]
    serving = [due("again", "sybils", 100.0) for _ in range(10)]
    picked = chosen([*failed, *serving], (), 0)
    assert [one.lane for one in picked] == ["failed"] * FAILED_PER_SITE + ["again"] * (
        PROBES_AT_ONCE - FAILED_PER_SITE
    )
    assert len(chosen(serving, [due("again")] * PROBES_AT_ONCE, 2)) == 2
    assert chosen(serving, [due("again")] * (PROBES_AT_ONCE + PROBES_WAITING), 99) == []


def test_who_comes_back_after_a_probe_that_came_to_nothing_is_not_new() -> None:
    trials = Trials()
    trial = trials.begin(KEY)
    trial.tried, trial.due_s, trial.refused = True, 700.0, "lies"
    trials.leave(KEY, is_probed=False)
    assert trials.get(KEY) is None
    back = trials.back(KEY)
    assert back is not None and back is trials.get(KEY)
    assert (back.tried, back.due_s, back.refused) == (True, 700.0, "lies")


def test_who_leaves_in_the_middle_of_a_probe_is_not_new_and_its_end_is_not_theirs() -> None:
    trials = Trials()
    under_way = trials.begin(KEY)
    trials.leave(KEY, is_probed=True)
    under_way.due_s = 999.0
    back = trials.back(KEY)
    assert back is not None and (back.tried, back.due_s) == (True, 0.0)


def test_who_passed_and_comes_back_is_a_stranger_and_memory_has_an_end() -> None:
    trials = Trials(limit=2)
    trials.begin(KEY)
    trials.leave(KEY, is_probed=False)
    assert trials.back(KEY) is None
    for number in range(5):
        trials.begin((str(number), "")).tried = True
        trials.leave((str(number), ""), is_probed=False)
    assert [trials.back((str(number), "")) is None for number in range(5)] == [True] * 3 + [
        False
    ] * 2


def test_the_first_try_is_as_long_as_the_own_engine_lets_expect() -> None:
    assert first_try_s(None, 100, 40) == FIRST_TRY_S
    fast = Speed(4)
    fast.prefilled(1000, 0.5)
    assert first_try_s(fast, 100, 40) == FIRST_TRY_S
    slow = Speed(4)
    slow.prefilled(100, 1.0)
    slow.decoded(40, 0.8, 1.0)
    assert first_try_s(slow, 100, 40) == pytest.approx(10 * 1.8)
    slow = Speed(4)
    slow.prefilled(100, 100.0)
    assert first_try_s(slow, 100, 40) == DEADLINE_S


async def test_honest_nodes_join_beside_many_that_never_answer(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "FIRST_TRY_S", 0.1)
    for _ in range(2 * PROBES_AT_ONCE):
        await joined(pool, lambda _node, _job: None)
    node = await joined(pool, HONEST)
    async with asyncio.timeout(2):
        await settle(pool, node, "ready")


async def test_a_node_that_is_late_at_its_first_try_has_the_whole_time_at_its_next(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "FIRST_TRY_S", 0.05)

    def slowly(node: Any, job: Any) -> None:
        asyncio.get_running_loop().call_later(0.2, HONEST, node, job)

    node = await joined(pool, slowly)
    trials = pool.coordinator.prober._trials
    async with asyncio.timeout(2):
        while not trials.begin((node.peer, pool.DIGEST)).tried:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert trials.begin((node.peer, pool.DIGEST)).failures == 0
    await asyncio.sleep(0.3)
    pool.clock.s += prober.RETRY_S
    for one in (node, pool.own):
        one.beat()
    await settle(pool, node, "ready")


async def test_a_refused_node_that_reconnects_waits_as_if_it_had_stayed(pool: Any) -> None:
    node = await joined(pool, NOISE)
    view = await settle(pool, node, "refused")
    node.die()
    again = pool.fake(key=node.key)
    again.script = HONEST
    await pool.join(again)
    assert (await settle(pool, again, "refused", "measuring", "ready")).state == "refused"
    await asyncio.sleep(0.05)
    assert again.said(Open) == []
    assert [told.reason for told in again.said(Standing)] == [view.reason]
    pool.clock.s += prober.AGAIN_S
    for one in (again, pool.own):
        one.beat()
    await settle(pool, again, "ready")
