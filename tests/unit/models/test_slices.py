"""A slice is some layers of a model and nothing else, the same bytes wherever it is cut."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.models import inspect
from parhelion.models.gguf_header import Array, Tensor, read_outline
from parhelion.models.slices import layout, layout_of, slice_sha256, weigh, write_slice
from parhelion.words import Problem, ProblemCode
from tests.tiny_models import (
    HEADS,
    LATENT,
    NOPE,
    ROPE,
    SHAPES,
    VALUE,
    Shape,
    deeper,
    write_tiny,
)

EMBEDDING, NORM, HEAD = "token_embd.weight", "output_norm.weight", "output.weight"
EDGES = (EMBEDDING, NORM, HEAD)

# Taken once: a change of these is a change of what every node must fetch again.
KNOWN = {
    (0, 10): "74040d71475bde0bc834dd93c17bf924e8978a70de05b4a5457cbb1e850f1e1f",
    (10, 20): "7e2aa11b49b675bfc02ff62c5ebae82118878d2b98d2d15f44278cea978054de",
    (20, 30): "5ddb4810cd093ef2d41a452e5824f9025479d1b6db6d76a3dc15836431af673c",
    (0, 30): "57a82a65112624e45755a2ff9164d2bdc809e8a643af8ba867aa38efc8402138",
}

Tensors = dict[str, tuple[int, tuple[int, ...], bytes]]


def tensors(path: Path) -> Tensors:
    """Every tensor as gguf-py reads it: kind, shape, bytes."""
    return {
        t.name: (int(t.tensor_type), tuple(int(side) for side in t.shape), t.data.tobytes())
        for t in gguf.GGUFReader(path).tensors
    }


def fields(path: Path) -> dict[str, Any]:
    """Every key as gguf-py reads it."""
    found = gguf.GGUFReader(path).fields
    return {name: f.contents() for name, f in found.items() if not name.startswith("GGUF.")}


def cut(path: Path, start: int, end: int, folder: Path) -> Path:
    target = folder / f"{start}-{end}.gguf"
    write_slice(path, layout(path, start, end), target)
    return target


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of each tiny shape."""
    folder = tmp_path_factory.mktemp("whole")
    return {name: write_tiny(folder / name, shape) for name, shape in SHAPES.items()}


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_stages_of_any_partition_hold_every_tensor_once(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(models)))
    shape, path = SHAPES[name], models[name]
    inner = data.draw(st.sets(st.integers(1, shape.layers - 1), max_size=3))
    bounds = [0, *sorted(inner), shape.layers]
    whole = tensors(path)
    folder = tmp_path_factory.mktemp("cuts")
    seen: list[str] = []
    for start, end in pairwise(bounds):
        part = tensors(cut(path, start, end, folder))
        for slot, found in part.items():
            origin = origin_of(slot, start, end == shape.layers, found, whole)
            if origin is None:
                assert not any(found[2]), f"{slot} of [{start}, {end}) is no filler of zeros"
            else:
                assert found == whole[origin]
                seen.append(origin)
    dropped = {n for n in whole if n.startswith(f"blk.{shape.layers}.")}
    again = set(shape.whole)  # Factors of the rotation are every stage's.
    again |= {EMBEDDING} if shape.tied else set()
    assert set(seen) == set(whole) - dropped
    assert sorted(set(seen) - again) == sorted(n for n in seen if n not in again)


def origin_of(slot: str, start: int, is_last: bool, found: Any, whole: Tensors) -> str | None:
    """Which tensor of the whole file a slice's tensor is; None for a filler."""
    if slot.startswith("blk."):
        _, number, short = slot.split(".", 2)
        return f"blk.{int(number) + start}.{short}"
    if slot not in EDGES:
        return slot
    if not any(found[2]):
        return None
    if slot == EMBEDDING and start > 0:
        assert is_last
        return HEAD if HEAD in whole else EMBEDDING
    return slot


def test_what_a_stage_does_not_use_takes_next_to_nothing(smollm2: Path) -> None:
    weight = weigh(smollm2)
    first, middle, last = (layout(smollm2, start, start + 10) for start in (0, 10, 20))
    layers = sum(weight.layer_bytes[10:20])
    assert middle.size_bytes - layers < 20_000
    assert first.size_bytes - layers - weight.head_bytes < 20_000
    words = 2_000_000  # The vocabulary's own text.
    assert last.size_bytes - layers - weight.tail_bytes < words


def test_a_head_of_its_own_takes_the_place_of_the_dead_embedding(models: dict[str, Path]) -> None:
    small = 20_000  # Metadata and the list of tensors.
    for name in ("qwen2", "mixtral", "minimax-m2"):
        weight = weigh(models[name])
        last = layout(models[name], 5, 6).size_bytes - weight.layer_bytes[5]
        assert 0 < last - weight.tail_bytes < small
        real = (64 * 320 + 64) * 4
        # Its loader wants both: the filler of half a byte an element is the price.
        filler = 64 * 320 * 18 // 32 if name == "minimax-m2" else 0
        assert weight.tail_bytes == real + filler


def test_a_bias_of_the_head_goes_with_it(models: dict[str, Path]) -> None:
    outline = read_outline(models["qwen2"])
    free = max(tensor.offset for tensor in outline.tensors) + 2**20
    bias = Tensor("output.bias", 320, 0, free, (320,))
    with_bias = replace(outline, tensors=(*outline.tensors, bias), size_bytes=2**30)
    for (start, end), there in {(0, 3): False, (2, 4): False, (3, 6): True}.items():
        found = layout_of(with_bias, start, end).segments
        assert any(b"output.bias" in segment.body for segment in found) is there


def test_only_the_last_stage_knows_the_vocabulary(models: dict[str, Path], tmp_path: Path) -> None:
    path = models["llama"]
    whole = fields(path)
    first, middle, last = (fields(cut(path, start, start + 2, tmp_path)) for start in (0, 2, 4))
    assert said(last, "tokenizer.") == said(whole, "tokenizer.")
    for other in (first, middle):
        assert said(other, "tokenizer.") == {"tokenizer.ggml.model": "none"}
    assert (first["llama.vocab_size"], middle["llama.vocab_size"]) == (320, 1)
    own = {"llama.block_count": 2}
    for part in (first, middle, last):
        vocabulary = {"llama.vocab_size": part["llama.vocab_size"]}
        assert said(part, "llama.") == said(whole, "llama.") | own | vocabulary


def said(found: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key.startswith(prefix)}


@pytest.mark.parametrize("bounds", sorted(KNOWN))
def test_a_cut_has_the_same_digest_on_every_machine(
    smollm2: Path, tmp_path: Path, bounds: tuple[int, int]
) -> None:
    shape = layout(smollm2, *bounds)
    assert slice_sha256(smollm2, shape, tmp_path) == KNOWN[bounds]
    assert layout(smollm2, *bounds) == shape


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_range_of_a_slice_is_that_range_of_its_file(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = models["glm4moe"]
    start = data.draw(st.integers(0, 5))
    shape = layout(path, start, data.draw(st.integers(start + 1, 6)))
    whole = b"".join(shape.iterate(path))
    assert len(whole) == shape.size_bytes
    begin = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(begin, len(whole)))
    chunk_bytes = data.draw(st.integers(1000, 1 << 20))
    chunks = list(shape.iterate(path, begin, end, chunk_bytes))
    assert b"".join(chunks) == whole[begin:end]
    assert all(0 < len(chunk) <= chunk_bytes for chunk in chunks)


def test_a_range_outside_a_slice_is_refused(models: dict[str, Path]) -> None:
    shape = layout(models["llama"], 0, 2)
    for begin, end in ((-1, 5), (5, 4), (0, shape.size_bytes + 1)):
        with pytest.raises(Problem) as caught:
            list(shape.iterate(models["llama"], begin, end))
        assert caught.value.code is ProblemCode.INVALID_REQUEST


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (0, 0), (3, 2), (0, 7), (6, 7)])
def test_layers_that_the_model_does_not_have_are_refused(
    models: dict[str, Path], start: int, end: int
) -> None:
    for name in ("llama", "glm4moe"):  # The seventh of glm4moe only predicts further ids.
        with pytest.raises(Problem, match="a model of 6 layers") as caught:
            layout(models[name], start, end)
        assert caught.value.code is ProblemCode.INVALID_REQUEST


def test_a_slice_is_written_whole_or_not_at_all(models: dict[str, Path], tmp_path: Path) -> None:
    path, target = models["qwen2"], tmp_path / "in" / "s.gguf"
    shape = layout(path, 1, 3)
    digest = write_slice(path, shape, target)
    assert digest == slice_sha256(path, shape, tmp_path)
    assert target.stat().st_size == shape.size_bytes
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    before = target.read_bytes()
    shorter = tmp_path / "cut.gguf"
    shorter.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(Problem) as caught:
        write_slice(shorter, shape, target)
    assert caught.value.code is ProblemCode.ARTEFACT_UNAVAILABLE
    assert target.read_bytes() == before
    assert os.listdir(target.parent) == ["s.gguf"]


def test_a_disk_that_takes_nothing_is_a_problem(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Problem) as caught:
        write_slice(models["qwen2"], layout(models["qwen2"], 0, 1), tmp_path / "file" / "s.gguf")
    assert caught.value.code is ProblemCode.ARTEFACT_UNAVAILABLE
    assert str(tmp_path) not in caught.value.message


def test_a_digest_is_computed_once_while_the_file_is_the_same(
    models: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(models["llama"].read_bytes())
    shape = layout(path, 0, 3)
    first = slice_sha256(path, shape, tmp_path)
    was = path.stat()
    altered = bytearray(path.read_bytes())
    altered[read_outline(path).read_bytes + 200_000] ^= 1
    path.write_bytes(altered)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert slice_sha256(path, shape, tmp_path) == first  # Remembered: nothing was read.
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns + 1))
    assert slice_sha256(path, shape, tmp_path) != first
    assert slice_sha256(path, layout(path, 0, 2), tmp_path) != first


def test_a_slice_is_no_model_and_cannot_be_cut_again(
    models: dict[str, Path], tmp_path: Path
) -> None:
    part = cut(models["llama"], 0, 3, tmp_path)
    with pytest.raises(Problem, match="itself a slice"):
        layout(part, 0, 1)
    with pytest.raises(Problem, match="a slice of a model") as caught:
        inspect(part, "lab/part", tmp_path)
    assert caught.value.code is ProblemCode.ARTEFACT_INVALID


def keys_of(shape: Shape, start: int, end: int, folder: Path) -> dict[str, Any]:
    path = folder / "whole.gguf"
    if not path.exists():
        write_tiny(path, shape)
    return fields(cut(path, start, end, folder))


def test_leading_dense_layers_are_counted_from_the_slices_first(tmp_path: Path) -> None:
    shape = SHAPES["deepseek2"]
    for (start, end), dense in {(0, 2): 2, (0, 5): 3, (2, 4): 1, (3, 8): 0}.items():
        keys = keys_of(shape, start, end, tmp_path)
        assert keys["deepseek2.leading_dense_block_count"] == dense


def test_what_llama_cpp_guesses_from_the_number_of_layers_is_said_outright(
    tmp_path: Path,
) -> None:
    lite = keys_of(SHAPES["deepseek2-lite"], 3, 9, tmp_path)
    assert lite["deepseek2.attention.q_lora_rank"] == 0
    assert lite["deepseek2.expert_gating_func"] == 1


def test_a_length_that_llama_cpp_takes_for_another_kind_is_forbidden(tmp_path: Path) -> None:
    shape = deeper(SHAPES["deepseek2"], 30)
    path = write_tiny(tmp_path / "deep.gguf", shape)
    assert weigh(path).forbidden_lengths == (26, 27)
    for start, end in ((0, 26), (3, 30)):
        with pytest.raises(Problem, match="another kind") as caught:
            layout(path, start, end)
        assert caught.value.code is ProblemCode.MODEL_NOT_SLICEABLE
    layout(path, 0, 25)
    assert weigh(write_tiny(tmp_path / "lite", SHAPES["deepseek2-lite"])).forbidden_lengths == ()


def test_layers_that_only_predict_are_in_no_slice(models: dict[str, Path], tmp_path: Path) -> None:
    path = models["glm4moe"]
    assert fields(path)["glm4moe.block_count"] == 7
    assert weigh(path).layers == 6
    last = cut(path, 4, 6, tmp_path)
    keys = fields(last)
    assert (keys["glm4moe.block_count"], keys["glm4moe.nextn_predict_layers"]) == (2, 0)
    assert not any("nextn" in name for name in tensors(last))


def test_a_key_with_a_value_for_each_layer_is_cut(tmp_path: Path) -> None:
    path = write_with(tmp_path / "m.gguf", "llama", {"attention.head_count_kv": [1, 2, 3, 4, 5, 6]})
    part = read_outline(cut(path, 2, 5, tmp_path)).header["llama.attention.head_count_kv"]
    assert isinstance(part, Array) and part.values == (3, 4, 5)
    heads_wide = 16 + 16
    assert weigh(path).kv_bytes_per_token == tuple(n * heads_wide * 2 for n in range(1, 7))


def write_with(path: Path, name: str, arrays: dict[str, Sequence[int]]) -> Path:
    """A tiny model some of whose keys are arrays."""
    shape = SHAPES[name]
    whole = write_tiny(path.with_suffix(".one"), shape)
    reader = gguf.GGUFReader(whole)
    writer = gguf.GGUFWriter(path, shape.architecture)
    for field in reader.fields.values():
        short = field.name.removeprefix(f"{shape.architecture}.")
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        if short not in arrays:
            sub = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub)
    for short, values in arrays.items():
        writer.add_array(f"{shape.architecture}.{short}", list(values))
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def arrays(tmp_path: Path) -> Iterator[Any]:
    """A writer of models with keys that are arrays."""
    yield lambda keys: write_with(tmp_path / "a.gguf", "qwen3", keys)


def test_an_array_that_nobody_knows_is_refused_by_its_name(arrays: Any) -> None:
    with pytest.raises(Problem, match=r"qwen3 .* 'attention\.secret'") as caught:
        layout(arrays({"attention.secret": [1] * 6}), 0, 1)
    assert caught.value.code is ProblemCode.MODEL_NOT_SLICEABLE
    with pytest.raises(Problem, match="not one number for each of 6"):
        layout(arrays({"feed_forward_length": [96] * 5}), 0, 1)


def test_weights_are_those_of_the_file(models: dict[str, Path]) -> None:
    for name, path in models.items():
        weight, whole = weigh(path), tensors(path)
        for number, layer_bytes in enumerate(weight.layer_bytes):
            found = [len(t[2]) for n, t in whole.items() if n.startswith(f"blk.{number}.")]
            assert layer_bytes == sum(found)
        assert weight.hidden_size == 64 and weight.n_vocab == 320
        assert weight.layers == SHAPES[name].layers == len(weight.kv_bytes_per_token)
        pairs = zip(weight.layer_active_bytes, weight.layer_bytes, strict=True)
        assert all(0 < active <= whole_bytes for active, whole_bytes in pairs)


def test_what_a_token_takes_of_the_kv_memory_is_what_llama_cpp_keeps(
    models: dict[str, Path],
) -> None:
    per_layer = {name: set(weigh(path).kv_bytes_per_token) for name, path in models.items()}
    assert per_layer["llama"] == {2 * (16 + 16) * 2}
    assert per_layer["qwen3"] == {2 * (32 + 32) * 2}
    # Latent attention: one compressed key for all heads, and the values are a part of it.
    assert per_layer["deepseek2"] == {(LATENT + ROPE) * 2}
    assert per_layer["deepseek2-lite"] == {HEADS * (NOPE + ROPE + VALUE) * 2}


def test_of_a_mixture_a_token_reads_only_the_experts_it_uses(models: dict[str, Path]) -> None:
    weight = weigh(models["mixtral"])
    experts = 3 * 64 * 64 * 6 * 4
    for active, whole in zip(weight.layer_active_bytes, weight.layer_bytes, strict=True):
        assert whole - active == experts * 4 // 6
    dense = weigh(models["qwen2"])
    assert dense.layer_active_bytes == dense.layer_bytes
