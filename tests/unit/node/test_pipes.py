"""A stage's links: frames go on and come in, newer links replace older ones, ends are told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from parhelion.engines.hidden import Entry, encode_ids
from parhelion.link import LinkBroken, PairDown, PairUp, StageState
from parhelion.node import pipes as links
from parhelion.node.pipes import changes_much
from parhelion.words import ProblemCode, Step
from tests.unit.node.staging import (
    LAST,
    MIDDLE,
    Scene,
    Seen,
    ids,
    open_at,
    pair_at,
    settle,
)


@pytest.fixture
async def scene(clock: Any) -> Scene:
    return Scene(clock)


async def test_a_link_is_told_of_when_it_carries_and_when_it_ends(scene: Scene) -> None:
    await scene.loaded(**MIDDLE)
    await scene.obey(pair_at("one", "l1"))
    (up,) = scene.of(PairUp)
    assert (up.link, up.path, up.rtt_ms) == ("l1", "relay", 1.0)
    scene.pipes["l1"].end("the other node is gone")
    await settle()
    (down,) = scene.of(PairDown)
    assert (down.link, down.cause) == ("l1", "the other node is gone")
    assert scene.pipes["l1"].closed == "the other node is gone"


@pytest.mark.parametrize(
    "error", [LinkBroken(ProblemCode.LINK_BROKEN, "nobody came"), OSError("nobody came")]
)
async def test_a_link_that_cannot_be_made_says_why(error: Exception, scene: Scene) -> None:
    await scene.loaded(**MIDDLE)
    scene.pipe_fails = error
    await scene.obey(pair_at("one", "l1"))
    assert [(down.link, down.cause) for down in scene.of(PairDown)] == [("l1", "nobody came")]


async def test_frames_of_the_stage_leave_by_the_next_link_in_order(scene: Scene) -> None:
    host = await scene.loaded(**MIDDLE)
    await scene.obey(pair_at("one", "n"), pair_at("one", "p", "previous"))
    await scene.obey(open_at("one", ids(), told=False))
    frames = [_frame(number) for number in range(3)]
    for frame in frames:
        host.told.on_frame(frame)
    await settle()
    assert scene.pipes["n"].sent == frames and scene.pipes["p"].sent == []


async def test_frames_of_the_previous_link_are_fed_to_the_stage(scene: Scene) -> None:
    host = await scene.loaded(**MIDDLE)
    await scene.obey(pair_at("one", "p", "previous"))
    scene.pipes["p"].bring(_frame(1))
    await settle()
    assert host.heard == [("feed", _frame(1))]


async def test_a_frame_that_the_stage_finds_broken_ends_its_link_with_the_cause(
    scene: Scene,
) -> None:
    from parhelion.engines.hidden import FrameBroken

    host = await scene.loaded(**MIDDLE)

    def feed(frame: bytes) -> None:
        raise FrameBroken("its check sum is another")

    host.feed = feed  # type: ignore[method-assign]
    await scene.obey(pair_at("one", "p", "previous"))
    scene.pipes["p"].bring(b"x")
    await settle()
    assert [down.cause for down in scene.of(PairDown)] == [
        "a broken frame: its check sum is another"
    ]


async def test_a_frame_against_the_direction_of_the_ring_ends_the_link(scene: Scene) -> None:
    host = await scene.loaded(**MIDDLE)
    await scene.obey(pair_at("one", "n"))
    scene.pipes["n"].bring(_frame(1))
    await settle()
    assert "direction" in scene.of(PairDown)[0].cause and host.heard == []


async def test_a_newer_link_takes_over_and_the_older_one_is_emptied_first(scene: Scene) -> None:
    host = await scene.loaded(**MIDDLE)
    await scene.obey(pair_at("one", "old"))
    scene.stages.obey(pair_at("one", "new"))
    host.told.on_frame(_frame(1))
    await settle()
    host.told.on_frame(_frame(2))
    await settle()
    old, new = scene.pipes["old"], scene.pipes["new"]
    assert old.sent == [_frame(1)] and new.sent == [_frame(2)]
    assert old.closed is not None and new.closed is None
    assert scene.of(PairDown) == [], "the coordinator replaced it itself"


async def test_a_new_previous_link_is_read_when_the_older_one_has_ended(scene: Scene) -> None:
    host = await scene.loaded(**MIDDLE)
    await scene.obey(pair_at("one", "old", "previous"), pair_at("one", "new", "previous"))
    scene.pipes["new"].bring(_frame(2))
    await settle()
    scene.pipes["old"].bring(_frame(1))
    await settle()
    assert host.heard == [("feed", _frame(1))], "a frame overtook one of the older link"
    scene.pipes["old"].end("replaced")
    await settle()
    assert host.heard == [("feed", _frame(1)), ("feed", _frame(2))]


async def test_an_older_link_that_never_ends_is_waited_for_no_longer_than_a_while(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "EMPTY_DEADLINE_S", 0.02)
    host = await scene.loaded(**MIDDLE)
    await scene.obey(pair_at("one", "old", "previous"), pair_at("one", "new", "previous"))
    scene.pipes["new"].bring(_frame(2))
    await settle(lambda: bool(host.heard))
    assert host.heard == [("feed", _frame(2))] and scene.pipes["old"].closed is not None


async def test_a_link_that_is_still_made_gives_way_to_a_newer_one(scene: Scene) -> None:
    await scene.loaded(**MIDDLE)
    never: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    scene.stages.held()[0]._pipes._open_pipe = lambda _ticket: never  # type: ignore[union-attr]
    await scene.obey(pair_at("one", "old"))
    scene.stages.held()[0]._pipes._open_pipe = scene._open_pipe  # type: ignore[union-attr]
    await scene.obey(pair_at("one", "new"))
    assert never.cancelled() and [up.link for up in scene.of(PairUp)] == ["new"]
    assert scene.of(PairDown) == []


async def test_links_are_not_made_without_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "AT_ONCE_LIMIT", 3)
    await scene.loaded(**MIDDLE)
    for number in range(9):
        scene.stages.obey(pair_at("one", f"l{number}"))
    assert [down.link for down in scene.of(PairDown)] == [f"l{number}" for number in range(3, 9)]


async def test_a_next_stage_that_reads_nothing_ends_the_link_instead_of_filling_memory(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "WAITING_LIMIT_BYTES", 300)
    host = await scene.loaded(**MIDDLE)
    await scene.obey(pair_at("one", "n"))
    scene.pipes["n"].stuck = True
    for number in range(40):
        host.told.on_frame(_frame(number))
        await asyncio.sleep(0)
    await settle()
    assert "too slowly" in scene.of(PairDown)[0].cause


async def test_what_changed_much_is_said_again_and_the_rest_is_not(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "FIRST_VIEW_S", 0.01)
    monkeypatch.setattr(links, "VIEW_EVERY_S", 0.01)
    await scene.loaded(**MIDDLE)
    await scene.obey(pair_at("one", "n"))
    await asyncio.sleep(0.03)
    assert len(scene.of(PairUp)) == 1
    scene.pipes["n"].seen = Seen(rtt_ms=30.0)
    async with asyncio.timeout(5):
        while len(scene.of(PairUp)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.03)
    assert [up.rtt_ms for up in scene.of(PairUp)] == [1.0, 30.0]


@pytest.mark.parametrize(
    ("view", "is_news"),
    [
        (Seen(), False),
        (Seen(rtt_ms=1.9), False),
        (Seen(rtt_ms=2.1), True),
        (Seen(path="direct"), True),
        (Seen(mbit_s=50.0), True),
        (Seen(sent_bytes=2**20), False),
        (Seen(sent_bytes=2**20 + 1), True),
        (Seen(received_bytes=2**21), True),
    ],
)
def test_what_counts_as_a_change_of_a_link(view: Seen, is_news: bool) -> None:
    assert changes_much(PairUp(link="l", path="relay", rtt_ms=1.0), view) is is_news


async def test_a_step_that_is_owed_shows_in_the_next_heartbeat_and_an_idle_stage_owes_none(
    scene: Scene, clock: Any
) -> None:
    host = await scene.loaded(**LAST)
    await scene.obey(pair_at("one", "p", "previous"), open_at("one", ids("job_b")))
    scene.pipes["p"].bring(_frame(1))
    await settle()
    clock.ms += 5000
    assert _state(scene).step_ms == 0.0, "a frame of no job here owes no step"
    await scene.obey(open_at("one", ids()))
    host.makes(Step("job_a", 1, 0, (7,)), took_ms=40.0)
    assert _state(scene).step_ms == 40.0
    scene.pipes["p"].bring(_frame(1))
    await settle()
    clock.ms += 700
    assert _state(scene).step_ms == pytest.approx(700.0)
    host.makes(Step("job_a", 1, 1, (8,)), took_ms=50.0)
    assert _state(scene).step_ms == 50.0 and _state(scene).busy_ms == 90.0


async def test_a_first_stage_owes_a_step_for_ids_that_go_on_and_for_no_report(
    scene: Scene, clock: Any
) -> None:
    host = await scene.loaded(start=0, end=15)
    await scene.obey(pair_at("one", "p", "previous"), open_at("one", ids()))
    # How far its prompt was read, and an answer's last id: it has nothing to do for them.
    for entry, chosen in (
        (Entry("job_a", 1, 2, 0, False), []),
        (Entry("job_a", 1, 3, 1, True), [7]),
    ):
        scene.pipes["p"].bring(encode_ids([entry], chosen))
        await settle()
        clock.ms += 5000
        assert _state(scene).step_ms == 0.0
    scene.pipes["p"].bring(_frame(3))
    await settle()
    clock.ms += 3000
    assert _state(scene).step_ms == pytest.approx(3000.0)
    host.busy_ms = 30.0
    host.told.on_frame(_frame(4))
    assert _state(scene).step_ms == 30.0


async def test_the_first_step_of_a_process_that_was_started_again_is_not_all_of_them(
    scene: Scene,
) -> None:
    host = await scene.loaded(**LAST)
    await scene.obey(open_at("one", ids()))
    host.makes(Step("job_a", 1, 0, (7,)), took_ms=5000.0)
    host.event("crashed", "signal 9")
    host.event("ready", "the model is loaded again")
    host.makes(Step("job_a", 1, 1, (8,)), took_ms=40.0)
    assert _state(scene).step_ms == 40.0


def _state(scene: Scene) -> StageState:
    (state,) = scene.stages.states()
    return state


def _frame(number: int) -> bytes:
    return encode_ids([Entry("job_a", 1, number, 1, False)], [number])
