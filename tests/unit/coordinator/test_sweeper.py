"""Nothing that raises keeps a hold, a key's reservation or an Idempotency-Key for ever."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from parhelion.words import Grant, Problem, ProblemCode, Rate, kin

KEY = {"idempotency_key": "k", "body_hash": "h"}


def breaks(pool: Any, name: str, error: Exception, hold: str | None = None) -> None:
    """From now on the ledger's `name` raises, for all holds or for one."""
    real = getattr(pool.ledger, name)

    async def broken(*args: Any) -> Any:
        if hold is None or args[0].id == hold:
            raise error
        return await real(*args)

    setattr(pool.ledger, name, broken)


def mend(pool: Any, name: str) -> None:
    delattr(pool.ledger, name)


async def reserved_micro(pool: Any) -> int:
    rows = await pool.store.read("SELECT sum(reserved_micro) FROM keys")
    return int(rows[0][0])


async def test_an_answer_that_could_not_be_settled_is_closed_by_the_sweeper(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret, **KEY)
    job = await node.job()
    node.step(job, [pool.A])
    assert (await anext(answer)).text == "a"
    reading = asyncio.create_task(anext(answer))
    await asyncio.sleep(0.01)
    await pool.coordinator.journal.write()
    breaks(pool, "post", ValueError("a fault of ours"))
    node.finish(job, [pool.A] * 3)
    await reading
    with pytest.raises(Problem) as caught:
        await pool.read(answer)
    assert caught.value.code == ProblemCode.INTERNAL
    await pool.settled()
    mend(pool, "post")
    sweep = pool.coordinator.sweeper.sweep
    await sweep()
    assert len(await pool.ledger.open_holds()) == 1, "one look is not enough to call it abandoned"
    await sweep()
    await pool.assert_settled()
    # What was journalled is billed: the prompt and one id.
    assert await pool.free_micro(account) == 1000 - 5
    assert await reserved_micro(pool) == 0
    again = await pool.serve(secret, **KEY)
    node.finish(await node.job(1), [pool.A] * 4)
    await pool.read(again)


async def test_the_sweeper_never_touches_the_hold_of_a_live_request(pool: Any) -> None:
    node = await pool.node(slots=1)
    account, secret = await pool.user(1000)
    streaming = await pool.serve(secret)
    queued = await pool.begin(secret)
    for _ in range(3):
        await pool.coordinator.sweeper.sweep()
    assert len(await pool.ledger.open_holds()) == 2
    node.finish(await node.job(), [pool.A] * 4)
    await pool.read(streaming)
    node.finish(await node.job(1), [pool.A] * 4)
    await pool.read(await queued)
    assert await pool.free_micro(account) == 1000 - 22
    await pool.assert_settled()


async def test_a_hold_that_cannot_be_closed_blocks_no_other_and_is_told_once(
    pool: Any, caplog: pytest.LogCaptureFixture
) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    breaks(pool, "void", ValueError("never"))
    answers = [await pool.serve(secret) for _ in range(2)]
    for number, answer in enumerate(answers):
        node.fail(await node.job(number), "internal")
        with pytest.raises(Problem):
            await pool.read(answer)
    await pool.settled()
    mend(pool, "void")
    breaks(pool, "void", ValueError("never"), kin("hold", answers[0].request))
    with caplog.at_level(logging.ERROR, "parhelion.coordinator"):
        for _ in range(4):
            await pool.coordinator.sweeper.sweep()
    (left,) = await pool.ledger.open_holds()
    assert left.request == answers[0].request
    told = [record for record in caplog.records if record.getMessage() == "hold not closed"]
    assert len(told) == 1 and told[0].exc_info is not None
    mend(pool, "void")
    await pool.coordinator.sweeper.sweep()
    await pool.assert_settled()


async def test_no_error_of_one_hold_stops_the_start(
    closed_pool: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool = closed_pool
    await pool.open()
    node = await pool.node()
    _account, secret = await pool.user(1000)
    for number in range(3):
        await pool.serve(secret)
        await node.job(number)
    bad = (await pool.ledger.open_holds())[1].hold.id
    await pool.crash()
    real = type(pool.ledger).void

    async def void(self: Any, hold: Any, *args: Any) -> None:
        if hold.id == bad:
            raise ValueError("this row is damaged")
        await real(self, hold, *args)

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, "parhelion.coordinator"):
        patch.setattr(type(pool.ledger), "void", void)
        await pool.open()
    (left,) = await pool.ledger.open_holds()
    assert left.hold.id == bad
    named = [record for record in caplog.records if getattr(record, "hold", None) == bad]
    assert len(named) == 1 and named[0].exc_info is not None
    await pool.coordinator.sweeper.sweep()
    await pool.coordinator.sweeper.sweep()
    assert await pool.ledger.open_holds() == ()
    await pool.close()


async def test_the_sweeper_outlives_a_store_that_is_away(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parhelion.coordinator.sweeper.INTERVAL_S", 0.001)
    asked = 0

    async def away() -> Any:
        nonlocal asked
        asked += 1
        raise OSError("no such disk")

    pool.ledger.open_holds = away
    running = asyncio.create_task(pool.coordinator.sweeper.run())
    async with asyncio.timeout(5):
        while asked <= 1:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert not running.done()
    running.cancel()
    del pool.ledger.open_holds


async def test_the_journal_outlives_whatever_a_commit_raises(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parhelion.coordinator.journal.INTERVAL_S", 0.001)
    monkeypatch.setattr("parhelion.coordinator.journal.PAUSE_S", 0.001)
    node = await pool.node()
    _account, secret = await pool.user(1000)
    (running,) = [task for task in pool.coordinator._tasks if task.get_name() == "journal"]
    breaks(pool, "journal", OSError("no such disk"))
    answer = await pool.serve(secret)
    job = await node.job()
    for number in range(3):
        node.step(job, [pool.A])
        await anext(answer)
        if number == 1:
            await asyncio.sleep(0.05)
            assert not running.done()
            mend(pool, "journal")
    await asyncio.sleep(0.05)
    node.finish(job, [pool.A])
    await anext(answer)
    await pool.settled()
    assert pool.coordinator.journal.marks_written >= 1


async def test_other_holds_end_by_their_time_and_not_by_the_sweepers_suspicion(pool: Any) -> None:
    """What a session or a withdrawal set aside is nobody's live request, and is no leftover."""
    account, _secret = await pool.user(1000)
    now_ms = pool.clock.now_ms()
    for request, expires_at_ms in (("ses_1", now_ms), ("ses_2", now_ms + 3_600_000)):
        rate = Rate(model="m", asset=pool.ASSET, version=1, prompt_micro=0, completion_micro=1)
        grant = Grant(account=account, key=None, rate=rate, amount_micro=300, seed=0)
        await pool.ledger.hold(grant, request, prompt_tokens=0, expires_at_ms=expires_at_ms)
    for _ in range(3):
        await pool.coordinator.sweeper.sweep()
    assert await pool.held_micro(account) == 300
    entries = await pool.ledger.history(account, limit=10)
    assert [e.request for e in entries if e.kind == "expire"] == ["ses_1"]
