"""What a layer takes at a node is kept by model: a small one's time is not a large one's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from parhelion.coordinator.pipeline_pool import member_of, times_of
from parhelion.coordinator.plan_view import as_measured
from parhelion.coordinator.planner import ModelShape, Pool, plan
from parhelion.coordinator.planner.terms import terms_of
from parhelion.words import StageOffer

SMALL = ModelShape(digest="s", layer_bytes=(100,) * 8, layer_active_bytes=100.0)
LARGE = ModelShape(digest="l", layer_bytes=(1000,) * 8, layer_active_bytes=1000.0)
EXPERTS = ModelShape(digest="e", layer_bytes=(1000,) * 8, layer_active_bytes=200.0)
MODELS = (SMALL, LARGE, EXPERTS)


def node(peer: str) -> Any:
    offer = StageOffer(memory_bytes=10**9)
    return cast("Any", SimpleNamespace(peer=peer, name=peer, card=SimpleNamespace(stage=offer)))


def pool_of(layer_ms: dict[tuple[str, str], float], models: tuple[ModelShape, ...]) -> Pool:
    members = tuple(member_of(node(peer), layer_ms, models) for peer in "ab")
    return Pool(models=models, members=members, rtt=lambda _one, _other: 0.1)


def test_a_model_that_was_never_tried_is_taken_by_the_bytes_that_are_read_of_it() -> None:
    times = dict(times_of("a", {("a", "s"): 1.0, ("b", "l"): 99.0}, MODELS))
    assert times == pytest.approx({"s": 1.0, "l": 10.0, "e": 2.0})
    assert times_of("c", {("a", "s"): 1.0}, MODELS) == ()


def test_what_was_measured_with_the_model_itself_goes_before_any_other() -> None:
    times = dict(times_of("a", {("a", "s"): 1.0, ("a", "l"): 4.0}, MODELS))
    assert times == pytest.approx({"s": 1.0, "l": 4.0, "e": 2.0}), "e by s, which is nearer"


def test_nodes_that_take_turns_in_speed_get_the_layers_that_each_is_good_at() -> None:
    """The first is quick with the small model, which fits its cache, and slow with the large."""
    layer_ms = {("a", "s"): 1.0, ("b", "s"): 3.0, ("a", "l"): 30.0, ("b", "l"): 10.0}
    for models in (MODELS[:2], MODELS[1::-1]):
        pool = pool_of(layer_ms, models)
        assert terms_of(SMALL, pool).layer_ms == [1.0, 3.0]
        assert terms_of(LARGE, pool).layer_ms == [30.0, 10.0]


def test_a_node_measured_with_another_model_only_is_planned_by_what_it_would_take() -> None:
    """Both are equally quick; one was measured with the large model, the other with the small."""
    pool = pool_of({("a", "l"): 10.0, ("b", "s"): 1.0}, MODELS[:2])
    assert terms_of(LARGE, pool).layer_ms == pytest.approx([10.0, 10.0])
    assert terms_of(SMALL, pool).layer_ms == pytest.approx([1.0, 1.0])


def test_the_view_has_the_times_as_measured_by_now_of_every_model() -> None:
    pool = pool_of({("a", "s"): 1.0}, MODELS[:2])
    seen = as_measured(plan(pool), pool, {("a", "s"): 2.0, ("a", "l"): 40.0}, {})
    (first, _) = seen.members
    assert (first.layer_ms, first.ms_of("l")) == (2.0, 40.0)
    assert terms_of(LARGE, seen.pool).layer_ms[0] == 40.0
