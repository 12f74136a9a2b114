from __future__ import annotations

import importlib.util
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.engines.batching import Limits, Loop
from parhelion.engines.host_messages import (
    Cancel,
    Failed,
    FromHost,
    Made,
    Ping,
    Pong,
    Run,
    Score,
    Scored,
)
from parhelion.words import Job, SamplerParams, Step

_spec = importlib.util.spec_from_file_location(
    "fake_decoder", Path(__file__).with_name("fake_decoder.py")
)
assert _spec is not None and _spec.loader is not None
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)

GREEDY = SamplerParams(temperature=0.0)


class Bench:
    """A loop over a fake decoder, and what it said."""

    def __init__(
        self,
        slots: int = 4,
        kv_tokens: int = 2000,
        can_rewind: bool = True,
        keeps_order: bool = True,
    ) -> None:
        self.said: list[FromHost] = []
        self.decoder = fake.FakeDecoder(kv_tokens)
        limits = Limits(
            digest="d",
            slots=slots,
            context=min(1000, kv_tokens),
            kv_tokens=kv_tokens,
            parked_tokens=500,
            crowded_tokens=100,
            n_vocab=fake.VOCABULARY,
            step_budget_ms=80.0,
            eog=frozenset({0}),
            can_rewind=can_rewind,
            keeps_order=keeps_order,
        )
        self.loop = Loop(self.decoder, fake.FakeBatch(), limits, self.said.append)

    def run(self, *jobs: Job) -> None:
        for job in jobs:
            self.loop.tell(Run(job=job))
        self.finish()

    def finish(self) -> None:
        for _ in range(20_000):
            if self.loop.idle:
                return
            self.loop.step()
        raise AssertionError("the loop does not come to an end")

    def steps(self, name: str) -> list[Step]:
        made = [message for message in self.said if isinstance(message, Made)]
        return [step for message in made for step in message.steps if step.job == name]

    def ids(self, name: str) -> list[int]:
        return [id for step in self.steps(name) for id in step.ids]


def job(name: str, prompt: list[int], tokens: int = 8, scope: str = "", **more: object) -> Job:
    fields = {
        "job": name,
        "attempt": 0,
        "digest": "d",
        "cache_scope": scope,
        "prompt_ids": tuple(prompt),
        "max_tokens": tokens,
        "params": GREEDY,
        **more,
    }
    return Job(**fields)  # type: ignore[arg-type]


def truth(prompt: list[int], tokens: int) -> list[int]:
    ids = list(prompt)
    for _ in range(tokens):
        ids.append(fake.expected_next(ids))
    return ids[len(prompt) :]


asks_of_jobs = st.lists(
    st.tuples(st.integers(1, 120), st.integers(1, 30), st.sampled_from(["", "a", "b"])),
    min_size=1,
    max_size=12,
)


def jobs_of(asks: list[tuple[int, int, str]]) -> list[Job]:
    """Prompts that share long prefixes, so that copying, taking over and evicting all happen."""
    return [
        job(f"j{i}", [1 + k % 7 for k in range(size)] + [i], tokens, scope)
        for i, (size, tokens, scope) in enumerate(asks)
    ]


@settings(max_examples=80, deadline=None)
@given(asks_of_jobs, st.integers(1, 5), st.integers(160, 900), st.booleans())
def test_whatever_runs_beside_it_every_job_gets_its_own_ids_in_order(
    asks: list[tuple[int, int, str]], slots: int, kv_tokens: int, keeps_order: bool
) -> None:
    bench = Bench(slots=slots, kv_tokens=kv_tokens, keeps_order=keeps_order)
    jobs = jobs_of(asks)
    bench.run(*jobs)
    for one in jobs:
        assert bench.ids(one.job) == truth(list(one.prompt_ids), one.max_tokens)
        steps = bench.steps(one.job)
        assert steps[-1].finish == "length"
        assert [s.start for s in steps if s.ids] == list(range(one.max_tokens))
        assert all(step.finish is None for step in steps[:-1])


@settings(max_examples=80, deadline=None)
@given(asks_of_jobs, st.integers(1, 5), st.integers(160, 900))
def test_a_running_streams_cells_always_lie_in_order(
    asks: list[tuple[int, int, str]], slots: int, kv_tokens: int
) -> None:
    bench = Bench(slots=slots, kv_tokens=kv_tokens)
    bench.run(*jobs_of(asks))
    assert bench.decoder.disordered == 0


def crowd(bench: Bench, jobs: int) -> None:
    """Jobs of many lengths, so that one ends while others run."""
    bench.run(*(job(f"c{i}", [1 + i % 60] * 20, 5 + 17 * (i % 5)) for i in range(jobs)))


def test_where_order_does_not_matter_freed_cells_are_filled_at_once() -> None:
    bench = Bench(keeps_order=False)
    crowd(bench, 12)
    assert bench.decoder.disordered > 0
    assert bench.decoder.compactions == 0


def test_retired_cells_are_bounded_however_many_jobs_pass() -> None:
    bench = Bench(kv_tokens=4000)
    most = 0
    for i in range(60):
        bench.loop.tell(Run(job=job(f"c{i}", [1 + i % 60] * 20, 5 + 17 * (i % 5))))
    while not bench.loop.idle:
        bench.loop.step()
        most = max(most, bench.decoder.retired)
    assert 256 < most <= 512 + 4 * 93
    assert bench.decoder.compactions > 1
    assert bench.decoder.disordered == 0


def test_a_small_memory_is_compacted_in_time_and_never_runs_out() -> None:
    bench = Bench(kv_tokens=400)
    crowd(bench, 40)
    assert bench.decoder.compactions > 3
    assert all(len(bench.ids(f"c{i}")) == 5 + 17 * (i % 5) for i in range(40))


def test_sequences_that_share_a_prefix_survive_a_compaction() -> None:
    shared = [1 + i % 11 for i in range(300)]
    bench = Bench(slots=6)
    bench.run(job("first", [*shared, 20], 2, "mine"))
    bench.run(
        *(job(f"s{i}", [*shared, 30 + i], 150, "mine") for i in range(3)),
        *(job(f"short{i}", [9] * 60, 20) for i in range(16)),
    )
    assert bench.decoder.compactions > 0
    assert bench.decoder.disordered == 0
    assert bench.ids("s2") == truth([*shared, 32], 150)


def test_one_message_an_engine_step_carries_every_running_job() -> None:
    bench = Bench()
    for i in range(3):
        bench.loop.tell(Run(job=job(f"j{i}", [5, 6, 7], 50)))
    for _ in range(10):
        bench.loop.step()
    bench.said.clear()
    bench.loop.step()
    assert len(bench.said) == 1
    assert isinstance(bench.said[0], Made)
    assert {step.job for step in bench.said[0].steps} == {"j0", "j1", "j2"}


def test_prefill_is_reported_before_the_first_id() -> None:
    bench = Bench()
    for _ in range(50):
        bench.loop.meter.measured(0, 1, 10.0)
    bench.run(job("j", [1 + i % 9 for i in range(100)], 2))
    reports = [step.prefilled for step in bench.steps("j") if not step.ids]
    assert reports == sorted(reports)
    assert len(reports) > 2
    assert reports[0] > 0


def test_end_of_text_is_the_last_id_and_ends_the_job() -> None:
    bench = Bench()
    bench.run(job("j", [3, 4], 9, params=SamplerParams(temperature=0.0, logit_bias=((0, 50.0),))))
    last = bench.steps("j")[-1]
    assert (last.ids, last.finish) == ((0,), "eog")


def test_a_resumed_job_goes_on_where_it_was() -> None:
    whole = truth([9, 8, 7], 12)
    bench = Bench()
    bench.run(job("j", [9, 8, 7], 12, output_ids=tuple(whole[:5])))
    assert bench.ids("j") == whole[5:]
    assert [step.start for step in bench.steps("j") if step.ids] == list(range(5, 12))


@pytest.mark.parametrize(("output", "finish"), [((5, 6), "length"), ((5, 0), "eog")])
def test_a_resumed_job_that_was_complete_ends_at_once(output: tuple[int, ...], finish: str) -> None:
    bench = Bench()
    tokens = 2 if finish == "length" else 9
    bench.run(job("j", [9, 8, 7], tokens, output_ids=output))
    assert bench.steps("j") == [
        Step(job="j", attempt=0, start=2, finish=finish, prefilled=0, cached=0)
    ]
    assert bench.decoder.decoded == 0


def test_too_long_a_job_is_refused_before_anything_is_decoded() -> None:
    bench = Bench()
    bench.run(job("j", [1] * 900, 101))
    assert bench.said == [
        Failed(
            job="j",
            attempt=0,
            code="context_length_exceeded",
            message="1001 tokens do not fit a context of 1000",
        )
    ]
    assert bench.decoder.decoded == 0


@pytest.mark.parametrize("ids", [[], [-1, 3], [fake.VOCABULARY]])
def test_ids_that_would_fail_the_whole_step_are_refused(ids: list[int]) -> None:
    bench = Bench()
    bench.run(job("good", [1, 2], 4), job("bad", ids, 4))
    assert bench.ids("good") == truth([1, 2], 4)
    failed = [message for message in bench.said if isinstance(message, Failed)]
    assert [(one.job, one.code) for one in failed] == [("bad", "invalid_request")]


def test_a_cancelled_job_ends_at_the_next_step_and_frees_its_seat() -> None:
    bench = Bench(slots=1)
    bench.loop.tell(Run(job=job("first", [1, 2], 500)))
    bench.loop.tell(Run(job=job("second", [3, 4], 5)))
    for _ in range(6):
        bench.loop.step()
    bench.loop.tell(Cancel(job="first", attempt=0))
    bench.finish()
    assert bench.steps("first")[-1].finish == "cancelled"
    assert bench.ids("second") == truth([3, 4], 5)


def test_cancelling_one_attempt_leaves_the_other_alone() -> None:
    bench = Bench()
    bench.loop.tell(Run(job=job("j", [1, 2], 5)))
    bench.loop.tell(Cancel(job="j", attempt=1))
    bench.finish()
    assert bench.ids("j") == truth([1, 2], 5)


def test_a_second_prompt_reuses_what_it_shares_inside_one_scope_only() -> None:
    shared = [1 + i % 11 for i in range(300)]
    bench = Bench()
    bench.run(job("a", [*shared, 20], 4, "mine"))
    before = bench.decoder.decoded
    bench.run(job("b", [*shared, 21], 4, "mine"))
    assert bench.decoder.decoded - before < 10
    assert bench.steps("b")[-1].cached == 300
    bench.run(job("c", [*shared, 22], 4, "yours"))
    assert bench.steps("c")[-1].cached == 0
    assert bench.ids("b") == truth([*shared, 21], 4)


def test_only_so_many_prefixes_are_kept_and_the_latest_always() -> None:
    bench = Bench()
    for n in range(5):
        bench.run(job(f"j{n}", [1 + (n + i) % 11 for i in range(200)], 2, "mine"))
    assert sum(map(len, bench.decoder.content.values())) <= 500
    bench.run(job("long", [1 + i % 13 for i in range(700)], 2, "mine"))
    assert [len(ids) for ids in bench.decoder.content.values()] == [701]


def test_a_recurrent_model_reuses_nothing() -> None:
    bench = Bench(can_rewind=False)
    for name in ("a", "b"):
        bench.run(job(name, [1 + i % 11 for i in range(100)], 4, "mine"))
    assert bench.steps("b")[-1].cached == 0
    assert bench.decoder.content == {}


def test_a_row_without_any_choice_fails_its_own_job_only() -> None:
    bench = Bench()
    bench.loop.tell(Run(job=job("bad", [1, 2], 5)))
    bench.loop.tell(Run(job=job("good", [3, 4], 5)))
    bench.decoder.broken_seq = 0
    bench.finish()
    failed = [message for message in bench.said if isinstance(message, Failed)]
    assert [(one.job, one.code) for one in failed] == [("bad", "engine_failed")]
    assert bench.ids("good") == truth([3, 4], 5)


def score(bench: Bench, prompt: list[int], output: list[int]) -> Scored:
    bench.loop.tell(
        Score(ticket=7, prompt_ids=tuple(prompt), output_ids=tuple(output), params=GREEDY, seed=1)
    )
    bench.finish()
    (answer,) = (message for message in bench.said if isinstance(message, Scored))
    return answer


def test_an_honest_output_has_no_mismatch_and_a_changed_id_is_named() -> None:
    output = truth([1, 2, 3], 200)
    assert score(Bench(), [1, 2, 3], output).mismatches == ()
    changed = [*output]
    changed[50] = 1 + changed[50] % 60
    found = score(Bench(), [1, 2, 3], changed).mismatches
    assert (found[0].position, found[0].expected, found[0].found) == (50, output[50], changed[50])
    assert len(found) > 100


def test_a_score_beside_full_slots_disturbs_nobody() -> None:
    bench = Bench(slots=2)
    for name in ("a", "b", "c"):
        bench.loop.tell(Run(job=job(name, [4, 5, len(name)], 30)))
    assert score(bench, [1, 2], truth([1, 2], 90)).mismatches == ()
    for name in ("a", "b", "c"):
        assert bench.ids(name) == truth([4, 5, 1], 30)


def test_messages_survive_the_wire() -> None:
    message = Run(job=job("j", [1, 2], 3))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Run) == message


def test_beside_a_crowd_only_the_latest_prefix_is_kept() -> None:
    bench = Bench(slots=8, kv_tokens=4000)
    for i in range(4):
        bench.run(job(f"kept{i}", [9 + i] * 100, 2, scope=f"s{i}"))
    assert bench.loop.kept_tokens() == 4 * 101, "few streams: all of them"
    bench.run(*(job(f"crowd{i}", [i + 1] * 5, 30) for i in range(6)))
    assert bench.loop.kept_tokens() == 101
    bench.run(job("again", [12] * 100 + [3], 2, scope="s3"))
    assert bench.steps("again")[-1].cached == 100


def test_a_ping_is_answered_between_two_steps_once_the_device_is_done() -> None:
    bench = Bench()
    bench.loop.tell(Ping())
    assert bench.said == [Pong()] and bench.decoder.settled == 1
    bench.loop.tell(Run(job=job("j", [1, 2, 3])))
    bench.loop.tell(Ping())
    bench.finish()
    assert bench.said.count(Pong()) == 2 and bench.ids("j") == truth([1, 2, 3], 8)
