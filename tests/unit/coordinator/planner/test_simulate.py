"""A pool in a file: what it may say, what is refused, and how a plan for it is explained."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.coordinator.planner import Left, explain, plan, pool_of, repair
from parhelion.coordinator.planner.shape import Pool
from parhelion.words import Problem, ProblemCode

EXAMPLE = """
rtt_ms = 20

[[model]]
name = "example/12B"
layers = 40
layer = "300 MiB"
head = "540 MiB"
tail = "540 MiB"
kv_per_token = "4 KiB"
kv_tokens = 8192
tail_layers = 2

[[node]]
name = "anna"
memory = "10 GiB"
layer_ms = 0.9

[[node]]
name = "bert"
memory = "8 GiB"
overhead = "500 MB"
layer_ms = 1.4

[[node]]
name = "carl"
memory = "200 MiB"

[[rtt]]
between = ["bert", "anna"]
ms = 4
"""


def test_a_file_becomes_the_pool_that_it_describes() -> None:
    pool = pool_of(EXAMPLE)
    (model,) = pool.models
    assert model.layers == 40
    assert model.layer_bytes[0] == 300 * 2**20
    assert model.kv_bytes == 4096 * 8192
    assert pool.rtt("anna", "bert") == 4
    assert pool.rtt("anna", "carl") is None
    assert pool.rtt_unknown_ms == 20
    assert pool.members[1].overhead_bytes == 500_000_000
    assert pool.members[2].layer_ms is None
    (pipeline,) = plan(pool).pipelines
    assert set(pipeline.peers) == {"anna", "bert"}


def test_forbidden_lengths_are_kept_to_and_said() -> None:
    pool = pool_of(EXAMPLE.replace("tail_layers = 2", "forbidden_lengths = [27, 26, 27]"))
    assert pool.models[0].forbidden_lengths == (26, 27)
    assert "no stage may have 26 or 27 layers" in explain(plan(pool), pool)[0]


def test_layers_may_have_sizes_of_their_own() -> None:
    text = EXAMPLE.replace('layer = "300 MiB"', 'layer = ["1 GiB", 5, "2.5 KB"]')
    (model,) = pool_of(text.replace("layers = 40\n", "")).models
    assert model.layer_bytes == (2**30, 5, 2500)


@pytest.mark.parametrize(
    ("had", "instead", "said"),
    [
        ('name = "anna"', "name = anna", "line"),
        ("layers = 40", "layerz = 40", "layerz"),
        ("layers = 40", "layers = 0", "from 1 to 1024 layers"),
        ("layers = 40", "layers = 100000000", "from 1 to 1024 layers"),
        ("layers = 40\n", "", "layers is missing"),
        ('layer = "300 MiB"', 'layer = "300 miles"', "is no size"),
        ('layer = "300 MiB"', "layer = -5", "is no size"),
        ('layer = "300 MiB"', "layer = [5, 6]", "lists 2"),
        ('memory = "10 GiB"', 'memory = "99999999 TiB"', "larger than"),
        ('memory = "10 GiB"', "memory = inf", "is no size"),
        ("layer_ms = 0.9", "layer_ms = 0", "leave it out"),
        ("layer_ms = 0.9", "layer_ms = nan", "is not from 0"),
        ("ms = 4", "ms = -4", "is not from 0"),
        ('["bert", "anna"]', '["bert", "dora"]', "'dora', which is not in the file"),
        ('name = "bert"', 'name = "anna"', "called 'anna'"),
        ("tail_layers = 2", "streams = 0", "streams of"),
        ("tail_layers = 2", "kv_tokens = 5", "line"),
        ("rtt_ms = 20", 'rtt_ms = "far"', "rtt_ms"),
        ("tail_layers = 2", "forbidden_lengths = [0]", "forbidden_lengths names 0"),
        ("tail_layers = 2", 'forbidden_lengths = ["a"]', "forbidden_lengths"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(had: str, instead: str, said: str) -> None:
    assert had in EXAMPLE
    with pytest.raises(Problem) as caught:
        pool_of(EXAMPLE.replace(had, instead, 1))
    assert caught.value.code is ProblemCode.CONFIG_INVALID
    assert said in caught.value.message
    assert "docs/pipelines.md" in caught.value.hint


@given(st.text(max_size=200) | st.just("a=" + "[" * 5000))
def test_any_text_is_a_pool_or_a_problem(text: str) -> None:
    try:
        assert isinstance(pool_of(text), Pool)
    except Problem as problem:
        assert problem.code is ProblemCode.CONFIG_INVALID


def test_an_explanation_says_who_holds_what_why_so_many_and_who_waits() -> None:
    pool = pool_of(EXAMPLE)
    text = "\n".join(explain(plan(pool), pool))
    assert "example/12B: 40 layers" in text
    assert "equal split in joining order (2 nodes)" in text
    assert "split by memory" in text
    assert "layers 0-" in text
    assert "its ring takes 4.0 ms" in text
    assert "2 nodes because no fewer of them can hold the model" in text
    assert "standby carl: too small for a layer" in text


def test_an_explanation_says_what_is_missing_and_what_is_broken() -> None:
    pool = pool_of(EXAMPLE)
    members = tuple(one for one in pool.members if one.peer != "anna")
    less = Pool(models=pool.models, members=members, rtt=pool.rtt)
    after = repair(plan(pool), Left("anna"), less)
    text = "\n".join(explain(after, less))
    assert "pipeline-1 is broken; who waits with layers for the rest: bert" in text
    assert f"{-(-after.unplaced[0].missing_bytes // 2**20)} MiB for layers" in text


def test_an_explanation_of_one_node_too_many_says_what_it_would_cost() -> None:
    text = EXAMPLE.replace('memory = "200 MiB"', 'memory = "2 GiB"\nlayer_ms = 90')
    pool = pool_of(text)
    lines = explain(plan(pool), pool)
    assert any("standby carl: with it a stream of pipeline-1 would wait" in one for one in lines)
