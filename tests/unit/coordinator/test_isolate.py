"""A request that crashes engines is contained: alone, once, then refused; others hardly notice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from parhelion import identity
from parhelion.coordinator.breaker import Record
from parhelion.coordinator.isolate import (
    CLEARED_IDS,
    REFUSED_LIMIT,
    REFUSED_S,
    Claim,
    Poison,
)
from parhelion.link import Cut, Open
from parhelion.words import Problem, ProblemCode, ProviderPreferences, kin

BAD = (4, 4, 4)


class Batch:
    """A fake node's engine: an id a job and tick, and a crash of all when BAD is among them."""

    def __init__(self, node: Any, letter: int, clock: Any) -> None:
        self.node, self.letter, self.clock = node, letter, clock
        self.running: dict[str, Any] = {}
        self.ticks: list[frozenset[str]] = []
        self.crashes = 0
        node.script = lambda _node, job: self.running.update({job.job: job})
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            for cut in self.node.said(Cut):
                job = self.running.get(cut.job)
                if job is not None and job.attempt == cut.attempt:
                    del self.running[cut.job]
            if self.running:
                self.ticks.append(frozenset(self.running))
                self.tick()

    def tick(self) -> None:
        jobs = list(self.running.values())
        if any(job.prompt_ids == BAD for job in jobs):
            self.crashes += 1
            # Later than all that it takes along was opened.
            self.clock.s += 0.001
            self.running.clear()
            for job in jobs:
                self.node.fail(job, "engine_crashed")
                self.node.sign(job, len(self.node.made[job.job]))
            return
        for job in jobs:
            if len(self.node.made[job.job]) + 1 == job.max_tokens:
                del self.running[job.job]
                self.node.finish(job, [self.letter])
            else:
                self.node.step(job, [self.letter])


@pytest.fixture
async def batches(closed_pool: Any) -> AsyncIterator[Callable[..., Awaitable[Batch]]]:
    """Opens the pool and makes nodes with such engines."""
    await closed_pool.open(resume_wait_s=5.0)
    made: list[Batch] = []

    async def make(letter: int, slots: int = 8) -> Batch:
        made.append(Batch(await closed_pool.node(slots=slots), letter, closed_pool.clock))
        return made[-1]

    yield make
    for batch in made:
        batch.task.cancel()


async def test_who_crashes_an_engine_twice_is_refused_and_pays_nothing(
    closed_pool: Any, batches: Any
) -> None:
    pool = closed_pool
    first, second = await batches(pool.A), await batches(pool.A)
    account, secret = await pool.user(1000)
    with pytest.raises(Problem) as caught:
        await pool.read(await pool.serve(secret, prompt=BAD))
    assert caught.value.code == ProblemCode.POISON_REQUEST
    assert first.crashes == second.crashes == 1, "once each, and never a third time"
    assert await pool.free_micro(account) == 1000
    for _ in range(2):
        with pytest.raises(Problem) as caught:
            await pool.serve(secret, prompt=BAD, max_tokens=3)
        assert caught.value.code == ProblemCode.POISON_REQUEST
    assert first.crashes == second.crashes == 1, "refused before any engine"
    assert [view.failed for view in pool.coordinator.nodes()] == [0, 0], "no node is blamed"
    assert (await pool.read(await pool.serve(secret)))[0] == "aaaa"
    pool.clock.s += REFUSED_S + 1
    first.node.beat()
    second.node.beat()
    with pytest.raises(Problem):
        await pool.read(await pool.serve(secret, prompt=BAD))
    assert first.crashes == second.crashes == 2, "after an hour it is tried again"
    await pool.assert_settled()


@pytest.mark.parametrize("nodes", [1, 3])
async def test_the_victims_of_a_crash_go_on_alone_and_only_the_culprit_is_lost(
    closed_pool: Any, batches: Any, nodes: int
) -> None:
    pool = closed_pool
    engines = [await batches(pool.A, slots=8) for _ in range(nodes)]
    account, secret = await pool.user(10_000)
    answers = [await pool.serve(secret, max_tokens=40) for _ in range(3 * nodes)]
    for answer in answers:
        await anext(answer)
    bad = await pool.serve(secret, prompt=BAD, max_tokens=40)
    bad_job = kin("job", bad.request)
    with pytest.raises(Problem) as caught:
        await pool.read(bad)
    assert caught.value.code == ProblemCode.POISON_REQUEST
    for answer in answers:
        _text, last = await pool.read(answer)
        assert last.finish_reason == "length" and last.usage.completion_tokens == 40
        assert last.usage.migrations <= 2, "its own, and room made for a suspect"
    batches_with_it = [tick for one in engines for tick in one.ticks if bad_job in tick]
    assert len(batches_with_it) == 2, "twice it ran"
    assert batches_with_it.count(frozenset({bad_job})) >= 1, "and then alone"
    assert sum(one.crashes for one in engines) == 2
    assert await pool.free_micro(account) == 10_000 - len(answers) * (3 + 2 * 40)
    await pool.assert_settled()


async def test_where_all_nodes_have_work_one_is_emptied_for_the_suspect(
    closed_pool: Any, batches: Any
) -> None:
    pool = closed_pool
    first, second = await batches(pool.A), await batches(pool.A)
    _account, secret = await pool.user(10_000)
    long = [await pool.serve(secret, max_tokens=400) for _ in range(4)]
    victim = await pool.serve(secret, max_tokens=400)
    await anext(victim)
    (home,) = [one for one in (first, second) if kin("job", victim.request) in one.running]
    job = home.running.pop(kin("job", victim.request))
    # Only this one job crashed, as far as anybody knows: its neighbours go on, on both nodes.
    home.node.fail(job, "engine_crashed")
    home.node.sign(job, len(home.node.made[job.job]))
    _text, last = await pool.read(victim)
    assert last.usage.completion_tokens == 400
    alone = [tick for one in (first, second) for tick in one.ticks if tick == {job.job}]
    assert len(alone) >= CLEARED_IDS - 1
    for answer in long:
        _text, last = await pool.read(answer)
        assert last.usage.completion_tokens == 400
    await pool.assert_settled()


async def test_a_suspect_whose_client_leaves_opens_its_node_again(
    closed_pool: Any, batches: Any, quick_signatures: None
) -> None:
    pool = closed_pool
    engine = await batches(pool.A)
    _account, secret = await pool.user(10_000)
    other = await pool.serve(secret, max_tokens=30)
    victim = await pool.serve(secret, max_tokens=30)
    await anext(victim)
    job = engine.running.pop(kin("job", victim.request))
    engine.node.fail(job, "engine_crashed")
    await asyncio.sleep(0)
    await victim.disconnect()
    assert (await pool.read(other))[1].usage.completion_tokens == 30
    assert (await pool.read(await pool.serve(secret)))[0] == "aaaa"
    await pool.assert_settled()


async def test_the_list_of_refused_prompts_is_bounded(pool: Any) -> None:
    poison = Poison(pool.clock)
    claims = [await claim_of(pool), await claim_of(pool)]
    for number in range(REFUSED_LIMIT + 1):
        poison.add(pool.DIGEST, (number,), claims)
    poison.check(pool.DIGEST, (0,))
    with pytest.raises(Problem):
        poison.check(pool.DIGEST, (1,))
    poison.check("0" * 64, (1,))


async def test_a_suspect_whose_last_id_clears_it_is_finished_and_not_moved(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(1000)
    answers = [await pool.serve(secret, max_tokens=CLEARED_IDS) for _ in range(2)]
    for number in range(2):
        node.fail(await node.job(number), "engine_crashed")
    for number in (2, 3):
        # The other one waits for the engine, so whoever is cleared has to make room.
        alone = await node.job(number)
        node.step(alone, [pool.A] * (CLEARED_IDS - 1))
        node.finish(alone, [pool.A])
    for answer in answers:
        assert (await pool.read(answer))[0] == "a" * CLEARED_IDS
    assert len(node.said(Open)) == 4
    await pool.assert_settled()


# --- a crash is what a node says ----------------------------------------------------------------


async def claim_of(pool: Any, own: bool = False) -> Claim:
    """A new node's word for a crash."""
    peer = (await pool.node()).peer
    node = pool.coordinator.registry.member(peer).node
    node.own = own
    record = Record()
    return Claim(node, record, record.crashed(1.0, 2.0))


async def liar(pool: Any, slots: int = 8) -> Any:
    """A node that says of every job that it crashed the engine."""
    node = await pool.node(slots=slots)
    node.script = lambda node, job: node.fail(job, "engine_crashed")
    return node


def views(pool: Any) -> dict[str, Any]:
    return {view.peer: view for view in pool.coordinator.nodes()}


async def test_one_operators_claims_censor_a_prompt_for_nobody_else(pool: Any) -> None:
    lying = await liar(pool)
    honest = await pool.node()
    honest.script = pool.answering(pool.A)
    account, secret = await pool.user(1000)
    with pytest.raises(Problem) as caught:
        await pool.read(await pool.serve(secret, provider=ProviderPreferences(only=(lying.peer,))))
    assert caught.value.code == ProblemCode.POISON_REQUEST
    assert "says" in caught.value.message and "nobody else" in caught.value.message
    assert await pool.free_micro(account) == 1000
    for other in (secret, (await pool.user(1000))[1], (await pool.user(1000))[1]):
        assert (await pool.read(await pool.serve(other)))[0] == "aaaa"
    seen = views(pool)[lying.peer]
    assert seen.failed >= 2 and seen.success_rate == 0.0
    assert (views(pool)[honest.peer].failed, views(pool)[honest.peer].success_rate) == (0, 1.0)
    await pool.assert_settled()


async def test_a_liar_among_honest_nodes_costs_nobody_an_answer_and_is_blamed(pool: Any) -> None:
    lying, honest = await liar(pool), await pool.node()
    honest.script = pool.answering(pool.A)
    secrets = [(await pool.user(1000))[1] for _ in range(20)]
    asked = [pool.serve(one, prompt=(2, 3, 2 + n % 9)) for n, one in enumerate(secrets)]
    for answer in await asyncio.gather(*asked):
        assert (await pool.read(answer))[0] == "aaaa"
    seen = views(pool)
    assert seen[lying.peer].failed and seen[lying.peer].success_rate == 0.0
    assert not seen[honest.peer].failed
    for secret in secrets[:9]:
        assert (await pool.read(await pool.serve(secret, prompt=(2, 3, 4))))[0] == "aaaa"
    await pool.assert_settled()


async def test_the_second_try_is_at_another_operators_node_also_when_that_is_busy(
    closed_pool: Any, batches: Any
) -> None:
    pool = closed_pool
    honest = await batches(pool.A, slots=1)
    _account, secret = await pool.user(10_000)
    running = await pool.serve(secret, max_tokens=60)
    await anext(running)
    lying = await liar(pool)
    victim = await pool.serve(secret, max_tokens=30)
    assert (await pool.read(victim))[1].usage.completion_tokens == 30
    assert (await pool.read(running))[1].usage.completion_tokens == 60
    of_victim = [one for one in lying.said(Open) if one.job.job == kin("job", victim.request)]
    assert len(of_victim) <= 1 and honest.crashes == 0
    await pool.assert_settled()


async def test_a_crash_of_the_pools_own_engine_needs_no_second_word(closed_pool: Any) -> None:
    pool = closed_pool
    key = identity.NodeKey.load_or_create(pool.folder / "own.key")
    await pool.open(own=(key.peer,))
    own = pool.fake(key=key)
    own.script = lambda node, job: node.fail(job, "engine_crashed")
    await pool.join(own)
    _account, secret = await pool.user(1000)
    with pytest.raises(Problem) as caught:
        await pool.read(await pool.serve(secret, prompt=BAD))
    assert caught.value.code == ProblemCode.POISON_REQUEST and "own" in caught.value.message
    (await pool.node()).script = pool.answering(pool.A)
    with pytest.raises(Problem) as caught:
        await pool.serve((await pool.user(1000))[1], prompt=BAD)
    assert caught.value.code == ProblemCode.POISON_REQUEST, "for everybody, at every node"
    assert len(own.said(Open)) == 2
    assert views(pool)[own.peer].failed == 0, "the prompt did it"


async def test_a_prompt_that_kills_the_only_node_is_kept_from_it_and_not_from_the_next(
    closed_pool: Any, batches: Any
) -> None:
    pool = closed_pool
    only = await batches(pool.A)
    _account, secret = await pool.user(1000)
    for _ in range(3):
        with pytest.raises(Problem) as caught:
            await pool.read(await pool.serve(secret, prompt=BAD))
        assert caught.value.code == ProblemCode.POISON_REQUEST
        assert "nobody else" in caught.value.message
        assert only.crashes == 2, "not again and again"
    assert views(pool)[only.node.peer].failed == 2
    second = await batches(pool.B)
    with pytest.raises(Problem) as caught:
        await pool.read(await pool.serve(secret, prompt=BAD))
    assert (only.crashes, second.crashes) == (2, 2)
    assert "different operators" in caught.value.message, "now it is proven"
    assert [view.failed for view in pool.coordinator.nodes()] == [0, 0], "and nobody's fault"
    await pool.assert_settled()


async def test_what_is_proven_at_nodes_that_a_client_chose_is_held_against_it_alone(
    pool: Any,
) -> None:
    lying = [await liar(pool) for _ in range(2)]
    honest = await pool.node()
    honest.script = pool.answering(pool.A)
    _account, secret = await pool.user(1000)
    with pytest.raises(Problem):
        only = ProviderPreferences(only=tuple(one.peer for one in lying))
        await pool.read(await pool.serve(secret, provider=only))
    with pytest.raises(Problem):
        await pool.serve(secret)
    _account, other = await pool.user(1000)
    chosen = ProviderPreferences(only=(honest.peer,))
    assert (await pool.read(await pool.serve(other, provider=chosen)))[0] == "aaaa"


async def test_one_operators_word_is_no_proof_however_often_it_is_given(pool: Any) -> None:
    poison, claim = Poison(pool.clock), await claim_of(pool)
    for _ in range(5):
        poison.add(pool.DIGEST, BAD, [claim, claim])
    assert poison.check(pool.DIGEST, BAD) == ({claim.node.operator},)
    assert not claim.crash.excused
    poison.add(pool.DIGEST, BAD, [await claim_of(pool)])
    with pytest.raises(Problem):
        poison.check(pool.DIGEST, BAD)
    assert claim.crash.excused


# --- what happens between a place and its job ---------------------------------------------------


async def crowded_suspect(pool: Any, begun: bool) -> tuple[Any, Any, Any]:
    """A node with a running answer, and another answer that waits for that engine alone."""
    node = await pool.node()
    _account, secret = await pool.user(10_000)
    running = await pool.serve(secret, max_tokens=20)
    suspect = await pool.serve(secret, max_tokens=20)
    if begun:
        for number, answer in enumerate((running, suspect)):
            node.step(await node.job(number), [pool.A])
            await anext(answer)
    node.signs = False
    node.fail(await node.job(1), "engine_crashed")
    async with asyncio.timeout(5):
        while not node.said(Cut):  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert len(node.said(Open)) == 2, "the other one makes room"
    return node, running, suspect


async def test_a_suspect_whose_node_leaves_before_its_job_is_sent_is_a_suspect_still(
    closed_pool: Any,
) -> None:
    pool = closed_pool
    await pool.open(resume_wait_s=5.0)
    node, running, suspect = await crowded_suspect(pool, begun=True)
    # In one breath: the slot that it waits for comes free, and the node is gone.
    node.sign(node.jobs[kin("job", running.request)], 1)
    node.die()
    await asyncio.wait_for(node.task, 5)
    assert len(node.said(Open)) == 2
    second = await pool.node()
    alone = await second.job()
    for _ in range(20):
        await asyncio.sleep(0)
    assert alone.job == kin("job", suspect.request)
    assert len(second.said(Open)) == 1, "nobody is beside it, for all that was not sent"
    second.script = pool.answering(pool.A)
    second.finish(alone, [pool.A] * 19)
    for answer in (running, suspect):
        assert (await pool.read(answer))[1].usage.completion_tokens == 20
    await pool.assert_settled()


async def test_a_suspect_that_nobody_can_serve_any_more_is_told_soon(pool: Any) -> None:
    node, running, suspect = await crowded_suspect(pool, begun=False)
    node.die()
    for answer in (running, suspect):
        async with asyncio.timeout(5):
            with pytest.raises(Problem):
                await pool.read(answer)
    await pool.assert_settled()


async def test_a_begun_suspect_waits_for_a_node_as_long_as_any_begun_answer(pool: Any) -> None:
    node = await pool.node()
    _account, secret = await pool.user(10_000)
    suspect = await pool.serve(secret, max_tokens=20)
    job = await node.job()
    node.step(job, [pool.A])
    await anext(suspect)
    node.fail(job, "engine_crashed")
    node.die()
    async with asyncio.timeout(5):
        with pytest.raises(Problem):
            await pool.read(suspect)
    await pool.assert_settled()


async def test_a_suspect_that_had_nothing_yet_waits_for_its_only_nodes_engine(
    closed_pool: Any,
) -> None:
    pool = closed_pool
    await pool.open(resume_wait_s=5.0)
    node = await pool.node()
    _account, secret = await pool.user(10_000)
    answer = await pool.serve(secret, max_tokens=4)
    job = await node.job()
    # In either order: the node's word for its engine may come before that for the job.
    node.beat(engine="crashed", reason="signal 9")
    node.fail(job, "engine_crashed")
    for _ in range(20):
        await asyncio.sleep(0)
    node.script = pool.answering(*[pool.A] * 4)
    node.beat()
    text, last = await asyncio.wait_for(pool.read(answer), 5)
    assert (text, last.usage.migrations) == ("aaaa", 1)
    await pool.assert_settled()
