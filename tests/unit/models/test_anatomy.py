"""What cannot be sliced is refused by name, and a hostile outline is never cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.models.architectures import ARCHITECTURES
from parhelion.models.gguf_header import Array, Outline, Tensor, read_outline
from parhelion.models.slices import check_sliceable, layout, layout_of
from parhelion.words import Problem, ProblemCode
from tests.tiny_models import SHAPES, write_tiny

EMBEDDING = "token_embd.weight"


@pytest.fixture(scope="module")
def outline(tmp_path_factory: pytest.TempPathFactory) -> Outline:
    """Of a tiny qwen2, which has an output head of its own."""
    return read_outline(write_tiny(tmp_path_factory.mktemp("m") / "q.gguf", SHAPES["qwen2"]))


def with_keys(outline: Outline, **changes: Any) -> Outline:
    header = {**outline.header}
    for key, value in changes.items():
        header[key.replace("__", ".")] = value
    return replace(outline, header=header)


def with_tensor(outline: Outline, which: str, /, **changes: Any) -> Outline:
    """The outline with one tensor changed."""
    listed = tuple(
        replace(tensor, **changes) if tensor.name == which else tensor for tensor in outline.tensors
    )
    assert listed != outline.tensors
    return replace(outline, tensors=listed)


def test_every_shape_of_the_tests_can_be_cut(tmp_path: Path) -> None:
    for shape in SHAPES.values():
        check_sliceable(read_outline(write_tiny(tmp_path / "m.gguf", shape)))
    assert {shape.architecture for shape in SHAPES.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize(
    ("architecture", "cause"),
    [
        ("mamba2", "recurrent state"),
        ("qwen35moe", "recurrent state"),
        ("minimax-01", "recurrent state"),
        ("gemma3", "place in the whole model"),
        ("gpt-oss", "place in the whole model"),
        ("llama4", "place in the whole model"),
        ("smollm3", "place in the whole model"),
        ("nomic-bert", "makes embeddings"),
        ("gpt2", "nobody has checked"),
        ("of-next-year", "nobody has checked"),
    ],
)
def test_what_cannot_be_sliced_is_refused_by_name(
    outline: Outline, architecture: str, cause: str
) -> None:
    with pytest.raises(Problem, match=rf": {architecture} cannot .*{cause}") as caught:
        check_sliceable(with_keys(outline, general__architecture=architecture))
    assert caught.value.code is ProblemCode.MODEL_NOT_SLICEABLE
    assert "whole" in caught.value.hint


@pytest.mark.parametrize(
    ("keys", "cause"),
    [
        ({"split__count": 3}, "one of 3 parts"),
        ({"qwen2__pooling_type": 1}, "makes embeddings"),
        ({"qwen2__attention__causal": False}, "makes embeddings"),
        ({"qwen2__attention__sliding_window_pattern": 4}, "place in the whole model"),
        ({"parhelion__slice__start": 0}, "itself a slice"),
        ({"general__architecture": 7}, "no general.architecture"),
        ({"general__architecture": "x\n500 secret"}, "no general.architecture"),
        ({"tokenizer__ggml__tokens": 7}, "no vocabulary"),
        ({"qwen2__layer_kinds": Array(6, b"", (0,) * 6, 4)}, "'layer_kinds'"),
    ],
)
def test_what_a_model_has_that_no_slice_can_have_is_named(
    outline: Outline, keys: dict[str, Any], cause: str
) -> None:
    with pytest.raises(Problem, match=cause) as caught:
        check_sliceable(with_keys(outline, **keys))
    assert caught.value.code is ProblemCode.MODEL_NOT_SLICEABLE


@pytest.mark.parametrize(
    "keys",
    [
        {"qwen2__block_count": 0},
        {"qwen2__block_count": 513},
        {"qwen2__block_count": True},
        {"qwen2__block_count": 2**64},
        {"qwen2__block_count": "6"},
        {"qwen2__block_count": 7},
        {"qwen2__nextn_predict_layers": 6},
        {"qwen2__nextn_predict_layers": -1},
        {"qwen2__embedding_length": 65},
        {"qwen2__embedding_length": -64},
        {"general__alignment": 0},
        {"general__alignment": 48},
        {"tokenizer__ggml__tokens": Array(319, b"", ())},
        {"qwen2__attention__head_count": Array(6, b"", ("x",) * 6)},
        {"qwen2__attention__head_count": Array(2**60, b"", (), 4)},
        {"qwen2__attention__head_count": Array(6, b"", (1.5,) * 6, 6)},
    ],
)
def test_a_hostile_key_is_refused(outline: Outline, keys: dict[str, Any]) -> None:
    with pytest.raises(Problem) as caught:
        check_sliceable(with_keys(outline, **keys))
    assert caught.value.code is ProblemCode.ARTEFACT_INVALID


def all_over_each_other(outline: Outline) -> Outline:
    """A gigabyte of claims over a megabyte of file."""
    return replace(outline, tensors=tuple(replace(t, offset=0) for t in outline.tensors))


def twice(outline: Outline) -> Outline:
    return replace(outline, tensors=(*outline.tensors, outline.tensors[-1]))


@pytest.mark.parametrize(
    "change",
    [
        all_over_each_other,
        twice,
        lambda o: with_tensor(o, EMBEDDING, shape=(320, 64)),
        lambda o: with_tensor(o, EMBEDDING, shape=()),
        lambda o: with_tensor(o, EMBEDDING, shape=(0, 2**63)),
        lambda o: with_tensor(o, EMBEDDING, elements=2**200),
        lambda o: with_tensor(o, EMBEDDING, offset=2**63),
        lambda o: with_tensor(o, "output.weight", shape=(64, 319)),
        lambda o: with_tensor(o, "output_norm.weight", name="output_norm.bias"),
        lambda o: with_tensor(o, "blk.3.attn_q.weight", kind=12),
        lambda o: replace(o, size_bytes=o.size_bytes - 4096),
        lambda o: replace(o, tensors=()),
    ],
)
def test_a_hostile_tensor_is_refused(
    outline: Outline, change: Callable[[Outline], Outline]
) -> None:
    with pytest.raises(Problem) as caught:
        check_sliceable(change(outline))
    assert caught.value.code is ProblemCode.ARTEFACT_INVALID


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("blk.6.attn_q.weight", "of a layer that it does not count"),
        ("blk.03.attn_q.weight", "belongs to no layer"),
        ("blk.3.ATTN.weight", "belongs to no layer"),
        ("blk.3." + "a" * 60, "belongs to no layer"),
        ("cls.output.weight", "belongs to no layer"),
        ("x\ninjected", "belongs to no layer"),
    ],
)
def test_a_tensor_with_no_place_in_a_stage_is_named(outline: Outline, name: str, said: str) -> None:
    more = Tensor(name, 32, 0, outline.tensors[-1].offset + 2**20, (32,))
    wider = replace(outline, tensors=(*outline.tensors, more), size_bytes=2**30)
    with pytest.raises(Problem, match=said) as caught:
        check_sliceable(wider)
    assert caught.value.code is ProblemCode.MODEL_NOT_SLICEABLE
    assert "\n" not in caught.value.message


def test_a_type_newer_than_this_program_is_not_cut(outline: Outline) -> None:
    with pytest.raises(Problem, match="unknown type 99") as caught:
        check_sliceable(with_tensor(outline, "blk.3.attn_q.weight", kind=99))
    assert caught.value.code is ProblemCode.MODEL_NOT_SLICEABLE


def test_a_file_that_is_no_model_or_gone_is_a_problem_that_names_no_path(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"PK\x03\x04")
    for name, code in {
        "x": ProblemCode.ARTEFACT_INVALID,
        "none": ProblemCode.ARTEFACT_UNAVAILABLE,
    }.items():
        with pytest.raises(Problem) as caught:
            layout(tmp_path / name, 0, 1)
        assert caught.value.code is code
        assert str(tmp_path) not in caught.value.message


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_flipped_bytes_end_in_a_slice_no_larger_than_the_file_or_in_a_refusal(
    outline: Outline, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    source = folder / "source.gguf"
    if not source.exists():
        write_tiny(source, SHAPES["deepseek2"])
    body = bytearray(source.read_bytes())
    read_bytes = read_outline(source).read_bytes
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, read_bytes - 1))] = data.draw(st.integers(0, 255))
    broken = folder / "broken.gguf"
    broken.write_bytes(body)
    try:
        made = layout(broken, 2, 5)
    except Problem:
        return
    assert made.size_bytes < 2 * len(body)
    assert sum(map(len, made.iterate(broken))) == made.size_bytes


def test_an_outline_is_cut_as_its_file_is(outline: Outline) -> None:
    assert layout_of(outline, 0, 6).layers == 6
