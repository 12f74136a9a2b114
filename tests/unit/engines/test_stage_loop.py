from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.engines.hidden import (
    Entry,
    FrameBroken,
    Kind,
    decode,
    encode_hidden,
    encode_ids,
)
from parhelion.engines.stage_loop import LEASE_S
from parhelion.engines.stage_messages import Feed, Go, Heard, Open, Stepped, Time, Timed
from parhelion.engines.stage_work import GRACE_ENTRIES, GRACE_S
from parhelion.testing.stages import tags_of
from parhelion.words import Job, StageJob

_spec = importlib.util.spec_from_file_location(
    "fake_stages", Path(__file__).with_name("fake_stages.py")
)
assert _spec is not None and _spec.loader is not None
ring: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(ring)
Ring, job, truth = ring.Ring, ring.job, ring.truth


def prompts_of(asks: list[tuple[int, int]]) -> list[Job]:
    """Prompts that share long prefixes, so that copying, taking over and cutting all happen."""
    return [
        job(f"j{i}", [1 + k % 7 for k in range(size)] + [1 + i], tokens)
        for i, (size, tokens) in enumerate(asks)
    ]


asks_of_jobs = st.lists(st.tuples(st.integers(1, 120), st.integers(1, 20)), min_size=1, max_size=10)


@settings(max_examples=25, deadline=None)
@given(asks_of_jobs, st.integers(2, 4), st.sampled_from(["fp32", "bf16"]), st.integers(0, 2**32))
def test_however_frames_and_steps_interleave_every_job_gets_its_own_ids(
    asks: list[tuple[int, int]], stages: int, wire: str, seed: int
) -> None:
    chance = random.Random(seed)
    pipeline = Ring(stages, slots=3, kv_tokens=1500, rows=(32, 9, 17), wire=wire)
    jobs = prompts_of(asks)
    for at in range(0, len(jobs), 3):
        for one in jobs[at : at + 3]:
            pipeline.begin(one, tags_of(one.prompt_ids))
        pipeline.run(chance)
        for one in jobs[at : at + 3]:
            assert pipeline.ids(one.job) == truth(one.prompt_ids, one.max_tokens), one.job
            pipeline.park(one)
    assert not any(pipeline.failures(place) for place in range(stages))
    assert not any(decoder.disordered for decoder in pipeline.decoders)


def test_a_held_prefix_is_not_read_again_and_changes_no_id() -> None:
    pipeline = Ring(3)
    first = job("first", [1 + k % 50 for k in range(100)])
    pipeline.begin(first, tags_of(first.prompt_ids))
    pipeline.run()
    pipeline.park(first)
    before = [decoder.decoded for decoder in pipeline.decoders]
    second = job("second", [*first.prompt_ids, *pipeline.ids("first"), 9, 9, 9])
    assert pipeline.begin(second, tags_of(second.prompt_ids)) == 96
    pipeline.run()
    assert pipeline.ids("second") == truth(second.prompt_ids, 8)
    read = [d.decoded - n for d, n in zip(pipeline.decoders, before, strict=True)]
    assert read == [len(second.prompt_ids) + 7 - 96] * 3
    assert {step.cached for step in pipeline.steps(2, "second")} == {96}


def test_a_prompt_that_is_held_whole_is_read_from_its_last_block_on() -> None:
    pipeline = Ring(3)
    first = job("first", [1 + k % 50 for k in range(64)])
    pipeline.begin(first, tags_of(first.prompt_ids))
    pipeline.run()
    pipeline.park(first)
    # The middle stage holds all 64 and does not know that there are no more.
    again = job("again", first.prompt_ids)
    assert [one.held for one in pipeline.open(again, tags_of(first.prompt_ids))] == [48, 64, 48]
    pipeline.loops[0].tell(Go(job="again", attempt=0, reused=48))
    pipeline.run()
    assert pipeline.ids("again") == truth(first.prompt_ids, 8)


def test_a_stage_that_dropped_the_prefix_decides_for_all() -> None:
    pipeline = Ring(3)
    first = job("first", [1 + k % 50 for k in range(100)])
    pipeline.begin(first, tags_of(first.prompt_ids))
    pipeline.run()
    for place, loop in enumerate(pipeline.loops):
        tags = tags_of(first.prompt_ids) if place != 1 else tags_of(first.prompt_ids)[:3]
        loop.tell(ring.Close(job="first", attempt=0, tags=tags))
    second = job("second", [*first.prompt_ids, 3])
    assert [one.held for one in pipeline.open(second, tags_of(second.prompt_ids))] == [96, 48, 96]
    pipeline.loops[0].tell(Go(job="second", attempt=0, reused=48))
    pipeline.run()
    assert pipeline.ids("second") == truth(second.prompt_ids, 8)


def test_without_tags_nothing_is_kept_and_other_tags_find_nothing() -> None:
    pipeline = Ring(2)
    for n, (tags, kept) in enumerate([((), ()), (tags_of(range(1, 33)), tags_of(range(1, 33)))]):
        one = job(f"j{n}", range(1, 41))
        assert pipeline.begin(one, tags) == 0
        pipeline.run()
        pipeline.close(one, kept)
    assert pipeline.begin(job("other", range(1, 41)), tags_of(range(1, 41), b"another")) == 0
    assert pipeline.begin(job("same", range(1, 41)), tags_of(range(1, 41))) == 32


def simulated(stages: int, streams: int, delay_ms: float) -> tuple[list[float], list[int]]:
    """Each stage's share of time at work, and the sizes of micro-batches, once all decode.

    A step of n rows takes 4 + n ms, a frame `delay_ms` to the next stage.
    """
    pipeline = Ring(stages, slots=streams)
    for n in range(streams):
        pipeline.begin(job(f"j{n}", [1 + n], 200))
    busy_until = [0.0] * stages
    busy_ms = [0.0] * stages
    arriving: list[tuple[float, int, bytes]] = []
    sizes: list[int] = []
    warm_ms, end_ms, now_ms = 300.0, 900.0, 0.0
    while now_ms < end_ms:
        for one in [one for one in arriving if one[0] <= now_ms]:
            arriving.remove(one)
            pipeline.loops[one[1]].tell(Feed(frame=one[2]))
        for place, loop in enumerate(pipeline.loops):
            if busy_until[place] <= now_ms and loop.ready:
                loop.step()
                frame = pipeline.inboxes[(place + 1) % stages].popleft()
                rows = pipeline.said[place][-1].rows
                busy_until[place] = now_ms + 4 + rows
                arriving.append((busy_until[place] + delay_ms, (place + 1) % stages, frame))
                if now_ms >= warm_ms:
                    busy_ms[place] += 4 + rows
                    sizes += [rows] if place == 0 else []
        now_ms += 0.5
    return [ms / (end_ms - warm_ms) for ms in busy_ms], sizes


@pytest.mark.parametrize(("stages", "streams"), [(2, 8), (3, 8), (4, 16), (2, 3)])
def test_stages_work_at_once_and_none_waits_for_a_convoy(stages: int, streams: int) -> None:
    shares, sizes = simulated(stages, streams, 0.0)
    assert min(shares) > (0.9 if streams >= 2 * stages else 0.7), shares
    assert max(sizes) == -(-streams // stages)


def test_two_stages_and_eight_streams_have_two_micro_batches_of_four_in_flight() -> None:
    pipeline = Ring(2)
    for n in range(8):
        pipeline.begin(job(f"j{n}", [1 + n], 50))
    first, last = pipeline.loops
    sizes: list[int] = []
    while first.ready:
        first.step()
        sizes.append(pipeline.said[0][-1].rows)
    assert sizes == [4, 4], "both are under way before any id has come back, and no third"
    # The last stage takes both at once; the first divides them again.
    pipeline.turn(1)
    assert pipeline.said[1][-1].rows == 8 and not last.ready
    pipeline.deliver(0)
    first.step()
    assert pipeline.said[0][-1].rows == 4 and first.ready


def test_a_ring_with_long_links_has_all_sequences_under_way() -> None:
    shares, sizes = simulated(2, 8, 40.0)
    # A round is two steps of 8 ms and two links of 40 ms: each stage works for two micro-batches.
    assert min(shares) > 0.14 and set(sizes) == {4}


def test_a_long_prompt_fills_the_pipeline_with_a_bounded_number_of_chunks() -> None:
    pipeline = Ring(3, rows=(20,))
    pipeline.begin(job("long", [1 + k % 50 for k in range(900)], 2))
    while pipeline.loops[0].ready:
        pipeline.loops[0].step()
    assert len(pipeline.inboxes[1]) == 6, "two for each stage"
    pipeline.run()
    assert pipeline.ids("long") == truth([1 + k % 50 for k in range(900)], 2)
    progress = [step.prefilled for step in pipeline.steps(0, "long")]
    assert progress == sorted(progress) and len(progress) > 30


def test_a_prompt_that_waits_behind_others_is_given_an_id_before_its_lease_ends() -> None:
    pipeline = Ring(2, slots=3, kv_tokens=4000, rows=(8,))
    for name, size in (("a", 900), ("b", 100), ("c", 800)):
        pipeline.begin(job(name, [1 + k % 40 for k in range(size)], 2))
    waiting = pipeline.loops[0]._works["c", 0]
    while waiting.fed < 5:
        pipeline.clock.advance(6.0)
        assert pipeline.turn(0) and pipeline.turn(1)
        for loop in pipeline.loops:
            loop.look()
    assert not pipeline.failures(0) and not pipeline.failures(1)
    pipeline.run()
    assert pipeline.ids("c") == truth([1 + k % 40 for k in range(800)], 2)


def test_the_memory_of_ended_jobs_is_filled_again() -> None:
    pipeline = Ring(3, slots=2, kv_tokens=256)
    for n in range(12):
        one = job(f"j{n}", [1 + n, *range(1, 60)], 12)
        pipeline.begin(one)
        pipeline.run()
        assert pipeline.ids(one.job) == truth(one.prompt_ids, 12)
        pipeline.close(one)


# --- leases -----------------------------------------------------------------------------------


def test_every_stage_frees_a_job_of_which_no_step_came_for_its_lease_and_says_so() -> None:
    pipeline = Ring(3)
    lost, goes_on = job("lost", range(1, 30), 50), job("goes-on", range(1, 20), 900)
    pipeline.begin(lost)
    pipeline.begin(goes_on)
    for place in (0, 1, 2) * 12:
        pipeline.turn(place)
    for loop in pipeline.loops:
        loop._works["lost", 0].begun = loop is not pipeline.loops[0]  # It stands still from here.
    for _ in range(int(LEASE_S) + 2):
        pipeline.clock.advance(1.0)
        for place in range(3):
            pipeline.turn(place)
            pipeline.loops[place].look()
    for place in range(3):
        (failed,) = pipeline.failures(place)
        assert (failed.job, failed.code) == ("lost", "deadline_exceeded")
        assert set(pipeline.loops[place]._works) == {("goes-on", 0)}
        held = [len(ids) for ids in pipeline.decoders[place].content.values()]
        assert len(held) == 1, "its memory is free"


def test_a_finished_job_that_is_never_closed_is_freed_by_its_lease_too() -> None:
    pipeline = Ring(2)
    pipeline.begin(job("a", [1, 2, 3], 2))
    pipeline.run()
    pipeline.clock.advance(LEASE_S + 1)
    for loop in pipeline.loops:
        loop.look()
        assert loop._works == {}


# --- what comes from others -------------------------------------------------------------------


def rows_of(ids: list[int]) -> np.ndarray[Any, Any]:
    return np.array([[id, 0.5] for id in ids], np.float32)


def hidden(name: str, start: int, ids: list[int], *, wants: bool = False) -> Feed:
    entry = Entry(name, 0, start, len(ids), wants)
    return Feed(frame=encode_hidden([entry], rows_of(ids), "fp32"))


def opened(name: str, capacity: int = 100) -> Open:
    return Open(ticket=1, job=StageJob(job=name, attempt=0, capacity=capacity))


def test_rows_that_overtake_their_opening_are_kept_for_it() -> None:
    pipeline = Ring(3)
    middle = pipeline.loops[1]
    middle.tell(hidden("early", 0, [5, 6]))
    middle.tell(hidden("early", 2, [7]))
    assert not middle.ready
    middle.tell(opened("early"))
    while middle.ready:
        middle.step()
    assert list(pipeline.decoders[1].content.values()) == [[5, 6, 7]]


def test_rows_of_a_job_that_nobody_opens_are_dropped_and_told_of_once() -> None:
    pipeline = Ring(3)
    middle = pipeline.loops[1]
    for at in range(3):
        middle.tell(hidden("stranger", at, [5]))
    pipeline.clock.advance(GRACE_S + 1)
    middle.look()
    middle.tell(hidden("stranger", 3, [5]))
    (failed,) = pipeline.failures(1)
    assert (failed.job, failed.code) == ("stranger", "not_found")


def test_strangers_rows_take_bounded_room() -> None:
    pipeline = Ring(3)
    middle = pipeline.loops[1]
    for n in range(GRACE_ENTRIES + 30):
        middle.tell(hidden(f"stranger{n}", 0, [5]))
    assert len(middle._grace._early) == GRACE_ENTRIES and len(pipeline.failures(1)) == 30
    wide = Entry("wide", 0, 0, 4096, False)
    for _ in range(GRACE_ENTRIES):
        middle._grace.put(wide, np.zeros((4096, 2000), np.float32), 0.0)
    assert middle._grace._bytes <= 16 * 1024 * 1024


def test_late_frames_of_a_closed_job_are_nobodys_failure() -> None:
    pipeline = Ring(2)
    one = job("a", range(1, 50), 40)
    pipeline.begin(one)
    for _ in range(5):
        pipeline.turn(0)
    pipeline.close(one)
    pipeline.run()
    assert not pipeline.loops[1]._grace._early, "they do not wait for an opening either"
    pipeline.clock.advance(60)
    for loop in pipeline.loops:
        loop.look()
    assert not pipeline.failures(0) and not pipeline.failures(1)
    assert all(not decoder.content for decoder in pipeline.decoders)


@pytest.mark.parametrize(
    ("feed", "cause"),
    [
        (hidden("bad", 3, [5]), "goes on at 3, of which 0 ids are held"),
        (hidden("bad", 0, [5] * 101), "up to 101, which nobody has chosen"),
    ],
)
def test_rows_at_a_wrong_place_fail_their_job_alone(feed: Feed, cause: str) -> None:
    pipeline = Ring(3)
    middle = pipeline.loops[1]
    middle.tell(opened("bad"))
    middle.tell(opened("good"))
    middle.tell(hidden("good", 0, [1, 2]))
    middle.tell(feed)
    (failed,) = pipeline.failures(1)
    assert failed.job == "bad" and cause in failed.message
    middle.tell(hidden("good", 2, [3]))
    while middle.ready:
        middle.step()
    assert [1, 2, 3] in pipeline.decoders[1].content.values()


def test_reordered_doubled_or_missing_rows_fail_their_job() -> None:
    for starts in ([0, 4, 2], [0, 2, 2], [0, 6]):
        pipeline = Ring(3)
        pipeline.loops[1].tell(opened("a"))
        for start in starts:
            pipeline.loops[1].tell(hidden("a", start, [1, 2]))
        assert "comes next" in pipeline.failures(1)[0].message


def test_a_hidden_state_that_is_no_number_fails_its_job_and_not_its_neighbours() -> None:
    pipeline = Ring(3)
    for n in range(4):
        pipeline.begin(job(f"j{n}", [1 + n, 2, 3], 12))
    pipeline.decoders[0].poisoned = pipeline.loops[0]._works["j2", 0].seq
    pipeline.run()
    assert [failed.job for failed in pipeline.failures(1)] == ["j2"]
    for n in (0, 1, 3):
        assert pipeline.ids(f"j{n}") == truth([1 + n, 2, 3], 12)


def test_a_row_without_any_choice_fails_its_job_and_frees_its_place_on_the_ring() -> None:
    pipeline = Ring(2)
    for n in range(4):
        pipeline.begin(job(f"j{n}", [1 + n, 2, 3], 12))
    pipeline.decoders[1].broken_seq = pipeline.loops[1]._works["j2", 0].seq
    pipeline.run()
    assert [failed.job for failed in pipeline.failures(1)] == ["j2"]
    assert pipeline.loops[0]._flights == []
    for n in (0, 1, 3):
        assert pipeline.ids(f"j{n}") == truth([1 + n, 2, 3], 12)


def test_the_last_stage_gives_no_id_where_none_follows() -> None:
    pipeline = Ring(2)
    one = job("a", range(1, 20), 8)
    pipeline.open(one)
    pipeline.loops[1].tell(hidden("a", 0, [1, 2], wants=True))
    assert "an id is wanted where none follows" in pipeline.failures(1)[0].message


def test_a_job_that_is_closed_with_rows_under_way_frees_its_place_on_the_ring() -> None:
    pipeline = Ring(2)
    for name in ("lost", "good"):
        pipeline.begin(job(name, [1, 2, 3], 8))
        pipeline.loops[0].step()
    assert len(pipeline.loops[0]._flights) == 2
    pipeline.inboxes[1].popleft()  # A link was cut: it never comes back.
    pipeline.close(job("lost", [1, 2, 3], 8))
    assert len(pipeline.loops[0]._flights) == 1
    pipeline.run()
    assert pipeline.ids("good") == truth([1, 2, 3], 8) and pipeline.loops[0]._flights == []


def test_a_report_of_what_was_not_sent_fails_its_job() -> None:
    pipeline = Ring(2)
    pipeline.begin(job("bad", range(1, 50), 8))
    pipeline.loops[0].tell(Feed(frame=encode_ids([Entry("bad", 0, 40, 0, False)], [])))
    assert [failed.job for failed in pipeline.failures(0)] == ["bad"]


@pytest.mark.parametrize(("start", "id"), [(21, 5), (2, 5), (3, 64), (3, -1)])
def test_ids_that_cannot_follow_fail_their_job_at_the_first_stage(start: int, id: int) -> None:
    pipeline = Ring(2)
    for name in ("bad", "good"):
        pipeline.begin(job(name, [1, 2, 3], 8))
    pipeline.turn(0)
    pipeline.loops[0].tell(Feed(frame=encode_ids([Entry("bad", 0, start, 1, False)], [id])))
    assert [failed.job for failed in pipeline.failures(0)] == ["bad"]
    pipeline.run()
    assert pipeline.ids("good") == truth([1, 2, 3], 8)


def test_a_broken_frame_or_one_of_another_kind_is_refused_whole() -> None:
    pipeline = Ring(3)
    middle = pipeline.loops[1]
    wide = encode_hidden([Entry("a", 0, 0, 1, False)], np.zeros((1, 3), np.float32), "fp32")
    for body in (b"", b"x" * 100, wide, encode_ids([Entry("a", 0, 0, 1, False)], [1])):
        with pytest.raises(FrameBroken):
            middle.tell(Feed(frame=body))
    with pytest.raises(FrameBroken):
        pipeline.loops[0].tell(hidden("a", 0, [1]))


def test_what_was_taken_in_is_told_so_that_the_parent_knows_what_waits() -> None:
    pipeline = Ring(3)
    frame = hidden("a", 0, [1] * 4096)
    sent = 0
    for _ in range(20):
        pipeline.loops[1].tell(frame)
        sent += len(frame.frame)
    told = [one.bytes for one in pipeline.said[1] if isinstance(one, Heard)]
    assert told and sent - told[-1] < 300 * 1024


# --- opening ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "change", "code"),
    [
        (1, {"capacity": 0}, "context_length_exceeded"),
        (1, {"capacity": 1001}, "context_length_exceeded"),
        (1, {"tags": (b"short",)}, "invalid_request"),
        (1, {"tags": tags_of(range(200))}, "invalid_request"),
        (0, {"capacity": 10}, "invalid_request"),
        (0, {"tags": tags_of(range(48))}, "invalid_request"),
        (0, {"job": "another"}, "invalid_request"),
    ],
)
def test_a_job_that_cannot_be_is_refused_when_it_is_opened(
    place: int, change: dict[str, Any], code: str
) -> None:
    pipeline = Ring(3)
    fields: dict[str, Any] = {"job": "a", "attempt": 0, "capacity": 60, **change}
    ids = job("a", range(1, 41)) if place == 0 else None
    pipeline.loops[place].tell(Open(ticket=9, job=StageJob(**fields), ids=ids))
    (answer,) = pipeline.answers(place)
    assert (answer.ticket, answer.code) == (9, code)
    assert pipeline.loops[place]._works == {}


def test_ids_outside_the_vocabulary_or_of_another_model_are_refused() -> None:
    pipeline = Ring(2)
    for one in (job("a", [64]), job("b", [-1]), job("c", []), job("d", [1], digest="e" * 64)):
        assert all(answer.code == "invalid_request" for answer in pipeline.open(one, capacity=50))


def test_who_comes_when_all_is_taken_is_refused_and_room_comes_back() -> None:
    pipeline = Ring(2, slots=2, kv_tokens=512)
    small, large, third = (job(name, [1, 2, 3], 5) for name in "abc")

    def codes(one: Job, capacity: int = 8) -> set[str]:
        return {answer.code for answer in pipeline.open(one, capacity=capacity)}

    assert codes(small) == {""}
    assert codes(large, 505) == {"overloaded"}, "there are 504 left"
    assert codes(large, 504) == {""}
    assert codes(third) == {"overloaded"}, "and no slot"
    pipeline.close(large)
    assert codes(third) == {""}


def test_an_attempt_is_opened_once() -> None:
    pipeline = Ring(2)
    one = job("a", [1, 2])
    pipeline.open(one)
    assert {answer.code for answer in pipeline.open(one)} == {"conflict"}
    pipeline.close(one)
    assert {answer.code for answer in pipeline.open(one)} == {"conflict"}


def test_more_ids_than_are_held_are_never_skipped() -> None:
    pipeline = Ring(2)
    pipeline.open(job("a", range(1, 41)))
    pipeline.loops[0].tell(Go(job="a", attempt=0, reused=16))
    assert "16 ids of it are not held" in pipeline.failures(0)[0].message


def test_a_job_that_came_complete_ends_without_a_step() -> None:
    pipeline = Ring(2)
    one = job("a", [1, 2, 3], 2, output_ids=(7, 8))
    pipeline.begin(one)
    pipeline.run()
    (step,) = pipeline.steps(1, "a")
    assert (step.finish, step.start, step.ids) == ("length", 2, ())
    assert pipeline.decoders[0].decoded == 0


def test_a_resumed_text_goes_on_where_it_stood() -> None:
    whole = truth([1, 2, 3], 12)
    pipeline = Ring(3)
    pipeline.begin(job("a", [1, 2, 3], 12, output_ids=tuple(whole[:5])))
    pipeline.run()
    assert pipeline.ids("a") == whole[5:]
    assert next(step.start for step in pipeline.steps(2, "a") if step.ids) == 5


# --- timing -----------------------------------------------------------------------------------


def test_a_timing_leaves_nothing_behind_and_disturbs_no_job() -> None:
    pipeline = Ring(3)
    pipeline.begin(job("a", [1, 2, 3], 20))
    for place in (0, 1, 2) * 3:
        pipeline.turn(place)
        pipeline.loops[place].tell(Time(ticket=4, rows=8, repeats=3))
    pipeline.run()
    assert pipeline.ids("a") == truth([1, 2, 3], 20)
    for said in pipeline.said:
        timed = [one for one in said if isinstance(one, Timed)]
        assert len(timed) == 3 and all(one.ms > 0 and not one.code for one in timed)


@pytest.mark.parametrize("rows", [0, -1, 65])
def test_a_timing_of_no_possible_step_is_refused(rows: int) -> None:
    pipeline = Ring(2)
    pipeline.loops[1].tell(Time(ticket=4, rows=rows, repeats=1))
    assert pipeline.said[1][-1].code == "invalid_request"


def test_frames_of_a_ring_are_of_the_kind_that_the_next_stage_takes() -> None:
    pipeline = Ring(3)
    pipeline.begin(job("a", [1, 2, 3], 4))
    pipeline.run()
    kinds = [
        {decode(one.frame).kind for one in said if isinstance(one, Stepped)}
        for said in pipeline.said
    ]
    assert kinds == [{Kind.HIDDEN}, {Kind.HIDDEN}, {Kind.IDS}]
