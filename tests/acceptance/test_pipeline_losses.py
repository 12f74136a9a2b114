"""Stages between others, full pipelines, and several machines at once are lost: no stream is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from parhelion.testing.processes import UNTIMED, Running, start_pool
from tests.acceptance.members import (
    STREAM,
    THIRD,
    Members,
    Told,
    answer,
    members_of,
    prompt,
    receipt_of,
)
from tests.acceptance.test_kill import imbalances
from tests.acceptance.test_pipeline_failures import (
    RATE_MICRO,
    REPAIRED_LIMIT_S,
    available,
    goes_through,
    kill_it,
    kill_its_stage,
    some_dice,
    some_token,
    verified,
)

RESUME_WAIT_S = 40.0
"""What a stream waits for machines that come back: their processes are started in some 5 s."""

CHOIR = 8
"""Streams at once: as many as a pipeline has slots."""

FIRST_IDS = 24
"""By then all of a choir have begun, and none is at its end."""

MOVES_LIMIT = 2
"""Off the lost stage; and off the next one where another has to be alone there: a stage's crash
may be any one's fault, so each is tried alone for a few ids first (DESIGN 5)."""

TURN_LIMIT_S = 2.0
"""For a prefill and eight ids of one of them, of which nothing is cached; some 0.3 s."""

Strike = Callable[[Members, str], None]
Then = Callable[[list[str]], object]


def nothing(_names: list[str]) -> None:
    """Nothing more happens."""


def part(number: int) -> dict[str, Any]:
    """What one of a choir asks: six greedily, two by a seed."""
    body = prompt(number % 6)
    return body if number < 6 else {**body, "temperature": 0.8, "seed": number}


@dataclass(frozen=True, slots=True)
class Loss:
    """A stream under which machines were struck: its answer, who they were, and when."""

    told: Told
    struck: list[str]
    struck_s: float

    @property
    def stall_s(self) -> float:
        """The longest silence that ended after it."""
        return self.told.stall_s(self.struck_s)


def lose(
    members: Members, at: int, places: list[int], strike: Strike, more: Then = nothing
) -> Loss:
    """A stream at whose event `at` the stages at these places are struck, all at once."""
    struck, struck_s = list[str](), 0.0

    def befall() -> None:
        nonlocal struck_s
        stages = members.stages()
        struck.extend(stages[place] for place in places)
        names = [members.name(peer) for peer in struck]
        struck_s = time.monotonic()
        for peer in struck:
            strike(members, peer)
        more(names)

    told = answer(members.pool, STREAM, at, befall)
    return Loss(told, struck, struck_s)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Members]:
    """The machines of a paid pool that asks nothing of its own accord."""
    folder = tmp_path_factory.mktemp("losses")
    env = {**UNTIMED, "PARHELION_NODES_RESUME_WAIT_S": str(RESUME_WAIT_S)}
    with members_of(start_pool(folder / "pool", env=env), folder) as made:
        yield made
    assert imbalances(folder / "pool") == ()


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("strike", [kill_its_stage, kill_it])
def test_a_paid_stream_goes_on_when_a_stage_between_two_others_is_lost(
    members: Members,
    whole_stories: list[tuple[str, list[int]]],
    tmp_path: Path,
    strike: Strike,
) -> None:
    members.have(4, THIRD)
    before, at = available(members.pool), some_token()
    loss = lose(members, at, [1], strike)
    print(f"\n{strike.__name__} in the middle at {at}: stalled for {loss.stall_s:.2f} s")
    receipt = goes_through(members.pool, loss.told, whole_stories[-1], tmp_path)
    one, other = receipt["segments"]
    assert [stage["node"] for stage in one["stages"]][1:2] == loss.struck
    assert len(one["stages"]) == 3
    for stage in one["stages"]:
        is_here = stage["node"] in members.running
        assert (stage["signature"] is not None) == is_here, stage
        assert (stage["reason"] is None) == is_here, stage
    assert all(stage["signature"] for stage in other["stages"])
    assert available(members.pool) == before - int(loss.told.usage["cost"])
    assert loss.stall_s < REPAIRED_LIMIT_S


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("strike", [kill_its_stage, kill_it])
def test_every_stream_of_a_full_pipeline_goes_on_when_a_stage_of_it_is_killed(
    members: Members,
    whole_stories: list[tuple[str, list[int]]],
    tmp_path: Path,
    strike: Strike,
) -> None:
    members.have(4, THIRD)
    pool, dice = members.pool, some_dice()
    # Those by a seed are compared with the pipeline before, each alone in it.
    alone = [answer(pool, part(number)) for number in range(6, CHOIR)]
    whole = whole_stories[:6] + [
        (one.text, receipt_of(pool, one.usage["receipt"])[1]["output_ids"]) for one in alone
    ]
    before, at, place = available(pool), dice.randrange(2, FIRST_IDS), dice.randrange(3)
    struck_s = 0.0

    def befall() -> None:
        nonlocal struck_s
        peer = members.stages()[place]
        struck_s = time.monotonic()
        strike(members, peer)

    told = sung(pool, at, dice.randrange(CHOIR), befall)
    stalls_s = [round(one.stall_s(struck_s), 2) for one in told]
    moved = [one.usage["migrations"] for one in told]
    print(f"\n{strike.__name__} of {place} of {CHOIR} streams at {at}: {stalls_s} s, moved {moved}")
    costs = [is_as_whole(pool, one, due) for one, due in zip(told, whole, strict=True)]
    assert available(pool) == before - sum(costs), "each is billed once"
    verified(pool, *receipt_of(pool, dice.choice(told).usage["receipt"]), tmp_path)
    assert 0 < max(moved) <= (MOVES_LIMIT if strike is kill_its_stage else 1)
    assert max(stalls_s) < REPAIRED_LIMIT_S + CHOIR * TURN_LIMIT_S
    # No slot is left behind: as many are served again at once.
    members.until_settled()
    assert members.pipeline()["slots_busy"] == 0
    again = sung(pool)
    assert [one.text for one in again] == [text for text, _ids in whole]
    assert all(one.usage["migrations"] == 0 for one in again)


def sung(
    pool: Running, at: int = 0, whose: int = 0, then: Callable[[], None] = lambda: None
) -> list[Told]:
    """A choir's answers; `then` happens at event `at` of the one with the number `whose`."""
    with ThreadPoolExecutor(CHOIR) as clients:
        asked = [
            clients.submit(answer, pool, part(number), at if number == whose else 0, then)
            for number in range(CHOIR)
        ]
        return [one.result() for one in asked]


def is_as_whole(pool: Running, told: Told, whole: tuple[str, list[int]]) -> int:
    """It is what the whole model says, and what it cost is due for it once; the cost."""
    text, ids = whole
    assert told.text == text
    receipt, evidence = receipt_of(pool, told.usage["receipt"])
    assert evidence["output_ids"] == ids
    spans = [(one["start"], one["to"]) for one in receipt["segments"]]
    assert spans[0][0] == 0 and spans[-1][1] == len(ids)
    assert all(one[1] == other[0] for one, other in pairwise(spans))
    cost = (told.usage["prompt_tokens"] + told.usage["completion_tokens"]) * RATE_MICRO
    assert int(told.usage["cost"]) == int(receipt["cost_micro"]) == cost
    return cost


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("count", [5, 3], ids=["standbys-take-their-place", "they-come-back"])
def test_a_stream_goes_on_when_two_machines_of_three_are_killed_at_once(
    members: Members,
    whole_stories: list[tuple[str, list[int]]],
    tmp_path: Path,
    count: int,
) -> None:
    members.have(count, THIRD)
    dice, before = some_dice(), available(members.pool)
    at, places = some_token(dice), sorted(dice.sample(range(3), 2))
    with ThreadPoolExecutor(2) as starting:

        def again(names: list[str]) -> None:
            for name in names if count == 3 else ():
                starting.submit(members.join, THIRD, name=name)

        loss = lose(members, at, places, kill_it, again)
    print(f"\n{places} of {count} machines at {at}: stalled for {loss.stall_s:.2f} s")
    receipt = goes_through(members.pool, loss.told, whole_stories[-1], tmp_path)
    one, other = ({stage["node"] for stage in seg["stages"]} for seg in receipt["segments"])
    assert set(loss.struck) < one
    assert one == other if count == 3 else not set(loss.struck) & other
    assert available(members.pool) == before - int(loss.told.usage["cost"])
    assert loss.stall_s < (RESUME_WAIT_S if count == 3 else REPAIRED_LIMIT_S)
