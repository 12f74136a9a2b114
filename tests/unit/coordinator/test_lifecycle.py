"""Start, health, drain, stop, a store that is away, and what a crash leaves to the next start."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from parhelion.words import Problem, ProblemCode, ServedModel, kin


async def test_a_pool_waits_for_its_nodes_once_and_is_then_ready_while_one_is_there(
    closed_pool: Any,
) -> None:
    pool = closed_pool
    await pool.open(need=2)
    health = pool.coordinator.health
    _account, secret = await pool.user(1000)
    assert (health().status, health().nodes, health().need) == ("waiting", 0, 2)
    first = await pool.node()
    assert (health().status, health().nodes) == ("waiting", 1)
    with pytest.raises(Problem) as caught:
        await pool.serve(secret)
    assert caught.value.code == ProblemCode.NO_NODE
    assert "1 of 2" in caught.value.message
    second = await pool.node()
    assert (health().status, health().model, health().local) == ("ready", "tests/abc", True)
    first.die()
    await asyncio.wait_for(first.task, 5)
    assert (health().status, health().nodes) == ("ready", 1)
    second.die()
    await asyncio.wait_for(second.task, 5)
    assert health().status == "waiting"


async def test_ready_means_that_a_prompt_without_a_model_is_served(closed_pool: Any) -> None:
    pool = closed_pool
    own = pool.catalogue.model
    card = msgspec.structs.replace(own.card, id="tests/first", digest="9" * 64)
    pool.catalogue.default = type(own)(card)
    await pool.open(need=1)
    coordinator = pool.coordinator
    await pool.node()
    # The one node serves the second model only.
    health = coordinator.health()
    assert (health.status, health.model, health.nodes) == ("waiting", "tests/first", 1)
    _account, secret = await pool.user(1000)
    with pytest.raises(Problem) as caught:
        await pool.serve(secret)
    assert caught.value.code == ProblemCode.NO_NODE
    assert coordinator.takes_prompts(), "prompts for the second model are served"
    answer = await pool.serve(secret, model="tests/abc")
    assert answer.model == "tests/abc"

    await pool.node(models=(ServedModel(digest="9" * 64, context=1000),))
    assert (coordinator.health().status, coordinator.health().model) == ("ready", "tests/first")


async def test_a_drain_lets_running_answers_end_and_takes_no_new_ones(pool: Any) -> None:
    node = await pool.node(slots=1)
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    queued = await pool.begin(secret)
    job = await node.job()
    draining = asyncio.create_task(pool.coordinator.drain(5.0))
    await asyncio.sleep(0.01)
    assert pool.coordinator.health().status == "draining"
    for refused in (queued, pool.serve(secret)):
        with pytest.raises(Problem) as caught:
            await refused
        assert caught.value.code == ProblemCode.DRAINING
    assert not draining.done()
    node.finish(job, [pool.A] * 4)
    assert (await pool.read(answer))[0] == "aaaa"
    await draining
    await pool.assert_settled()


async def test_what_a_drain_cuts_is_billed_as_delivered_and_says_so(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    node.step(await node.job(), [pool.A])
    assert (await anext(answer)).text == "a"
    await pool.coordinator.drain(0.05)
    with pytest.raises(Problem) as caught:
        await anext(answer)
    assert caught.value.code == ProblemCode.DRAINING
    assert await pool.free_micro(account) == 1000 - 5
    await pool.assert_settled()


async def test_stop_says_goodbye_to_every_node(pool: Any) -> None:
    node = await pool.node()
    await pool.coordinator.stop()
    await asyncio.wait_for(node.task, 5)
    assert node.carrier.bye.code == ProblemCode.DRAINING
    late = pool.fake()
    await pool.join(late)
    assert late.carrier.bye.code == ProblemCode.DRAINING


async def test_a_store_that_is_away_is_told_and_the_books_follow(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    job = await node.job()
    pool.ledger.away = 2
    node.finish(job, [pool.A] * 4)
    with pytest.raises(Problem) as caught:
        await pool.read(answer)
    assert caught.value.code == ProblemCode.STORE_UNAVAILABLE
    await pool.assert_settled()
    assert await pool.free_micro(account) == 1000 - 11


async def test_after_a_crash_the_journalled_count_is_billed_and_the_rest_is_not(
    closed_pool: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pool = closed_pool
    await pool.open()
    node = await pool.node()
    account, secret = await pool.user(1000)
    journalled = await pool.serve(secret, idempotency_key="k", body_hash="h", max_tokens=9)
    job = await node.job()
    node.step(job, [pool.A, pool.B])
    await anext(journalled)
    waiting = asyncio.create_task(anext(journalled))
    await asyncio.sleep(0.01)
    await pool.coordinator.journal.write()
    node.step(job, [pool.C, pool.C])
    await waiting
    unheard = await pool.serve(secret)
    await pool.crash()
    with caplog.at_level(logging.WARNING, "parhelion.coordinator"):
        await pool.open()
    line = next(r for r in caplog.records if "earlier process" in r.getMessage())
    assert (line.posted, line.voided, line.failed) == (1, 1, 0)
    await pool.assert_settled()
    # 3 prompt tokens and the two ids that were journalled; four had gone out.
    assert await pool.free_micro(account) == 1000 - 3 - 4
    explained = await pool.ledger.explain(unheard.request)
    assert (explained.hold.state, explained.cost_micro) == ("voided", 0)
    paid = await pool.ledger.balance(f"node:{node.peer}", pool.ASSET)
    assert paid.available_micro == 7 * 85 // 100
    # The same Idempotency-Key goes on where the bill ended, with the same seed.
    again = await pool.node()
    rest = await pool.serve(secret, idempotency_key="k", body_hash="h", max_tokens=9)
    second = await again.job()
    assert second.seed == job.seed
    again.finish(second, [pool.A] * 9)
    _text, last = await pool.read(rest)
    assert last.usage.cost == "14"
    await pool.assert_settled()


async def test_the_journal_writes_all_answers_in_one_commit(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answers = [await pool.serve(secret) for _ in range(3)]
    for number, answer in enumerate(answers):
        node.step(await node.job(number), [pool.A])
        await anext(answer)
    readers = [asyncio.create_task(anext(answer)) for answer in answers]
    await asyncio.sleep(0.01)
    before, _hash = await pool.store.head()
    await pool.coordinator.journal.write()
    after, _hash = await pool.store.head()
    assert after == before + 1
    for reader, answer in zip(readers, answers, strict=True):
        reader.cancel()
        await answer.disconnect()


async def test_metrics_tell_of_requests_nodes_and_money(pool: Any) -> None:
    node = await pool.node()
    node.script = pool.answering()
    _account, secret = await pool.user(1000)
    await pool.read(await pool.serve(secret))
    await pool.settled()
    text = pool.metrics.render().decode()
    for line in (
        'parhelion_requests_total{outcome="finished"} 1.0',
        'parhelion_charged_micro_total{asset="PRLX.local"} 11.0',
        'parhelion_nodes{state="ready"} 1.0',
        "parhelion_slots 8.0",
        "parhelion_slots_busy 0.0",
        "parhelion_queue_length 0.0",
        "parhelion_holds_open 0.0",
    ):
        assert line in text
    for name in (
        "gen_ai_server_request_duration_seconds_count",
        "gen_ai_server_time_to_first_token_seconds_count",
        "gen_ai_server_time_per_output_token_seconds_count",
        "gen_ai_client_token_usage_count",
    ):
        assert name in text
    assert node.peer not in text


async def test_no_prompt_and_no_text_is_logged(pool: Any, caplog: pytest.LogCaptureFixture) -> None:
    node = await pool.node()
    node.script = pool.answering(pool.A)
    account, secret = await pool.user(1000)
    with caplog.at_level(logging.DEBUG, "parhelion"):
        answer = await pool.serve(secret, max_tokens=9)
        await pool.read(answer)
        await pool.settled()
    line = next(r for r in caplog.records if r.getMessage() == "request finished")
    assert (line.request, line.account) == (answer.request, account)
    assert (line.hold, line.node) == (kin("hold", answer.request), node.peer)
    assert "aaaaaaaaa" not in caplog.text and "(2, 3, 4)" not in caplog.text
