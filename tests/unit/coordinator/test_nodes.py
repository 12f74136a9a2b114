"""Nodes join, fall silent, drain, fail, misbehave: each has its state and its cause."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from parhelion import proof
from parhelion.link import (
    Bye,
    Cut,
    Drain,
    Heartbeat,
    JobFailed,
    Knock,
    Open,
    Register,
    Signed,
    Steps,
    Welcome,
)
from parhelion.words import Problem, ProblemCode, ServedModel, Step


def states(pool: Any) -> dict[str, str]:
    return {view.peer: view.state for view in pool.coordinator.nodes()}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_a_node_is_welcomed_with_the_digests_that_the_pool_knows(pool: Any) -> None:
    models = tuple(ServedModel(digest=digest, context=500) for digest in (pool.DIGEST, "9" * 64))
    node = await pool.node(models=models)
    (welcome,) = node.said(Welcome)
    assert welcome.accepted == (pool.DIGEST,)
    (view,) = pool.coordinator.nodes()
    assert (view.state, view.models, view.slots_busy, view.tokens_per_s) == (
        "ready",
        ("tests/abc",),
        0,
        None,
    )


@pytest.mark.parametrize(
    "card",
    [
        {"slots": 0},
        {"slots": 1025},
        {"kv_tokens": 0},
        {"name": ""},
        {"name": "x" * 65},
        {"name": "bell\x07"},
        {"device": "x" * 201},
        {"models": ()},
        {"models": (ServedModel(digest="9" * 64, context=5),)},
        {"models": (ServedModel(digest="d" * 64, context=0),)},
        {"models": tuple(ServedModel(digest="d" * 64, context=5) for _ in range(65))},
        {"peer": "12D3KooWImposter"},
    ],
)
async def test_a_card_beyond_reason_is_refused_with_the_cause(
    pool: Any, card: dict[str, Any]
) -> None:
    node = pool.fake()
    await pool.join(node, **card)
    assert node.carrier.bye.code == ProblemCode.LINK_REFUSED
    assert node.carrier.bye.message and node.carrier.bye.hint
    assert states(pool) == {}


async def test_a_node_without_leave_is_told_why(pool: Any) -> None:
    node = pool.fake()
    await pool.access.ban(node.peer, "stole")
    await pool.join(node)
    assert node.carrier.bye.code == ProblemCode.LINK_REFUSED
    assert node.carrier.bye.hint


async def test_a_node_that_is_banned_while_it_is_welcomed_never_becomes_a_member(
    pool: Any,
) -> None:
    node = pool.fake()
    obey = node.carrier.on_said
    banning: list[asyncio.Task[None]] = []

    async def send(message: Any) -> None:
        obey(message)
        banning.append(asyncio.create_task(pool.access.ban(node.peer, "stole")))
        await asyncio.wait(banning)

    node.carrier.send = send
    await pool.join(node)
    assert banning and node.carrier.bye.code == ProblemCode.LINK_REFUSED
    assert states(pool) == {}


async def test_the_first_message_must_be_a_registration(pool: Any) -> None:
    node = pool.fake()
    node.beat()
    await pool.coordinator.attend(node.carrier)
    assert "register" in node.carrier.bye.message


async def test_a_silent_node_is_suspect_then_gone_and_a_word_makes_it_ready(pool: Any) -> None:
    node = await pool.node()
    registry, clock = pool.coordinator.registry, pool.clock
    clock.s += 3.9
    registry.sweep(clock.s)
    assert states(pool)[node.peer] == "ready"
    clock.s += 0.2
    registry.sweep(clock.s)
    assert states(pool)[node.peer] == "suspect"
    node.beat()
    await until(lambda: states(pool)[node.peer] == "ready")
    clock.s += 6
    registry.sweep(clock.s)
    assert states(pool) == {}
    await until(lambda: node.carrier.bye is not None)
    assert "silent" in node.carrier.bye.message


async def test_a_suspect_node_gets_no_new_job_but_may_come_back_for_it(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    pool.clock.s += 4.5
    pool.coordinator.registry.sweep(pool.clock.s)
    waiting = asyncio.create_task(pool.serve(secret))
    await asyncio.sleep(0.05)
    assert not node.said(Open)
    node.beat()
    answer = await waiting
    node.finish(await node.job(), [pool.A] * 4)
    await pool.read(answer)


async def test_a_closed_socket_is_gone_at_once(pool: Any) -> None:
    node = await pool.node()
    node.die()
    await asyncio.wait_for(node.task, 0.5)
    assert states(pool) == {}


async def test_a_second_session_of_a_node_replaces_the_first(pool: Any) -> None:
    old = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    await old.job()
    new = pool.fake(key=old.key)
    await pool.join(new)
    await until(lambda: old.carrier.bye is not None)
    assert old.carrier.bye.code == ProblemCode.CONFLICT
    assert states(pool) == {old.peer: "ready"}
    # The first session's slot is not the second's to give back; its job is the second's to do.
    job = await new.job()
    assert [view.slots_busy for view in pool.coordinator.nodes()] == [1]
    new.finish(job, [pool.A] * 4)
    assert (await pool.read(answer))[0] == "aaaa"
    assert [view.slots_busy for view in pool.coordinator.nodes()] == [0]
    assert await pool.free_micro(account) == 1000 - 3 - 8
    await pool.assert_settled()


async def test_a_draining_node_finishes_and_takes_nothing_new(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    job = await node.job()
    node.drain()
    await until(lambda: states(pool)[node.peer] == "draining")
    with pytest.raises(Problem) as caught:
        await pool.serve(secret)
    assert caught.value.code == ProblemCode.NO_NODE
    node.finish(job, [pool.A] * 4)
    assert (await pool.read(answer))[0] == "aaaa"


async def test_a_node_whose_engine_failed_says_why_and_comes_back(pool: Any) -> None:
    node = await pool.node()
    node.beat("crashed", "signal 11")
    await until(lambda: states(pool)[node.peer] == "failed")
    assert pool.coordinator.nodes()[0].reason == "signal 11"
    assert pool.coordinator.health().status == "waiting"
    node.beat()
    await until(lambda: states(pool)[node.peer] == "ready")


async def test_an_expelled_node_is_out_at_once(pool: Any) -> None:
    node = await pool.node()
    pool.coordinator.expel(node.peer, "banned")
    assert states(pool) == {}
    await until(lambda: node.carrier.bye is not None)
    assert node.carrier.bye.code == ProblemCode.LINK_REFUSED


async def test_a_banned_nodes_stream_goes_on_elsewhere_and_it_hears_why(pool: Any) -> None:
    bad = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    job = await bad.job()
    bad.step(job, [pool.A, pool.A])
    good = await pool.node()
    await asyncio.sleep(0.01)
    await pool.access.ban(bad.peer, "it lied")
    pool.coordinator.expel(bad.peer, "this node was banned: it lied")
    moved = await good.job()
    assert moved.output_ids == (pool.A, pool.A)
    good.finish(moved, [pool.B] * 2)
    assert (await pool.read(answer))[0] == "aabb"
    assert (bad.carrier.bye.code, "it lied" in bad.carrier.bye.message) == ("link_refused", True)
    await pool.assert_settled()


async def test_a_drained_node_gets_nothing_new_finishes_and_stays_out_until_undrained(
    pool: Any,
) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    job = await node.job()
    drains = pool.access.drains
    reason = await drains.drain(node.peer, "new fan")
    pool.coordinator.send_away(node.peer, reason, 25.0)
    (view,) = pool.coordinator.nodes()
    assert (view.state, view.reason) == ("draining", "drained by the pool's owner: new fan")
    assert node.said(Drain) == [Drain(reason=reason, deadline_s=25.0)]
    with pytest.raises(Problem) as caught:
        await pool.serve(secret)
    assert caught.value.code == ProblemCode.NO_NODE
    node.finish(job, [pool.A] * 4)
    assert (await pool.read(answer))[0] == "aaaa"
    node.carrier.hear(Bye(code=ProblemCode.DRAINING, message=reason))
    await until(lambda: states(pool) == {})
    # It asks again and again, is told why not, and is one entry that stays as it was.
    for _ in range(3):
        pool.clock.s += 4
        again = pool.fake(key=node.key)
        await pool.join(again)
        assert (again.carrier.bye.code, again.carrier.bye.message) == ("draining", reason)
        assert "undrain" in again.carrier.bye.hint and not again.said(Welcome)
    (shown,) = pool.coordinator.known_nodes()
    assert (shown.state, shown.reason) == ("refused", reason)
    assert shown.left_at_ms == pool.clock.now_ms() - 8000, "since it was told so first"
    await drains.undrain(node.peer)
    back = pool.fake(key=node.key)
    await pool.join(back)
    assert states(pool) == {node.peer: "ready"}
    await pool.assert_settled()


async def test_a_drained_node_keeps_its_name_when_the_coordinator_starts_again(pool: Any) -> None:
    node = await pool.node(name="node2")
    name = pool.coordinator.name_of(node.peer)
    await pool.access.drains.drain(node.peer, "fan", name)
    await pool.crash()
    await pool.open()
    assert (name, pool.coordinator.name_of(node.peer)) == ("node2", "node2"), "also unseen"
    again = pool.fake(key=node.key)
    await pool.join(again, name="bad news")
    (shown,) = pool.coordinator.known_nodes()
    assert (shown.name, shown.state) == ("node2", "refused"), "what it says now is not repeated"
    await pool.access.drains.undrain(node.peer)


async def test_a_drained_node_without_a_job_that_does_not_leave_is_sent_off(pool: Any) -> None:
    deaf = await pool.node()
    pool.coordinator.send_away(deaf.peer, "drained", 5.0)
    for passed_s in (3.9, 5.0):
        pool.clock.s += passed_s
        deaf.beat()
        await asyncio.sleep(0.01)
        pool.coordinator.registry.sweep(pool.clock.s)
    await asyncio.sleep(0.01)
    assert "did not leave by itself" in deaf.carrier.bye.message


async def test_what_a_drained_node_has_not_ended_at_its_deadline_goes_elsewhere(pool: Any) -> None:
    deaf = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    job = await deaf.job()
    deaf.step(job, [pool.A])
    good = await pool.node()
    pool.coordinator.send_away(deaf.peer, "drained", 5.0)
    for _ in range(2):
        pool.clock.s += 3.9
        deaf.beat()
        good.beat()
        deaf.step(job, [pool.A])
        await asyncio.sleep(0.01)
        pool.coordinator.registry.sweep(pool.clock.s)
        assert not good.said(Open), "until then it is the node's to end"
    pool.clock.s += 1
    pool.coordinator.registry.sweep(pool.clock.s)
    moved = await good.job()
    assert moved.output_ids == (pool.A,) * 3
    good.finish(moved, [pool.B])
    assert (await pool.read(answer))[0] == "aaab"
    assert "did not leave by itself" in deaf.carrier.bye.message
    assert deaf.carrier.bye.code == ProblemCode.DRAINING
    await pool.assert_settled()


async def test_a_drained_node_that_never_left_is_refused_at_its_next_word(pool: Any) -> None:
    await pool.access.drains.drain(pool.fake().peer, "")
    node = pool.fakes[-1]
    node.carrier.hear(Knock())
    await pool.coordinator.attend(node.carrier)
    assert node.carrier.bye.code == ProblemCode.DRAINING
    assert node.carrier.bye.message == "drained by the pool's owner"


async def test_when_the_coordinator_stops_its_nodes_hear_that_it_may_be_back(pool: Any) -> None:
    nodes = [await pool.node() for _ in range(2)]
    await pool.coordinator.stop()
    for node in nodes:
        bye = node.carrier.bye
        assert (bye.code, bye.message) == ("draining", "the coordinator is stopping")
        assert bye.hint


async def test_ids_of_an_old_attempt_are_dropped(pool: Any) -> None:
    first = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    old = await first.job()
    second = await pool.node()
    first.fail(old)
    job = await second.job()
    # The first node wakes and goes on as if nothing had happened.
    first.step(old, [pool.C, pool.C])
    first.sign(old, 2)
    late = Step(job.job, 1, 0, (pool.C,))
    second.carrier.hear(Steps(steps=(late,)))
    second.carrier.hear(JobFailed(job=job.job, attempt=1, code="engine_failed", message=""))
    second.finish(job, [pool.A] * 4)
    text, last = await pool.read(answer)
    assert (text, last.usage.nodes) == ("aaaa", (second.peer,))
    assert set(states(pool).values()) == {"ready"}


async def test_a_node_cannot_speak_for_a_job_of_another(pool: Any) -> None:
    first = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    job = await first.job()
    second = await pool.node()
    second.carrier.hear(Steps(steps=(Step(job.job, 1, 0, (pool.C,)),)))
    await asyncio.sleep(0.01)
    first.finish(job, [pool.A] * 4)
    assert (await pool.read(answer))[0] == "aaaa"


@pytest.mark.parametrize(
    ("start", "ids", "finish", "cause"),
    [
        (1, (2,), None, "ids from 1"),
        (0, (2,) * 5, None, "max_tokens"),
        (0, (99,), None, "vocabulary"),
        (0, (-1,), None, "vocabulary"),
        (0, (2,), "length", "before its end"),
        (0, (2,), "eog", "before its end"),
    ],
)
async def test_a_node_that_sends_what_cannot_be_is_closed_with_the_cause(
    pool: Any, start: int, ids: tuple[int, ...], finish: str | None, cause: str
) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=4)
    job = await node.job()
    node.carrier.hear(Steps(steps=(Step(job.job, 1, start, ids, finish),)))
    with pytest.raises(Problem) as caught:
        await pool.read(answer)
    assert caught.value.code == ProblemCode.NODE_LOST
    await until(lambda: node.carrier.bye is not None)
    assert cause in node.carrier.bye.message
    await pool.assert_settled()
    del account


@pytest.mark.parametrize(
    "change", [{"head": "0" * 64}, {"ask": "0" * 64}, {"start": 1}, {"artefact": "0" * 64}]
)
async def test_a_tampered_segment_is_closed_with_the_cause_and_not_on_the_receipt(
    pool: Any, change: dict[str, Any]
) -> None:
    node = await pool.node()
    node.signs = False
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    job = await node.job()
    node.finish(job, [pool.A] * 4)
    lie = msgspec.structs.replace(node.segment(job, 4), **change)
    node.carrier.hear(Signed(segment=proof.sign_segment(node.key, lie)))
    _text, last = await pool.read(answer)
    receipt = await pool.receipts.get(last.usage.receipt, account)
    assert receipt.segments[0].signature is None and receipt.segments[0].reason
    await until(lambda: node.carrier.bye is not None)
    assert "misbehaved" in node.carrier.bye.message


async def test_a_signature_of_another_key_is_refused(pool: Any) -> None:
    node = await pool.node()
    node.signs = False
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    job = await node.job()
    node.finish(job, [pool.A] * 4)
    signed = proof.sign_segment(node.key, node.segment(job, 4))
    forged = msgspec.structs.replace(signed, ended_at_ms=3)
    node.carrier.hear(Signed(segment=forged))
    _text, last = await pool.read(answer)
    receipt = await pool.receipts.get(last.usage.receipt, account)
    assert receipt.segments[0].reason == "the segment's signature does not hold"


async def test_a_second_registration_is_misbehaviour(pool: Any) -> None:
    node = await pool.node()
    node.carrier.hear(Register(card=node.card()))
    await until(lambda: node.carrier.bye is not None)
    assert "Register" in node.carrier.bye.message


async def test_one_nodes_misbehaviour_touches_no_other(pool: Any) -> None:
    bad = await pool.node()
    _account, secret = await pool.user(1000)
    lost = await pool.serve(secret)
    job = await bad.job()
    good = await pool.node()
    answer = await pool.serve(secret)
    fine = await good.job()
    good.step(fine, [pool.A])
    bad.step(job, [pool.A])
    bad.carrier.hear(Steps(steps=(Step(job.job, 1, 7, (2,)),)))
    moved = await good.job(1)
    assert (moved.job, moved.attempt, moved.output_ids) == (job.job, 2, (pool.A,))
    good.finish(fine, [pool.A] * 3)
    good.finish(moved, [pool.B] * 3)
    assert (await pool.read(answer))[0] == "aaaa"
    assert (await pool.read(lost))[0] == "abbb"
    await pool.assert_settled()


async def knocked(pool: Any, invite: str | None) -> Any:
    """What a fresh node hears that knocks: the Welcome, or the Bye that refuses it."""
    node = pool.fake()
    node.carrier.hear(Knock(invite=invite))
    await pool.coordinator.attend(node.carrier)
    assert pool.coordinator.registry.member(node.peer) is None
    welcomes = node.said(Welcome)
    return welcomes[0] if welcomes else node.carrier.bye


async def test_a_knock_tells_whether_it_may_come_and_spends_nothing(pool: Any) -> None:
    pool.access._mode = "invite"
    invite = await pool.invites.create(uses=1, ttl_s=60)
    assert "by invite" in (await knocked(pool, None)).message
    assert "unknown, used up" in (await knocked(pool, "A" * 22)).message
    for _ in range(3):
        assert (await knocked(pool, invite)).accepted == ()
    node = pool.fake()
    await pool.join(node, invite)
    assert node.said(Welcome), "the one use was still there"
    assert "unknown, used up" in (await knocked(pool, invite)).message
    # It was admitted, so it may come again without one.
    node.carrier = type(node.carrier)(node.peer)
    node.carrier.hear(Knock())
    await pool.coordinator.attend(node.carrier)
    assert node.said(Welcome)
    assert pool.coordinator.registry.member(node.peer) is not None, "its session goes on"


async def test_a_banned_node_hears_it_when_it_knocks(pool: Any) -> None:
    node = pool.fake()
    await pool.access.ban(node.peer, "x")
    node.carrier.hear(Knock())
    await pool.coordinator.attend(node.carrier)
    assert "banned" in node.carrier.bye.message


async def test_ids_that_were_not_accepted_are_no_speed(pool: Any) -> None:
    node = await pool.node()
    node.signs = False
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=9, stop=("bc",))
    job = await node.job()
    node.step(job, [pool.A])
    await asyncio.sleep(0.01)
    pool.clock.s += 0.5
    node.step(job, [pool.A, pool.A, pool.B, pool.C, pool.A, pool.A])
    await until(lambda: bool(node.said(Cut)))
    for _ in range(2):
        node.step(job, [pool.A])
    await asyncio.sleep(0.01)
    member = pool.coordinator.registry.member(node.peer)
    assert member.node.tokens_per_s == 8.0
    node.sign(job, 5)
    await pool.read(answer)


async def test_the_speed_that_is_shown_is_that_of_decoding(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    member = pool.coordinator.registry.member(node.peer)

    async def seconds(passed_s: float) -> None:
        await asyncio.sleep(0.001)
        pool.clock.s += passed_s
        member.node.heard_s = pool.clock.s

    first = await pool.serve(secret, max_tokens=21)
    job = await node.job()
    node.prefill(job)
    await seconds(9.0)
    assert pool.coordinator.nodes()[0].tokens_per_s is None
    # The first id comes with the prefill; twenty more take one second, in two parts.
    node.step(job, [pool.A])
    await seconds(0.5)
    node.step(job, [pool.A] * 10)
    node.beat()
    await seconds(0.5)
    node.finish(job, [pool.A] * 10)
    await pool.read(first)
    await seconds(5.0)
    node.beat()
    await asyncio.sleep(0.001)
    assert pool.coordinator.nodes()[0].tokens_per_s == pytest.approx(20.0)
    await pool.assert_settled()


async def test_two_streams_at_once_are_one_time_of_decoding(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    member = pool.coordinator.registry.member(node.peer)
    answers = [await pool.serve(secret, max_tokens=11) for _ in range(2)]
    jobs = [await node.job(number) for number in range(2)]
    for job in jobs:
        node.step(job, [pool.A])
    await asyncio.sleep(0.001)
    pool.clock.s += 1.0
    member.node.heard_s = pool.clock.s
    for job in jobs:
        node.finish(job, [pool.A] * 10)
    for answer in answers:
        await pool.read(answer)
    node.beat()
    await asyncio.sleep(0.001)
    assert pool.coordinator.nodes()[0].tokens_per_s == pytest.approx(20.0)
    await pool.assert_settled()


async def test_more_ids_than_max_tokens_are_misbehaviour_also_after_the_cut(pool: Any) -> None:
    node = await pool.node()
    node.signs = False
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret, max_tokens=6)
    job = await node.job()
    node.step(job, [pool.A])
    await anext(answer)
    leaving = asyncio.create_task(answer.disconnect())
    await until(lambda: bool(node.said(Cut)))
    node.step(job, [pool.A] * 5)
    await asyncio.sleep(0.01)
    assert node.carrier.bye is None
    node.step(job, [pool.A])
    await asyncio.wait_for(node.task, 5)
    assert "max_tokens" in node.carrier.bye.message
    await leaving
    assert await pool.free_micro(account) == 1000 - 5
    await pool.assert_settled()


async def test_a_session_whose_task_is_cancelled_leaves_the_pool(pool: Any) -> None:
    node = await pool.node()
    account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    await node.job()
    node.task.cancel()
    with pytest.raises(Problem) as caught:
        await pool.read(answer)
    assert caught.value.code == ProblemCode.NODE_LOST
    assert states(pool) == {}
    assert await pool.free_micro(account) == 1000
    await asyncio.wait([node.task])
    pool.fakes.remove(node)
    await pool.assert_settled()


async def test_a_job_that_nobody_waits_for_keeps_no_other_from_hearing_of_the_nodes_end(
    pool: Any,
) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    await pool.serve(secret)
    (life,) = pool.coordinator.service.live
    answer = await pool.serve(secret)
    await node.job(1)
    life.cancel()
    await asyncio.wait([life])
    node.die()
    with pytest.raises(Problem) as caught:
        await pool.read(answer)
    assert caught.value.code == ProblemCode.NODE_LOST
    assert states(pool) == {}


class Broken:
    """A job whose end we fail to tell."""

    def lost(self, problem: Problem) -> None:
        raise RuntimeError("a bug of ours")


async def test_a_job_that_cannot_be_told_of_the_nodes_end_keeps_neither_node_nor_others(
    pool: Any, caplog: pytest.LogCaptureFixture
) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret)
    await node.job()
    session = pool.coordinator.registry.member(node.peer)
    session.attempts = {("broken", 1): Broken(), **session.attempts}
    node.die()
    with pytest.raises(Problem) as caught:
        await pool.read(answer)
    assert caught.value.code == ProblemCode.NODE_LOST
    assert states(pool) == {}, "it is no member for ever"
    assert any(record.exc_info for record in caplog.records), "and our bug is in the log"


async def test_what_a_node_reports_of_itself_is_not_used(pool: Any) -> None:
    node = await pool.node()
    node.carrier.hear(Heartbeat(sent_at_ms=0, slots_busy=8, engine="ready"))
    await asyncio.sleep(0.01)
    assert pool.coordinator.nodes()[0].slots_busy == 0


async def test_silence_while_we_did_not_listen_is_forgiven(pool: Any) -> None:
    node = await pool.node()
    pool.clock.s += 7
    pool.coordinator.registry.forgive(7.0)
    pool.coordinator.registry.sweep(pool.clock.s)
    assert states(pool)[node.peer] == "ready"
