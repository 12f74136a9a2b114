"""One prompt's way: what is charged, what is told, and what a client's leaving costs."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import msgspec
import pytest

from parhelion.coordinator.attempt import Attempt
from parhelion.coordinator.relay import Relay
from parhelion.link import Cut, Open
from parhelion.proof import verify
from parhelion.words import Credentials, Problem, ProblemCode, kin


async def test_an_answer_is_charged_exactly_and_shared_out(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=4)
    job = await node.job()
    node.step(job, [pool.A, pool.B])
    node.finish(job, [pool.C, pool.A])
    text, last = await pool.read(answer)
    assert (text, last.finish_reason) == ("abca", "length")
    # 3 prompt tokens at 1 and 4 completion tokens at 2 base units.
    assert last.usage.cost == "11"
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 4)
    assert last.usage.nodes == (node.peer,)
    assert await pool.free_micro(account) == 989
    operator = await pool.ledger.balance(f"node:{node.peer}", pool.ASSET)
    assert operator.available_micro == 11 * 85 // 100
    await pool.assert_settled()


async def test_the_receipt_is_there_with_the_last_chunk_and_every_check_holds(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    node.finish(await node.job(), [pool.A, pool.EOG], "eog")
    _text, last = await pool.read(answer)
    receipt = await pool.receipts.get(last.usage.receipt, account)
    evidence = pool.receipts.evidence(last.usage.receipt, account)
    checks = verify(msgspec.json.encode(receipt), msgspec.json.encode(evidence), pool.key.peer)
    assert {check.name: check.state for check in checks} == dict.fromkeys(
        ("format", "signature", "segments", "identity", "counts", "price", "ids", "text"), "ok"
    )
    assert (receipt.completion_tokens, receipt.silent_ids, receipt.output_ids) == (1, 1, 2)
    assert answer.receipt == receipt.id


async def test_end_of_text_is_not_billed(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    node.finish(await node.job(), [pool.A, pool.SILENT, pool.EOG], "eog")
    text, last = await pool.read(answer)
    assert (text, last.finish_reason, last.usage.cost) == ("a", "stop", "5")


async def test_a_cut_stream_is_never_billed_whole(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=8, stop=("bc",))
    job = await node.job()
    node.step(job, [pool.A, pool.B, pool.C, pool.A, pool.A])
    text, last = await pool.read(answer)
    assert (text, last.finish_reason) == ("a", "stop")
    assert node.said(Cut)[0].n == 3
    # The id that completes the stop string is delivered; the two after it are nobody's.
    assert last.usage.completion_tokens == 3
    assert await pool.free_micro(account) == 1000 - 3 - 6
    receipt = await pool.receipts.get(last.usage.receipt, account)
    assert receipt.segments[0].signature is not None
    assert receipt.segments[0].to == 3
    await pool.assert_settled()


async def test_a_stop_string_in_the_nodes_last_ids_is_signed_again_at_the_cut(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=4, stop=("bc",))
    # The node has ended and signed at 4 before it hears that the answer was cut at 3.
    node.finish(await node.job(), [pool.A, pool.B, pool.C, pool.A])
    text, last = await pool.read(answer)
    assert (text, last.usage.completion_tokens) == ("a", 3)
    receipt = await pool.receipts.get(last.usage.receipt, account)
    assert (receipt.segments[0].to, receipt.segments[0].reason) == (3, None)
    assert pool.coordinator.health().status == "ready"
    await pool.assert_settled()


async def test_a_client_that_leaves_in_the_middle_pays_what_was_accepted(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    job = await node.job()
    node.step(job, [pool.A, pool.B])
    assert (await anext(answer)).text == "ab"
    await answer.disconnect()
    assert node.said(Cut)[0].n == 2
    assert await pool.free_micro(account) == 1000 - 3 - 4
    receipt = await pool.receipts.get(answer.receipt, account)
    assert (receipt.finish_reason, receipt.output_ids) == ("cancelled", 2)
    await pool.assert_settled()


async def test_ids_made_after_the_client_left_are_not_billed(pool: Any) -> None:
    node = await pool.node()
    node.signs = False
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    job = await node.job()
    node.step(job, [pool.A])
    await anext(answer)
    leaving = asyncio.create_task(answer.disconnect())
    while not node.said(Cut):  # noqa: ASYNC110
        await asyncio.sleep(0)
    node.step(job, [pool.B])
    node.sign(job, 1)
    await leaving
    assert await pool.free_micro(account) == 1000 - 3 - 2
    await pool.assert_settled()


async def test_a_node_lost_before_the_first_byte_costs_nothing(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    node.prefill(await node.job())
    node.die()
    with pytest.raises(Problem) as caught:
        await pool.read(answer)
    assert caught.value.code == ProblemCode.NODE_LOST
    assert await pool.free_micro(account) == 1000
    await pool.assert_settled()


async def test_a_job_without_any_id_is_tried_once_on_another_node(pool: Any) -> None:
    first = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    first.prefill(await first.job())
    second = await pool.node()
    first.die()
    job = await second.job()
    assert (job.attempt, job.output_ids) == (2, ())
    second.finish(job, [pool.A] * 4)
    text, last = await pool.read(answer)
    assert (text, last.usage.nodes, last.usage.migrations) == ("aaaa", (second.peer,), 1)
    assert await pool.free_micro(account) == 1000 - 11
    await pool.assert_settled()


async def test_a_job_that_every_engine_gives_up_is_tried_four_times_and_costs_nothing(
    pool: Any,
) -> None:
    nodes = [await pool.node() for _ in range(6)]
    for node in nodes:
        node.script = lambda node, job: node.fail(job)
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    with pytest.raises(Problem) as caught:
        await pool.read(answer)
    assert caught.value.code == ProblemCode.ENGINE_FAILED
    tried = [len(node.said(Open)) for node in nodes]
    assert sum(tried) == 4 and max(tried) == 1, "never twice at an engine that gave it up"
    assert await pool.free_micro(account) == 1000
    await pool.assert_settled()


async def test_a_stream_lost_with_no_node_left_says_so_and_bills_what_was_delivered(
    pool: Any,
) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    job = await node.job()
    node.step(job, [pool.A, pool.B])
    assert (await anext(answer)).text == "ab"
    node.die()
    with pytest.raises(Problem) as caught:
        await anext(answer)
    assert caught.value.code == ProblemCode.NODE_LOST
    assert await pool.free_micro(account) == 1000 - 3 - 4
    receipt = await pool.receipts.get(answer.receipt, account)
    assert receipt.finish_reason == "node_lost"
    assert receipt.segments[0].reason == "the node was lost"
    await pool.assert_settled()


async def test_an_engine_that_fails_in_the_middle_still_signs_for_what_it_made(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    job = await node.job()
    node.step(job, [pool.A])
    node.fail(job)
    node.sign(job, 1)
    with pytest.raises(Problem) as caught:
        await pool.read(answer)
    assert caught.value.code == ProblemCode.ENGINE_FAILED
    receipt = await pool.receipts.get(answer.receipt, account)
    assert receipt.segments[0].signature is not None
    assert receipt.cost_micro == "5"


async def test_without_a_signature_the_receipt_says_why(pool: Any, quick_signatures: None) -> None:
    node = await pool.node()
    node.signs = False
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    node.finish(await node.job(), [pool.A] * 4)
    _text, last = await pool.read(answer)
    receipt = await pool.receipts.get(last.usage.receipt, account)
    assert receipt.segments[0].signature is None
    assert "no signature" in receipt.segments[0].reason
    assert last.usage.cost == "11"
    await pool.assert_settled()


async def test_fifty_prompts_on_credit_for_ten_serve_exactly_ten(pool: Any) -> None:
    node = await pool.node(slots=16)
    node.script = pool.answering(pool.A)
    account, secret = await pool.user(110)

    async def one() -> str:
        try:
            await pool.read(await pool.serve(secret, max_tokens=4))
        except Problem as problem:
            return str(problem.code)
        return "served"

    # All hold before any posts, because a whole answer costs exactly what is held.
    outcomes = await asyncio.gather(*(one() for _ in range(50)))
    assert outcomes.count("served") == 10
    assert outcomes.count("insufficient_credit") == 40
    assert await pool.free_micro(account) == 0
    await pool.assert_settled()


async def test_no_credentials_are_told_before_there_is_no_node(pool: Any) -> None:
    with pytest.raises(Problem) as caught:
        await pool.serve(None)
    assert caught.value.code == ProblemCode.MISSING_CREDENTIALS


async def test_a_known_model_without_a_node_is_refused_at_once_and_holds_nothing(
    pool: Any,
) -> None:
    account, secret = await pool.user(1000)
    with pytest.raises(Problem) as caught:
        await pool.serve(secret)
    assert caught.value.code == ProblemCode.NO_NODE
    assert caught.value.retry_after_s
    assert [entry.kind for entry in await pool.ledger.history(account, limit=9)] == ["grant"]


async def test_a_finished_idempotency_key_is_replayed_free_also_without_a_node(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    named = {"idempotency_key": "k", "body_hash": "h"}
    answer = await pool.serve(secret, **named)
    node.finish(await node.job(), [pool.A] * 4)
    text, last = await pool.read(answer)
    node.die()
    await asyncio.sleep(0.01)
    again = await pool.coordinator.serve(pool.ask(**named), Credentials(bearer=secret))
    assert await pool.read(again) == (text, last)
    assert again.receipt == answer.receipt
    assert await pool.free_micro(account) == 1000 - 11


async def test_a_cut_idempotency_key_runs_again_and_bills_only_the_rest(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    named = {"idempotency_key": "k", "body_hash": "h"}
    answer = await pool.serve(secret, **named)
    job = await node.job()
    node.step(job, [pool.A, pool.B])
    assert (await anext(answer)).text == "ab"
    node.fail(job)
    node.sign(job, 2)
    with pytest.raises(Problem):
        await anext(answer)
    again = await pool.serve(secret, **named)
    second = await node.job(1)
    assert second.seed == job.seed
    node.finish(second, [pool.A, pool.B, pool.C, pool.A])
    text, last = await pool.read(again)
    assert text == "abca"
    assert last.usage.cost == "4"
    assert await pool.free_micro(account) == 1000 - 11
    receipt = await pool.receipts.get(last.usage.receipt, account)
    assert receipt.already_billed == 2
    assert all(check.state != "failed" for check in verify(msgspec.json.encode(receipt)))
    await pool.assert_settled()


async def test_a_whole_answer_is_never_journalled(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    reading = asyncio.create_task(answer.whole())
    job = await node.job()
    node.step(job, [pool.A])
    await asyncio.sleep(0.01)
    await pool.coordinator.journal.write()
    assert pool.coordinator.journal.marks_written == 0
    node.finish(job, [pool.B] * 3)
    chunk = await reading
    assert (chunk.text, chunk.finish_reason, chunk.usage.cost) == ("abbb", "length", "11")


async def test_only_what_went_out_is_journalled(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    job = await node.job()
    node.step(job, [pool.A])
    await anext(answer)
    node.step(job, [pool.B, pool.C])
    await asyncio.sleep(0.01)
    await pool.coordinator.journal.write()
    (left,) = await pool.ledger.open_holds()
    assert left.hold.accepted_ids == 0
    # Asking for the next chunk says that the first one's bytes are out.
    await anext(answer)
    await pool.coordinator.journal.write()
    (left,) = await pool.ledger.open_holds()
    assert (left.hold.accepted_ids, left.completion_tokens) == (1, 1)
    assert left.operator == f"node:{node.peer}"
    await answer.disconnect()
    await pool.assert_settled()


async def test_the_next_chunk_survives_a_cancelled_wait(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    job = await node.job()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(answer), 0.01)
    node.finish(job, [pool.A] * 4)
    assert (await pool.read(answer))[0] == "aaaa"


async def test_an_answer_knows_who_makes_it_and_that_a_lost_node_no_longer_does(
    pool: Any,
) -> None:
    first = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=4)
    first.prefill(await first.job())
    assert answer.nodes() == (first.peer,)
    second = await pool.node()
    first.die()
    job = await second.job()
    assert answer.nodes() == (second.peer,)
    second.finish(job, [pool.A] * 4)
    assert (await pool.read(answer))[1].usage.nodes == answer.nodes()


async def test_two_accounts_never_share_a_cache_scope(pool: Any) -> None:
    node = await pool.node()
    node.script = pool.answering()
    _one, first = await pool.user(1000)
    _other, second = await pool.user(1000)
    for secret in (first, first, second):
        await pool.read(await pool.serve(secret))
    scopes = [message.job.cache_scope for message in node.said(Open)]
    assert scopes[0] == scopes[1] != scopes[2]


async def test_one_requests_ids_are_kin(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    node.finish(await node.job(), [pool.A] * 4)
    _text, last = await pool.read(answer)
    ids = {node.said(Open)[0].job.job, last.usage.hold, last.usage.receipt}
    assert ids == {kin(kind, answer.request) for kind in ("job", "hold", "rcpt")}


async def test_a_slot_is_the_nodes_until_it_has_stopped(pool: Any) -> None:
    node = await pool.node(slots=1)
    node.signs = False
    _account, secret = await pool.user(1000)
    first = await pool.serve(secret)
    job = await node.job()
    node.step(job, [pool.A])
    await anext(first)
    leaving = asyncio.create_task(first.disconnect())
    waiting = asyncio.create_task(pool.serve(secret))
    await asyncio.sleep(0.05)
    assert len(node.said(Open)) == 1
    node.sign(job, 1)
    await (await waiting).disconnect()
    await leaving
    node.sign(await node.job(1), 0)
    await pool.assert_settled()


async def test_ids_that_showed_nothing_before_we_failed_are_not_billed(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    job = await node.job()
    node.prefill(job)
    node.step(job, [pool.SILENT])
    node.die()
    with pytest.raises(Problem):
        await pool.read(answer)
    assert await pool.free_micro(account) == 1000
    await pool.assert_settled()


async def test_an_id_whose_text_is_held_back_is_not_journalled(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=9, stop=("bcb",))
    job = await node.job()
    node.step(job, [pool.A, pool.B, pool.C])
    assert (await anext(answer)).text == "a"
    reading = asyncio.create_task(anext(answer))
    await asyncio.sleep(0.01)
    await pool.coordinator.journal.write()
    (left,) = await pool.ledger.open_holds()
    assert (left.hold.accepted_ids, left.completion_tokens) == (1, 1)
    node.step(job, [pool.A])
    assert (await reading).text == "bca"
    await answer.disconnect()
    await pool.assert_settled()


@pytest.mark.parametrize("leaves", [False, True])
async def test_what_a_request_was_is_freed_without_the_cycle_collector(
    pool: Any, leaves: bool
) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    gc.collect()
    gc.disable()
    try:
        answer = await pool.serve(secret, max_tokens=2)
        job = await node.job()
        if leaves:
            node.step(job, [pool.A])
            await answer.disconnect()
        else:
            node.finish(job, [pool.A, pool.B])
            await pool.read(answer)
        await pool.settled()
        del answer
        left = [type(o).__name__ for o in gc.get_objects() if isinstance(o, Relay | Attempt)]
    finally:
        gc.enable()
    assert left == []
