"""Strangers get paid work when their ids agree with the pool's own engine's, and not before."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from parhelion.coordinator import asking, prober, questions, timing
from parhelion.identity import NodeKey
from parhelion.link import Cut, Open, Standing
from parhelion.words import (
    Problem,
    ProblemCode,
    ProviderPreferences,
    SamplerParams,
    ServedModel,
)

PROMPT = (2, 3, 4)
GREEDY = SamplerParams(temperature=0.0)


def model(ids: tuple[int, ...], salt: bytes = b"") -> int:
    """The greedy next id of a model: a hash of all ids before it."""
    return 2 + hashlib.blake2b(bytes(ids) + salt, digest_size=1).digest()[0] % 10


def runner_up(ids: tuple[int, ...]) -> int:
    """What the model would have said with a little more for it: nearly level with its choice."""
    return 2 + (model(ids) - 1) % 10


def engine(next_id: Callable[[tuple[int, ...], int], int]) -> Callable[[Any, Any], None]:
    """A script that answers every job at once with this engine's ids."""

    def answer(node: Any, job: Any) -> None:
        raised = {id for id, _more in job.params.logit_bias}
        ids = list(job.prompt_ids + job.output_ids)
        made = []
        while len(job.output_ids) + len(made) < job.max_tokens:
            before = tuple(ids)
            said = next_id(before, len(ids))
            made.append(runner_up(before) if runner_up(before) in raised else said)
            ids.append(made[-1])
        node.finish(job, made)

    return answer


HONEST = engine(lambda ids, _at: model(ids))
OTHER_MODEL = engine(lambda ids, _at: model(ids, b"other"))
CUT_CONTEXT = engine(lambda ids, _at: model(ids[-4:]))
NOISE = engine(lambda _ids, at: 2 + at % 10)
OTHER_ROUNDING = engine(lambda ids, at: model(ids) if at % 23 else runner_up(ids))
"""An honest node of another build: now and then a tie falls the other way."""

SOME_NOISE = engine(lambda ids, at: model(ids) if at % 12 else 2 + (model(ids) + 3) % 10)
"""One id in twelve is made up."""


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


async def test_who_claims_more_prefill_than_its_probe_has_is_sent_off(pool: Any) -> None:
    node = await joined(pool, lambda node, job: node.prefill(job, len(job.prompt_ids) + 1))
    async with asyncio.timeout(5):
        await node.task
    assert "prefilled" in node.carrier.bye.message


@pytest.mark.parametrize("lie", [OTHER_MODEL, CUT_CONTEXT, NOISE, SOME_NOISE])
async def test_who_serves_something_else_gets_no_paid_work_and_is_told_why(
    pool: Any, lie: Callable[[Any, Any], None]
) -> None:
    node = await joined(pool, lie)
    view = await settle(pool, node, "refused")
    assert "ids differ from the coordinator's own engine" in view.reason
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
    trial = pool.coordinator.prober._trials.begin((node.peer, pool.DIGEST))
    assert trial.probes <= 8 and trial.tally.far == 0
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


@pytest.fixture
async def unproven(closed_pool: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """A pool without an engine of its own."""
    monkeypatch.setattr(prober, "LOOK_S", 0.005)
    await closed_pool.open(probe=True)
    yield closed_pool


async def passed(pool: Any, node: Any, seconds: float) -> None:
    pool.clock.s += seconds
    node.beat()
    await asyncio.sleep(0.05)


async def test_without_an_engine_of_its_own_a_pool_refuses_nobody_and_times_who_is_idle(
    unproven: Any,
) -> None:
    node = await joined(unproven, NOISE)
    await settle(unproven, node, "ready")
    await asyncio.sleep(0.05)
    assert node.said(Open) == [], "users who waited for it go first"
    await passed(unproven, node, timing.AFTER_JOIN_S)
    assert len(node.said(Open)) == 1
    view = await settle(unproven, node, "ready")
    assert view.slots_busy == 0 and view.first_id_s is not None
    await passed(unproven, node, timing.AGAIN_S - 10)
    assert len(node.said(Open)) == 1
    await passed(unproven, node, 10)
    assert len(node.said(Open)) == 2
    await unproven.assert_settled()


async def test_a_node_at_work_is_not_timed_and_one_with_few_slots_never(unproven: Any) -> None:
    busy = await joined(unproven, lambda _node, _job: None)
    few = await joined(unproven, HONEST, slots=timing.SLOTS_LEAST - 1)
    _account, secret = await unproven.user(1000)
    await held(unproven, secret, busy, 1)
    for _ in range(3):
        few.beat()
        await passed(unproven, busy, timing.BUSY_AGAIN_S)
    assert (len(busy.said(Open)), few.said(Open)) == (1, [])


async def test_a_node_that_does_not_answer_when_timed_stays_ready_and_keeps_its_slots(
    unproven: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "DEADLINE_S", 0.02)
    node = await joined(unproven, lambda _node, _job: None)
    await passed(unproven, node, timing.AFTER_JOIN_S)
    assert len(node.said(Cut)) == 1
    view = await settle(unproven, node, "ready")
    assert view.tokens_per_s is None


async def test_the_pools_own_node_is_timed_though_nobody_compares_it(
    closed_pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prober, "LOOK_S", 0.005)
    key = NodeKey.load_or_create(closed_pool.folder / "own.key")
    await closed_pool.open(own=(key.peer,), probe=True)
    own = closed_pool.fake(key=key)
    own.script = HONEST
    await closed_pool.join(own)
    await passed(closed_pool, own, timing.AFTER_JOIN_S)
    assert len(own.said(Open)) == 1


async def test_a_pool_that_sends_no_probes_times_nobody(
    closed_pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prober, "LOOK_S", 0.005)
    await closed_pool.open(probe=False)
    node = await joined(closed_pool, HONEST)
    await passed(closed_pool, node, timing.AGAIN_S)
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


async def held(pool: Any, secret: str, node: Any, count: int) -> list[Any]:
    """Users' jobs that run at this node and do not end."""
    node.script = None
    tasks = [await pool.begin(secret, provider=only(node)) for _ in range(count)]
    async with asyncio.timeout(5):
        return [await task for task in tasks]


def only(node: Any) -> ProviderPreferences:
    return ProviderPreferences(only=(node.peer,))


def due(pool: Any, node: Any) -> None:
    """Time passes until the node is looked at again."""
    pool.clock.s += 2 * prober.AGAIN_S
    for one in (node, pool.own):
        one.beat()


async def test_a_full_node_is_probed_in_its_turn_so_honesty_when_idle_does_not_help(
    pool: Any,
) -> None:
    node = await joined(pool, HONEST, slots=2)
    await settle(pool, node, "ready")
    _account, secret = await pool.user(10_000)
    before = len(node.said(Open))
    answers = await held(pool, secret, node, 2)
    due(pool, node)
    await asyncio.sleep(0.1)
    assert len(node.said(Open)) == before + 2, "all slots are taken: the probe waits"
    # It is honest to whoever is alone, and to nobody else.
    node.script = lambda one, job: (NOISE if len(pool.coordinator.service.live) else HONEST)(
        one, job
    )
    first = node.jobs[node.said(Open)[before].job.job]
    node.finish(first, [pool.A] * first.max_tokens)
    view = await settle(pool, node, "refused")
    assert "ids differ" in view.reason
    second = node.jobs[node.said(Open)[before + 1].job.job]
    node.finish(second, [pool.A] * second.max_tokens)
    for answer in answers:
        await pool.read(answer)
    await pool.assert_settled()


async def test_at_join_all_slots_are_filled_once_and_measured_and_compared(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prober, "CROWD_UNKNOWN", 8)
    most = 0

    def answer(node: Any, job: Any) -> None:
        nonlocal most
        member = pool.coordinator.registry.member(node.peer)
        most = max(most, member.node.slots_busy)
        asyncio.get_running_loop().call_later(0.002, HONEST, node, job)

    node = await joined(pool, answer, slots=5)
    view = await settle(pool, node, "ready")
    assert most == 5
    jobs = len(node.said(Open))
    node.die()
    again = pool.fake(key=node.key)
    again.script = HONEST
    await pool.join(again, slots=5)
    assert view.peer == (await settle(pool, again, "ready")).peer
    await pool.assert_settled()
    assert jobs >= 6


async def test_who_is_honest_alone_and_not_in_a_crowd_is_refused_before_it_serves(
    pool: Any,
) -> None:
    def answer(node: Any, job: Any) -> None:
        busy = pool.coordinator.registry.member(node.peer).node.slots_busy
        script = HONEST if busy == 1 else NOISE
        asyncio.get_running_loop().call_later(0.002, script, node, job)

    node = await joined(pool, answer, slots=6)
    view = await settle(pool, node, "refused")
    assert "ids differ" in view.reason
    await pool.assert_settled()


async def test_probes_are_as_different_as_users_jobs(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prober, "CROWD_UNKNOWN", 12)
    node = await joined(pool, HONEST, slots=12)
    await settle(pool, node, "ready")
    jobs = [message.job for message in node.said(Open)]
    for different in (
        {job.job for job in jobs},
        {job.seed for job in jobs},
        {job.cache_scope for job in jobs},
        {job.opening for job in jobs},
        {job.prompt_ids for job in jobs},
    ):
        assert len(different) == len(jobs)
    for several in (
        {job.max_tokens for job in jobs},
        {job.params.temperature for job in jobs},
        {len(job.prompt_ids) for job in jobs},
    ):
        assert len(several) > 1
    assert all(job.attempt == 1 and not job.output_ids and not job.params.logit_bias
               for job in jobs)  # fmt: skip
    _account, secret = await pool.user(1000)
    await pool.read(await pool.serve(secret))
    users = node.said(Open)[-1].job
    for probe in jobs:
        assert len(probe.cache_scope) == len(users.cache_scope)
        assert len(probe.job) == len(users.job) and len(probe.opening) == len(users.opening)


async def test_a_long_answer_is_left_as_clients_do_and_its_slot_waits_for_the_node(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = pool.fake(slots=1)
    node.signs = False
    await pool.join(node)
    job = await node.job()
    ids: tuple[int, ...] = job.prompt_ids
    while not node.said(Cut):
        ids = (*ids, model(ids))
        node.step(job, [ids[-1]])
        await asyncio.sleep(0)
    (cut,) = node.said(Cut)
    assert questions.SHORTEST_IDS <= cut.n <= questions.LONGEST_IDS < job.max_tokens
    member = pool.coordinator.registry.member(node.peer)
    assert member.node.slots_busy == 1
    node.sign(job, cut.n)
    async with asyncio.timeout(1):
        while member.node.slots_busy:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_a_probe_without_an_answer_gives_its_slot_back(
    pool: Any, monkeypatch: pytest.MonkeyPatch, quick_signatures: None
) -> None:
    monkeypatch.setattr(asking, "DEADLINE_S", 0.05)
    node = await joined(pool, lambda _node, _job: None)
    await node.job()
    async with asyncio.timeout(2):
        while not node.said(Cut):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await pool.assert_settled()


async def test_who_joins_while_the_own_engine_is_away_waits_for_it_and_reads_so(
    closed_pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = closed_pool
    monkeypatch.setattr(prober, "LOOK_S", 0.005)
    key = NodeKey.load_or_create(pool.folder / "own.key")
    await pool.open(fallback=key.peer, probe=True)
    node = await joined(pool, HONEST)
    for _ in range(3):
        view = await settle(pool, node, "measuring")
        assert view.reason == "waits for the pool's own engine to compare with"
        await asyncio.sleep(0.02)
    (waiting,) = node.said(Standing)
    assert waiting == Standing(paid_work=False, reason=view.reason, state="measuring")
    _account, secret = await pool.user(1000)
    with pytest.raises(Problem) as caught:
        await pool.serve(secret)
    assert caught.value.code == ProblemCode.NO_NODE

    own = pool.fake(key=key)
    own.script = HONEST
    await pool.join(own)
    await settle(pool, node, "ready")
    assert [told.state for told in node.said(Standing)] == ["measuring", "measuring", "ready"]
    assert "being compared" in node.said(Standing)[1].reason
    _text, last = await pool.read(await pool.serve(secret, params=GREEDY))
    assert last.usage.nodes == (node.peer,)
    # Crash the own engine and join: nobody gets round the comparison that way.
    own.die()
    await until_gone(pool, own)
    liar = await joined(pool, NOISE)
    view = await settle(pool, liar, "measuring")
    assert view.reason == "waits for the pool's own engine to compare with"
    assert (await settle(pool, node, "ready")).reason is None, "who was compared goes on"
    await pool.assert_settled()


async def test_who_serves_what_the_own_engine_does_not_waits_for_nothing(
    closed_pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = closed_pool
    monkeypatch.setattr(prober, "LOOK_S", 0.005)
    card = msgspec.structs.replace(pool.catalogue.model.card, id="tests/other", digest="7" * 64)
    pool.catalogue.default = type(pool.catalogue.model)(card)
    key = NodeKey.load_or_create(pool.folder / "own.key")
    await pool.open(fallback=key.peer, probe=True)
    node = await joined(pool, HONEST)
    await settle(pool, node, "measuring")
    own = pool.fake(key=key)
    await pool.join(own, models=(ServedModel(digest="7" * 64, context=1000),))
    await settle(pool, node, "ready")
    assert node.said(Open) == [], "there is nothing to compare with"
    own.die()
    await until_gone(pool, own)
    await settle(pool, await joined(pool, HONEST), "ready")


async def until_gone(pool: Any, node: Any) -> None:
    async with asyncio.timeout(5):
        while pool.coordinator.registry.member(node.peer) is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
