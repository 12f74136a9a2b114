"""A prompt that crashes a stage: whose word that is; no operator makes it proof alone."""

from __future__ import annotations

import asyncio
from itertools import permutations, product

import pytest

from parhelion.coordinator.breaker import Record
from parhelion.coordinator.isolate import Claim, Isolation, Poison
from parhelion.coordinator.queue import Ticket
from parhelion.coordinator.registry import Node
from parhelion.coordinator.room import Room
from parhelion.coordinator.route import Need
from parhelion.link import JobFailed, StageFailed
from parhelion.testing import ManualClock
from parhelion.words import NodeCard, Problem, ProblemCode
from tests.unit.coordinator.rings import Rig, StageNode

BAD = (4, 4, 4)
DIGEST = "d" * 64


def ring(*operators: str) -> Node:
    """A pipeline of these operators' nodes, in this order."""
    name = "-".join(operators)
    card = NodeCard(
        peer=name, name=name, version="1", device="", backend="", slots=1, kv_tokens=1, models=()
    )
    rooms = {DIGEST: Room(100, 1, 100)}
    return Node(card, rooms, 0, 0.0, 0.0, stages=operators, operators=frozenset(operators))


def said(node: Node) -> Claim:
    """Its word for a crash."""
    record = Record()
    return Claim(node, record, record.crashed(1.0, 2.0))


def is_refused(poison: Poison) -> bool:
    try:
        poison.check(DIGEST, BAD)
    except Problem:
        return True
    return False


def test_an_operator_in_both_pipelines_proves_nothing_wherever_it_stands() -> None:
    for one, other in product(permutations("abc"), permutations("ade")):
        poison = Poison(ManualClock())
        poison.add(DIGEST, BAD, [said(ring(*one)), said(ring(*other))])
        assert not is_refused(poison), "a may have sent both what crashes them"
        assert poison.check(DIGEST, BAD) == (frozenset("a"),)
        poison.add(DIGEST, BAD, [said(ring("d", "b"))])
        assert is_refused(poison), "nobody was in all three"


def test_pipelines_without_a_common_operator_are_proof_like_two_nodes() -> None:
    poison, claims = Poison(ManualClock()), [said(ring("a", "b")), said(ring("c", "d"))]
    poison.add(DIGEST, BAD, claims)
    assert is_refused(poison)
    assert all(claim.crash.excused for claim in claims)


def test_what_is_proven_stays_so_whatever_one_operator_adds() -> None:
    poison = Poison(ManualClock())
    poison.add(DIGEST, BAD, [said(ring("a")), said(ring("b"))])
    poison.add(DIGEST, BAD, [said(ring("c"))])
    assert is_refused(poison)


async def crashes(rig: Rig, stages: tuple[StageNode, ...], place: int, attempt: int) -> None:
    """The stage at this place crashes under the attempt, and its pipeline is set up again."""
    await rig.until(lambda: any(go.attempt == attempt for go in stages[0].went))
    dying = stages[place]
    name = stages[0].went[-1].job
    (one,) = rig.pipelines.deployments.values()
    ring = one.session
    dying.hear(JobFailed(job=name, attempt=attempt, code="engine_crashed", message="signal 9"))
    stage = dying.loaded[-1]
    dying.hear(StageFailed(stage=stage, code="engine_crashed", message="signal 9"))
    await rig.until(lambda: one.session not in (None, ring))


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_prompt_that_crashes_a_stage_is_kept_from_that_pipeline_and_from_nobody_else(
    rig: Rig, place: int
) -> None:
    pool = rig.pool
    for _ in range(3):
        await rig.join(layers=2)
    stages = await rig.serving()
    _account, secret = await pool.user(1000)
    answer = await pool.serve(secret, prompt=BAD)
    for attempt in (1, 2):
        await crashes(rig, stages, place, attempt)
    with pytest.raises(Problem) as caught:
        await pool.read(answer)
    assert caught.value.code == ProblemCode.POISON_REQUEST
    assert "nobody else" in caught.value.message
    went = len(stages[0].went)
    with pytest.raises(Problem) as caught:
        await pool.serve(secret, prompt=BAD)
    assert caught.value.code == ProblemCode.POISON_REQUEST
    assert len(stages[0].went) == went, "nor in its next epoch, under another name"
    whole = await pool.node()
    whole.script = pool.answering(pool.A)
    for who in (secret, (await pool.user(1000))[1]):
        assert (await pool.read(await pool.serve(who, prompt=BAD)))[0] == "aaaa"
    assert len(stages[0].went) == went
    await pool.assert_settled()


async def test_the_second_try_goes_past_an_idle_pipeline_with_the_same_operator() -> None:
    """Also after it was set up again, under another name than the one that crashed."""
    again, other = ring("b", "a"), ring("c")
    other.rooms[DIGEST].slots_busy = other.slots_busy = 1
    got: list[Node] = []
    moved: list[Node] = []
    nodes = [again, other]
    isolation = Isolation(lambda: nodes, lambda node, _digest: moved.append(node))
    future: asyncio.Future[Node] = asyncio.get_running_loop().create_future()
    need = Need(DIGEST, 1, 1, alone=True)
    isolation.join(Ticket(need, "client", frozenset(), future, last_resort=frozenset("a")))
    isolation.serve(lambda node, _ticket: got.append(node))
    assert (got, moved) == ([], [other]), "the other one is emptied for it"
    nodes.remove(other)
    isolation.serve(lambda node, _ticket: got.append(node))
    assert got == [again], "where nobody else ever could"
