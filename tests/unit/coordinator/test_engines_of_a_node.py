"""A node with two models has two engines: where one fails, the other's work goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from parhelion.config import NodesConfig
from parhelion.coordinator.registry import Node, Room, state_of
from parhelion.coordinator.session import FAULT_LIMIT_CHARS, Misbehaved, engine_faults
from parhelion.link import Cut, EngineState, Heartbeat
from parhelion.words import NodeCard, Problem, ProblemCode, ServedModel

OTHER, OTHER_NAME = "e" * 64, "tests/other"
UNKNOWN = "9" * 64
"""Offered by the node, and not in the pool's catalogue."""


@pytest.fixture
async def two(pool: Any) -> Any:
    """A pool with a second model, which is its default."""
    card = msgspec.structs.replace(pool.catalogue.model.card, id=OTHER_NAME, digest=OTHER)
    pool.catalogue.default = type(pool.catalogue.model)(card)
    return pool


async def join(pool: Any, slots: int = 4) -> Any:
    models = tuple(
        ServedModel(digest=digest, context=1000) for digest in (pool.DIGEST, OTHER, UNKNOWN)
    )
    return await pool.node(slots=slots, models=models)


def crashed(digest: str, reason: str = "signal 9") -> EngineState:
    return EngineState(digest=digest, state="crashed", reason=reason)


async def beats(pool: Any, node: Any, *engines: EngineState) -> None:
    """The node says which of its engines do not run, and the pool has heard it."""
    engine = engines[0].state if engines else "ready"
    node.beat(engine=engine, engines=engines)
    for _ in range(5):
        await asyncio.sleep(0)


def shown(pool: Any) -> Any:
    (view,) = pool.coordinator.nodes()
    return view


def states(pool: Any) -> dict[str, str]:
    return {one.model: one.state for one in shown(pool).model_states}


async def test_one_models_crash_leaves_the_other_models_streams_and_dispatch(two: Any) -> None:
    node = await join(two)
    _account, secret = await two.user(1000)
    running = await two.serve(secret, model=OTHER_NAME)
    await beats(two, node, crashed(two.DIGEST))
    assert shown(two).state == "ready"
    assert shown(two).reason == "1 of 2 models failed: signal 9"
    assert states(two) == {"tests/abc": "failed", OTHER_NAME: "ready"}
    with pytest.raises(Problem) as caught:
        await two.serve(secret, model="tests/abc")
    assert caught.value.code == ProblemCode.NO_NODE
    another = await two.serve(secret, model=OTHER_NAME)
    for number, answer in enumerate((running, another)):
        node.finish(await node.job(number), [two.A] * 4)
        text, last = await two.read(answer)
        assert (text, last.usage.migrations) == ("aaaa", 0)
    await beats(two, node)
    assert (shown(two).state, shown(two).reason) == ("ready", None)
    answer = await two.serve(secret, model="tests/abc")
    node.finish(await node.job(2), [two.A] * 4)
    assert (await two.read(answer))[0] == "aaaa"
    await two.assert_settled()


async def test_who_waits_for_the_failed_model_is_served_when_its_engine_is_back(two: Any) -> None:
    node = await join(two)
    spare = await join(two, slots=1)
    _account, secret = await two.user(1000)
    await beats(two, node, crashed(two.DIGEST))
    first = await two.serve(secret, model="tests/abc")
    second = await two.begin(secret, model="tests/abc")
    await spare.job()
    assert not second.done() and not node.jobs, "the spare node is full, and the other one is out"
    await beats(two, node)
    node.finish(await node.job(), [two.A] * 4)
    spare.finish(await spare.job(), [two.A] * 4)
    for answer in (first, await second):
        assert (await two.read(answer))[0] == "aaaa"


async def test_health_and_capacity_go_by_the_engine_and_not_by_the_node(two: Any) -> None:
    node = await join(two)
    assert two.coordinator.health().status == "ready"
    assert two.coordinator.places.capacity(OTHER) == 1000
    await beats(two, node, crashed(two.DIGEST))
    assert two.coordinator.health().status == "ready", "the default model's engine runs"
    await beats(two, node, crashed(OTHER))
    assert two.coordinator.health().status == "waiting"
    assert two.coordinator.places.capacity(OTHER) is None
    assert two.coordinator.places.capacity(two.DIGEST) == 1000


async def test_a_node_whose_engines_all_fail_has_failed(two: Any) -> None:
    node = await join(two)
    await beats(two, node, crashed(two.DIGEST), crashed(OTHER, "signal 6"))
    assert (shown(two).state, shown(two).reason) == ("failed", "signal 9")
    await beats(two, node, crashed(OTHER, "signal 6"))
    assert shown(two).state == "ready"
    assert states(two) == {"tests/abc": "ready", OTHER_NAME: "failed"}


async def test_a_heartbeat_that_names_no_engine_speaks_of_all(two: Any) -> None:
    node = await join(two)
    node.beat(engine="hung", reason="no progress")
    await asyncio.sleep(0.01)
    assert (shown(two).state, shown(two).reason) == ("failed", "no progress")
    await beats(two, node)
    assert shown(two).state == "ready"


async def test_a_job_that_stands_still_is_its_own_engines_fault(two: Any) -> None:
    node = await join(two)
    _account, secret = await two.user(1000)
    still = await two.serve(secret, model="tests/abc")
    moving = await two.serve(secret, model=OTHER_NAME, max_tokens=20)
    await node.job(1)
    for _ in range(8):
        two.clock.s += 1
        node.step(await node.job(1), [two.A])
        await beats(two, node)
        two.coordinator.registry.sweep(two.clock.s)
    assert states(two) == {"tests/abc": "failed", OTHER_NAME: "ready"}
    assert [cut.job for cut in node.said(Cut)] == [(await node.job()).job]
    node.finish(await node.job(1), [two.A] * 12)
    assert (await two.read(moving))[0] == "a" * 20
    await still.disconnect()


async def test_a_suspect_has_its_engine_to_itself_and_not_the_whole_node(two: Any) -> None:
    node = await join(two)
    _account, secret = await two.user(1000)
    other = await two.serve(secret, model=OTHER_NAME)
    suspects = [await two.serve(secret, model="tests/abc") for _ in range(2)]
    other_job, *jobs = [await node.job(number) for number in range(3)]
    for job in jobs:
        node.fail(job, "engine_crashed")
    alone = await node.job(3)
    later = await two.serve(secret, model=OTHER_NAME)
    await node.job(4)
    assert alone.attempt == 2 and len(node.jobs) == 4, "one suspect runs, the other one waits"
    assert not node.said(Cut), "the other model's stream was not moved"
    for job in (other_job, alone, await node.job(4)):
        node.finish(job, [two.A] * 4)
    node.finish(await node.job(5), [two.A] * 4)
    for answer in (other, later, *suspects):
        assert (await two.read(answer))[0] == "aaaa"
    await two.assert_settled()


CARD = NodeCard(
    peer="p", name="n", version="", device="", backend="", slots=1, kv_tokens=1,
    models=tuple(ServedModel(digest=digest, context=1) for digest in "de"),
)  # fmt: skip


def beat(*engines: EngineState, engine: str = "ready") -> Heartbeat:
    return Heartbeat(sent_at_ms=0, slots_busy=0, engine=engine, engines=engines)


@pytest.mark.parametrize(
    ("said", "faults"),
    [
        (beat(), {}),
        (beat(engine="crashed"), {"d": "crashed", "e": "crashed"}),
        (beat(engine=""), {"d": "no state", "e": "no state"}),
        (beat(crashed("d"), engine="crashed"), {"d": "signal 9"}),
        # What stands for the whole node does not matter where engines are named.
        (beat(crashed("d"), engine="ready"), {"d": "signal 9"}),
        (beat(EngineState(digest="e", state="hung")), {"e": "hung"}),
        (beat(EngineState(digest="e", state="ready"), engine="crashed"), {}),
        (beat(crashed("d"), crashed("e")), {"d": "signal 9", "e": "signal 9"}),
        (beat(crashed("d", "x" * 10_000)), {"d": "x" * FAULT_LIMIT_CHARS}),
    ],
)
def test_what_a_heartbeat_says_of_which_engine(said: Heartbeat, faults: dict[str, str]) -> None:
    assert engine_faults(said, CARD) == faults


@pytest.mark.parametrize(
    "said",
    [
        beat(crashed("f")),
        beat(EngineState(digest="f", state="ready")),
        beat(crashed("d"), crashed("d", "again")),
        beat(crashed("d"), crashed("f")),
        beat(*(crashed(f"x{number}") for number in range(10_000))),
        beat(crashed("d"), crashed("e"), crashed("")),
    ],
)
def test_no_honest_heartbeat_speaks_of_engines_that_it_has_not(said: Heartbeat) -> None:
    with pytest.raises(Misbehaved):
        engine_faults(said, CARD)


async def test_such_a_heartbeat_ends_the_session_and_a_model_out_of_the_pool_does_not(
    two: Any,
) -> None:
    node = await join(two)
    await beats(two, node, crashed(UNKNOWN))
    assert states(two) == {"tests/abc": "ready", OTHER_NAME: "ready"}
    node.beat(engines=(crashed("0" * 64),))
    await asyncio.wait_for(node.task, 5)
    assert node.carrier.bye.code == ProblemCode.INVALID_REQUEST
    assert not two.coordinator.nodes()


def room(**fields: Any) -> Room:
    made = Room(context=1, slots=1, kv_tokens=1)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


FAILED = {"engine_fault": "f", "failed": "f"}
MEASURING = {"barred": "m", "measuring": True}
REFUSED = {"barred": "r"}


@pytest.mark.parametrize(
    ("rooms", "state"),
    [
        ([{}, {}], ("ready", None)),
        ([FAILED, {}], ("ready", "1 of 2 models failed: f")),
        ([FAILED, FAILED, {}], ("ready", "2 of 3 models failed: f")),
        ([MEASURING, FAILED, {}], ("ready", "1 of 3 models failed: f")),
        ([{}, MEASURING], ("ready", "1 of 2 models measuring: m")),
        ([{"stuck": "s"}, {}], ("ready", "on trial: s")),
        ([FAILED, FAILED], ("failed", "f")),
        # A model that may be probed still: the node is met, whatever its other engine does.
        ([FAILED, MEASURING], ("measuring", "m")),
        ([FAILED, REFUSED], ("refused", "r")),
        ([{**FAILED, **REFUSED}], ("failed", "f")),
    ],
)
def test_what_its_engines_make_of_a_node(
    rooms: list[dict[str, Any]], state: tuple[str, str | None]
) -> None:
    held = {str(number): room(**fields) for number, fields in enumerate(rooms)}
    node = Node(card=CARD, rooms=held, connected_at_ms=0, heard_s=0.0, idle_since_s=0.0)
    assert state_of(node, 0.0, NodesConfig()) == state
