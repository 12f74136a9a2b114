"""The pure parts of pipelines: their states, the names of prefixes, what nodes are told to hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.config import PipelinesConfig
from parhelion.coordinator.pipeline import SLOW_RUN_STEPS, is_slow, shares_ms
from parhelion.coordinator.pipeline_pool import (
    as_served,
    kv_tokens_of,
    specs_of,
    stage_id,
    steady,
)
from parhelion.coordinator.pipeline_state import PipelineEvent, PipelineState, next_state
from parhelion.coordinator.planner import Pipeline, Plan, Stage, Wire, agreed_wire
from parhelion.coordinator.tags import tags_of
from parhelion.link import StageState
from parhelion.words import TAG_BLOCK_IDS
from tests.unit.coordinator.conftest import model_card

SECRET = b"k" * 32
ids = st.lists(st.integers(0, 2**31 - 1), max_size=70)


@given(st.lists(st.sampled_from(list(PipelineEvent)), max_size=30))
def test_a_pipeline_serves_only_behind_load_link_and_time(events: list[PipelineEvent]) -> None:
    state, seen = PipelineState.LOADING, [PipelineState.LOADING]
    for event in events:
        try:
            state = next_state(state, event)
        except ValueError:
            continue
        seen.append(state)
        if state is PipelineState.SERVING:
            assert seen[-4:-1] == [
                PipelineState.LOADING,
                PipelineState.LINKING,
                PipelineState.TIMING,
            ]
    if PipelineState.GONE in seen:
        assert seen[-1] is PipelineState.GONE


@pytest.mark.parametrize("event", list(PipelineEvent))
def test_nothing_comes_after_the_end(event: PipelineEvent) -> None:
    with pytest.raises(ValueError, match="cannot come"):
        next_state(PipelineState.GONE, event)


@given(ids, ids, st.sampled_from(["one", "two"]))
def test_prompts_have_as_many_tags_in_common_as_whole_blocks(
    first: list[int], second: list[int], scope: str
) -> None:
    same = 0
    while same < min(len(first), len(second)) and first[same] == second[same]:
        same += 1
    one, other = tags_of(SECRET, scope, first), tags_of(SECRET, scope, second)
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    assert shared == same // TAG_BLOCK_IDS
    assert len(one) == len(first) // TAG_BLOCK_IDS


def test_tags_of_another_account_or_coordinator_have_nothing_in_common() -> None:
    prompt = list(range(64))
    mine = set(tags_of(SECRET, "me", prompt))
    assert mine.isdisjoint(tags_of(SECRET, "you", prompt))
    assert mine.isdisjoint(tags_of(b"x" * 32, "me", prompt))
    assert tags_of(SECRET, "", prompt) == ()


def test_every_node_is_told_the_same_pipeline() -> None:
    card = model_card(context=4096, layers=6)
    stages = (Stage(peer="a", start=0, end=2), Stage(peer="b", start=2, end=6))
    specs = [spec for _stage, spec in specs_of(card, stages, PipelinesConfig(slots=4), "bf16")]
    assert [(spec.start, spec.end, spec.layers, spec.stages) for spec in specs] == [
        (0, 2, 6, 2),
        (2, 6, 6, 2),
    ]
    assert (specs[0].is_first, specs[0].is_last) == (True, False)
    assert (specs[1].is_first, specs[1].is_last) == (False, True)
    assert len({(spec.slots, spec.kv_tokens, spec.context) for spec in specs}) == 1
    assert {spec.wire for spec in specs} == {"bf16"}


@pytest.mark.parametrize(
    ("wished", "spoken", "agreed"),
    [
        ("fp32", [("fp32", "bf16")] * 2, "fp32"),
        ("bf16", [("fp32", "bf16"), ("bf16", "fp32", "fp8")], "bf16"),
        ("bf16", [("fp32", "bf16"), ("fp32",)], "fp32"),
        ("bf16", [("fp32", "bf16"), ()], "fp32"),
    ],
)
def test_bf16_travels_only_where_it_is_wished_and_all_speak_it(
    wished: Wire, spoken: list[tuple[str, ...]], agreed: Wire
) -> None:
    assert agreed_wire(wished, spoken) == agreed


def test_kv_memory_is_as_the_settings_say_or_as_the_model_wants() -> None:
    assert kv_tokens_of(model_card(context=8192), PipelinesConfig(slots=2)) == 8192
    assert kv_tokens_of(model_card(context=512), PipelinesConfig(slots=8)) == 8192
    assert kv_tokens_of(model_card(context=10**6), PipelinesConfig()) == 32 * 1024
    assert kv_tokens_of(model_card(), PipelinesConfig(kv_tokens=1000)) == 1024


def test_a_stage_is_called_by_its_layers_in_every_epoch() -> None:
    assert stage_id("ab" * 32, 3, 9) == stage_id("ab" * 32, 3, 9) == "abababababababab:3-8"


def plan_of(*pipelines: Pipeline) -> Plan:
    return Plan(epoch=2, pipelines=pipelines, minted=len(pipelines))


def dealt(epoch: int, *stages: tuple[str, int, int]) -> Pipeline:
    return Pipeline(
        id="pipeline-1",
        digest="d",
        epoch=epoch,
        stages=tuple(Stage(peer=peer, start=start, end=end) for peer, start, end in stages),
    )


def test_the_same_nodes_keep_their_layers_unless_one_was_measured_anew() -> None:
    old, new = dealt(1, ("a", 0, 3), ("b", 3, 6)), dealt(2, ("b", 0, 2), ("a", 2, 6))
    assert steady(plan_of(old), plan_of(new), set()).pipelines == (old,)
    assert steady(plan_of(old), plan_of(new), {"a"}).pipelines == (new,)


def test_another_node_in_a_pipeline_is_no_noise() -> None:
    old, new = dealt(1, ("a", 0, 3), ("b", 3, 6)), dealt(2, ("a", 0, 3), ("c", 3, 6))
    assert steady(plan_of(old), plan_of(new), set()).pipelines == (new,)
    assert steady(plan_of(), plan_of(new), set()).pipelines == (new,)


def test_who_answers_late_is_paid_at_most_twice_what_the_others_are() -> None:
    assert shares_ms([(1.5, 3.0), (1.0, 3.0)]) == [1.5, 1.0]
    assert shares_ms([(385.0, 3.0), (10.0, 3.0)]) == [20.0, 10.0]
    assert shares_ms([(20.0, 10.0), (24.0, 2.0 + 10.0), (900.0, 5.0)]) == [20.0, 24.0, 20.0]
    assert shares_ms([(0.01, 3.0), (1.0, 3.0), (1.0, 3.0)]) == [0.5, 1.0, 1.0]
    assert shares_ms([(None, 4.0), (1.0, 2.0)]) == [4.0, 2.0]


@pytest.mark.parametrize(
    ("step_ms", "steps", "slow_steps", "is_so"),
    [
        (1001.0, 100, 0, True),
        (999.0, 100, 0, False),
        (130.0, 100, SLOW_RUN_STEPS, True),
        (130.0, 100, SLOW_RUN_STEPS - 1, False),
        (130.0, 19, SLOW_RUN_STEPS, False),
        (4000.0, 19, 0, False),
    ],
)
def test_a_stage_is_slow_by_one_very_long_step_or_by_many_in_a_row(
    step_ms: float, steps: int, slow_steps: int, is_so: bool
) -> None:
    told = StageState(
        stage="s",
        resident_bytes=1000,
        steps=steps,
        busy_ms=1.0,
        usual_step_ms=20.0,
        step_ms=step_ms,
        slow_steps=slow_steps,
    )
    assert is_slow(told) is is_so


def served_by(id: str, *peers: str, epoch: int = 1) -> Pipeline:
    stages = tuple(Stage(peer, place, place + 1) for place, peer in enumerate(peers))
    return Pipeline(id=id, digest="d", stages=stages, epoch=epoch)


@pytest.mark.parametrize(
    ("here", "ring", "is_kept"),
    [
        ("abc", "ab", False),  # The newcomer is lost before it came to anything.
        ("abcn", "ab", True),  # It still loads.
        ("bc", "ab", True),  # Who serves is lost as well.
        ("abc", "", True),  # Nothing serves.
        ("abc", "ac", True),  # One of them has another pipeline's layers by now.
    ],
)
def test_a_newcomer_that_is_lost_while_it_loads_leaves_the_ring_that_serves(
    here: str, ring: str, is_kept: bool
) -> None:
    plan = Plan(pipelines=(served_by("pipeline-1", *"nb", epoch=2), served_by("pipeline-2", "c")))
    rings = {
        "pipeline-1": served_by("pipeline-1", *ring).stages,
        "pipeline-2": served_by("", "c").stages,
    }
    begun = as_served(plan, rings, here)
    expected = plan.pipelines[0] if is_kept else served_by("pipeline-1", *ring, epoch=3)
    assert begun.pipelines == (expected, plan.pipelines[1])
