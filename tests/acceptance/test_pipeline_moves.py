"""Layers move under running streams: for a gain, for a loss in the middle of it, or not at all."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from parhelion.testing.processes import UNTIMED, Running, start_pool, start_run
from tests.acceptance.members import (
    HALF,
    LAYERS,
    READY_LIMIT_S,
    STREAM,
    STREAM_IDS,
    Members,
    Throttle,
    Told,
    answer,
    ids_of,
    members_of,
    prompt,
)
from tests.acceptance.test_kill import imbalances

TIGHT = "257MB"
"""Just 16 layers with the embedding and 14 with the head: two machines hold the model, in one way
only."""

ONE_LAYER = "98MB"
"""One layer and no more: who takes it off a stage of 15 gains less than a tenth."""

ROOMY = "330MB"
"""Nearly the whole model, but not all of it: two machines hold it in many ways."""

LOOK_OFTEN_S = 0.003
"""A pipeline is linked within some 50 ms."""

BEGUN_AT = 8
"""An event of a stream that is well under way."""

Whole = list[tuple[str, list[int]]]


def begun(
    clients: ThreadPoolExecutor,
    pool: Running,
    stages: list[str] | None = None,
    then: Callable[[], None] = lambda: None,
) -> Future[Told]:
    """A long stream that has said something, where it can at these nodes."""
    first: Future[None] = Future()

    def is_on() -> None:
        first.set_result(None)
        then()

    body = STREAM if stages is None else {**STREAM, "provider": {"order": stages}}
    told = clients.submit(answer, pool, body, BEGUN_AT, is_on)
    first.result(READY_LIMIT_S)
    return told


def is_whole(pool: Running, told: Told, whole: Whole, migrations: int) -> None:
    """A long stream's text and ids are the whole model's, however often it moved."""
    text, ids = whole[-1]
    assert told.text == text
    usage = told.usage
    assert (usage["completion_tokens"], usage["migrations"]) == (STREAM_IDS, migrations)
    assert ids_of(pool, usage["receipt"]) == ids


def stage_processes(members: Members, peer: str) -> list[int]:
    """The processes of stages that a member has."""
    found = list[int]()
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(members.running[peer].process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "parhelion.engines.stage_host" in child.cmdline():
                    found.append(child.pid)
    return found


# --- a loss while layers are dealt anew -------------------------------------------------------


@pytest.fixture(scope="module")
def with_whole(
    tmp_path_factory: pytest.TempPathFactory, smollm2: Path
) -> Iterator[tuple[Members, str]]:
    """The machines of a paid pool that asks nothing of its own accord; one has the whole model."""
    folder = tmp_path_factory.mktemp("losses")
    with members_of(start_pool(folder / "pool", env=UNTIMED), folder) as made:
        yield made, made.join(None)
    assert imbalances(folder / "pool") == ()


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("states", [("loading",), ("linking", "timing")], ids=["load", "link"])
def test_a_member_killed_while_layers_are_dealt_anew_loses_no_stream_and_hangs_nobody(
    with_whole: tuple[Members, str], whole_stories: Whole, states: tuple[str, ...]
) -> None:
    members, whole = with_whole
    members.have(4)
    pool, stages = members.pool, members.stages()
    lost, name = stages[0], members.name(stages[0])
    # A third one is standby, or has layers where that was a gain; then the two others take them.
    spare = next(iter(members.running.keys() - {whole, *stages}), stages[-1])
    balance = int(pool.call("GET", "/v1/credits/balance")[2]["available"])

    with ThreadPoolExecutor() as clients:
        told = begun(clients, pool, stages, lambda: members.take(lost).process.kill())
        until_dealt(members, lost, spare, states)
        struck_s = time.monotonic()
        seen = members.pipeline()["state"]
        members.take(spare).process.kill()
        one = told.result(READY_LIMIT_S)
    is_whole(pool, one, whole_stories, migrations=1)
    assert one.usage["nodes"] == [*stages, whole]
    held = pool.call("GET", "/v1/credits/balance")[2]
    assert (held["held"], int(held["available"])) == ("0", balance - int(one.usage["cost"]))
    print(f"\nkilled when {seen}; stalled for {one.stall_s(struck_s):.2f} s")

    # Who is left waits with its layers, and serves again with whoever closes the hole.
    members.join(name=name)
    print(f"\nback to serving: {members.until_serving():.2f} s")
    assert {*members.stages()} == members.running.keys() - {whole}
    body = {**prompt(0), "provider": {"order": members.stages()}}
    again = answer(pool, body)
    assert (again.text, again.usage["nodes"]) == (whole_stories[0][0], members.stages())


def until_dealt(members: Members, lost: str, to: str, states: tuple[str, ...]) -> None:
    """Wait until the plan has layers for it in place of another; the pipeline is so far, or on."""
    further = (*states, "linking", "timing", "serving")
    deadline_s = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < deadline_s:
        pipeline = members.pipeline()
        peers = peers_of(pipeline)
        if to in peers and lost not in peers and pipeline["state"] in further:
            return
        time.sleep(LOOK_OFTEN_S)
    raise AssertionError(f"it was never {states}")


# --- a gain -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_layers_move_for_a_gain_only_and_streams_end_where_they_began(
    tmp_path: Path, whole_stories: Whole
) -> None:
    pool = start_pool(tmp_path / "pool", env=UNTIMED)
    with members_of(pool, tmp_path) as members:
        with_a_slow_first_stage(members)
        before = members.stages()
        processes = {peer: stage_processes(members, peer) for peer in before}

        small = members.join(ONE_LAYER)
        until_planned_for(members, small)
        assert (members.pipeline()["epoch"], members.stages()) == (1, before)
        assert {peer: stage_processes(members, peer) for peer in before} == processes

        with ThreadPoolExecutor() as clients, held_up(members, before[-1]):
            told = begun(clients, pool)
            # It is killed while it loads: the plan is again what it was, and nobody noticed.
            lost = members.join(HALF)
            members.until(lambda: lost in members.stages(), "it is not planned for")
            assert not told.done(), "the stream was to be under way"
            members.take(lost).process.kill()
            members.until(lambda: lost not in members.stages(), "it is still planned for")
            one = told.result(READY_LIMIT_S)
        is_whole(pool, one, whole_stories, migrations=0)
        assert one.usage["nodes"] == before
        members.until_serving()
        assert members.stages() == before

        with ThreadPoolExecutor() as clients, held_up(members, before[-1]) as holding:
            told = begun(clients, pool)
            large = members.join(HALF)
            members.until(lambda: large in members.stages(), "it is not planned for")
            assert not told.done(), "the stream was to be under way"
            epoch = members.pipeline()["epoch"]
            holding.end()
            one = told.result(READY_LIMIT_S)
        is_whole(pool, one, whole_stories, migrations=0)
        assert one.usage["nodes"] == before, "it ends on the ring that it began on"
        members.until_serving()
        after = members.stages()
        pipeline = members.pipeline()
        assert pipeline["epoch"] == epoch > 1 and large in after
        told = answer(pool, STREAM)
        is_whole(pool, told, whole_stories, migrations=0)
        assert told.usage["nodes"] == after
        for peer in members.running:
            members.until(
                lambda peer=peer: len(stage_processes(members, peer)) == (peer in after),
                f"{peer} has not let go of what it held",
            )
    assert imbalances(tmp_path / "pool") == ()


def with_a_slow_first_stage(members: Members) -> None:
    """Two machines serve, of which the first one was slow when it was timed: there is to gain."""
    peers = [members.join(TIGHT) for _ in range(2)]
    members.until(lambda: len(members.stages()) == 2, "no plan")
    slow = members.stages()[0]
    members.until(lambda: bool(stage_processes(members, slow)), "it has no stage")
    (process,) = stage_processes(members, slow)
    with Throttle(psutil.Process(process), still_s=0.12, at_work_s=0.01) as throttle:
        throttle.begin()
        members.until_serving()
    assert set(members.stages()) == set(peers)
    steps_ms = {stage["peer"]: stage["step_ms"] for stage in members.pipeline()["stages"]}
    print(f"\nsteps of {steps_ms[slow]:.1f} and {min(steps_ms.values()):.1f} ms")
    assert steps_ms[slow] > 2 * min(steps_ms.values())


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_machine_that_is_slow_from_the_start_has_fewer_layers_within_seconds(
    tmp_path: Path, whole_stories: Whole
) -> None:
    pool = start_run(tmp_path / "pool", 2, env=UNTIMED)
    with members_of(pool, tmp_path) as members:
        with ThreadPoolExecutor() as starting:
            list(starting.map(lambda n: members.join(ROOMY, name=f"m{n}"), range(2)))
        members.until(lambda: len(members.stages()) == 2, "no plan")
        slow = members.stages()[0]
        had = layers_of(members, slow)
        members.until(lambda: bool(stage_processes(members, slow)), "it has no stage")
        (process,) = stage_processes(members, slow)
        with Throttle(psutil.Process(process), still_s=0.03, at_work_s=0.005) as throttle:
            throttle.begin()
            dealt_s = members.until(lambda: members.pipeline()["epoch"] > 1, "it is as it was")
        ready_s = members.until_serving()
        print(f"\ndealt anew after {dealt_s:.1f} s, served {ready_s:.1f} s later")
        assert layers_of(members, slow) < had, "it has less to do"
        told = answer(pool, prompt(0))
        assert (told.text, told.usage["migrations"]) == (whole_stories[0][0], 0)
        assert members.pipeline()["epoch"] == 2


def layers_of(members: Members, peer: str) -> int:
    """How many layers the plan has for it."""
    stages = members.pipeline()["stages"]
    return sum(stage["end"] - stage["start"] for stage in stages if stage["peer"] == peer)


@contextlib.contextmanager
def held_up(members: Members, peer: str) -> Iterator[Throttle]:
    """Streams take a while: what a stage says is passed on late. Its steps are as quick as ever."""
    process = psutil.Process(members.running[peer].process.pid)
    with Throttle(process, still_s=0.12, at_work_s=0.02) as throttle:
        throttle.begin()
        yield throttle


def until_planned_for(members: Members, peer: str) -> None:
    """Wait until a plan knows a machine."""

    def is_known() -> bool:
        status, _headers, plan = members.pool.call("GET", "/v1/plan")
        assert status == 200, plan
        return any(member["peer"] == peer for member in plan["members"])

    members.until(is_known, "no plan knows it")


# --- two pipelines ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_loss_of_one_of_two_pipelines_leaves_the_streams_of_the_other_alone(
    tmp_path: Path, whole_stories: Whole
) -> None:
    # Planned for when all are there: one after the other, each would join the first pipeline.
    pool = start_run(tmp_path / "pool", 4, env=UNTIMED)
    with members_of(pool, tmp_path) as members:
        with ThreadPoolExecutor() as starting:
            list(starting.map(lambda n: members.join(HALF, name=f"m{n}"), range(4)))
        members.until(lambda: both_serve(members), "two pipelines do not serve")
        one, other = pipelines(members)
        first, second = peers_of(one), peers_of(other)
        assert one["id"] != other["id"] and not {*first} & {*second}
        for pipeline in (one, other):
            bounds = [0, *(stage["end"] for stage in pipeline["stages"])]
            assert [stage["start"] for stage in pipeline["stages"]] == bounds[:-1]
            assert bounds[-1] == LAYERS

        with ThreadPoolExecutor() as clients:
            told = [clients.submit(answer, pool, prompt(number)) for number in range(4)]
            for number, asked in enumerate(told):
                assert asked.result().text == whole_stories[number][0]
            used = {tuple(asked.result().usage["nodes"]) for asked in told}
            assert used == {tuple(first), tuple(second)}, "both serve at once"

            kept = [stage_processes(members, peer) for peer in second]
            moved = begun(clients, pool, first)
            stays = begun(clients, pool, second)
            members.take(first[0]).process.kill()
            is_whole(pool, stays.result(), whole_stories, migrations=0)
            is_whole(pool, moved.result(), whole_stories, migrations=1)
        assert stays.result().usage["nodes"] == second
        assert moved.result().usage["nodes"] == [*first, *second]
        left = {pipeline["id"]: pipeline for pipeline in pipelines(members)}[other["id"]]
        assert (left["epoch"], left["state"]) == (other["epoch"], "serving")
        assert (peers_of(left), left["failed"]) == (second, 0)
        assert [stage_processes(members, peer) for peer in second] == kept


def pipelines(members: Members) -> list[dict[str, Any]]:
    return members.nodes()["pipelines"]


def peers_of(pipeline: dict[str, Any]) -> list[str]:
    return [stage["peer"] for stage in pipeline["stages"]]


def both_serve(members: Members) -> bool:
    return [pipeline["state"] for pipeline in pipelines(members)] == ["serving", "serving"]
