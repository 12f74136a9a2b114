"""What cannot be cut into stages is refused by name when it is offered, not when it fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from parhelion.bootstrap.node_engines import check_parts, files_of
from parhelion.config import Config
from parhelion.models.gguf_header import read_outline
from parhelion.models.slices import check_sliceable, layout
from parhelion.words import Problem, ProblemCode
from tests.tiny_models import SHAPES, Shape, Value, deeper, write_tiny

REFUSED: dict[str, tuple[str, dict[str, Value], str]] = {
    # name: its architecture, keys that such files have, a word of the cause
    "Gemma 2": ("gemma2", {"attention.sliding_window": 4096}, "place"),
    "Gemma 3": ("gemma3", {"attention.sliding_window": 512}, "place"),
    "Phi-3": ("phi3", {"attention.sliding_window": 2047}, "place"),
    "gpt-oss": ("gpt-oss", {"attention.sliding_window": 128}, "place"),
    "Llama 4": ("llama4", {"interleave_moe_layer_step": 1}, "place"),
    "SmolLM3": ("smollm3", {}, "place"),
    "Mamba": ("mamba", {"ssm.conv_kernel": 4, "ssm.inner_size": 128}, "recurrent"),
    "RWKV": ("rwkv7", {"wkv.head_size": 64}, "recurrent"),
    "Jamba": ("jamba", {"ssm.conv_kernel": 4}, "recurrent"),
    "Qwen3-Next": ("qwen3next", {"full_attention_interval": 4}, "recurrent"),
    "MiniMax-Text-01": ("minimax-01", {"full_attention_interval": 8}, "recurrent"),
    "BERT": ("bert", {"pooling_type": 2, "attention.causal": False}, "embeddings"),
    "Qwen3-Embedding": ("qwen3", {"pooling_type": 3}, "embeddings"),
    "a Llama with windows": ("llama", {"attention.sliding_window_pattern": 4}, "place"),
    "DeepSeek-V3.2": ("deepseek32", {"attention.indexer.top_k": 64}, "checked"),
    "Granite": ("granite", {"embedding_scale": 12.0}, "checked"),
    "an architecture of tomorrow": ("tomorrow", {}, "checked"),
}


def _file(folder: Path, architecture: str, keys: dict[str, Value]) -> Path:
    shape = SHAPES["llama"]
    return write_tiny(
        folder / "model.gguf",
        replace(shape, architecture=architecture, keys={**shape.keys, **keys}),
    )


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_cut_is_refused_by_name(tmp_path: Path, name: str) -> None:
    architecture, keys, cause = REFUSED[name]
    path = _file(tmp_path, architecture, keys)
    with pytest.raises(Problem) as refused:
        check_sliceable(read_outline(path))
    assert refused.value.code == ProblemCode.MODEL_NOT_SLICEABLE
    assert architecture in refused.value.message
    assert cause in refused.value.message
    assert refused.value.hint
    with pytest.raises(Problem) as cut:
        layout(path, 0, 3)
    assert cut.value.code == ProblemCode.MODEL_NOT_SLICEABLE


@pytest.mark.parametrize("name", SHAPES)
def test_what_people_run_is_not_refused(tmp_path: Path, name: str) -> None:
    check_sliceable(read_outline(write_tiny(tmp_path / "model.gguf", SHAPES[name])))


def test_a_stage_that_llama_cpp_would_take_for_another_model_is_refused(tmp_path: Path) -> None:
    """It takes a deepseek2 file of 26 or 27 layers for DeepSeek-V2-Lite."""
    path = write_tiny(tmp_path / "model.gguf", deeper(SHAPES["deepseek2"], 30))
    for start, end in ((0, 26), (3, 30)):
        with pytest.raises(Problem) as refused:
            layout(path, start, end)
        assert refused.value.code == ProblemCode.MODEL_NOT_SLICEABLE
        assert f"deepseek2 [{start}, {end})" in refused.value.message
    assert layout(path, 0, 25).layers == layout(path, 2, 30).layers == 30


def test_a_layer_that_only_predicts_is_in_no_slice(tmp_path: Path) -> None:
    shape: Shape = SHAPES["glm4moe"]
    path = write_tiny(tmp_path / "model.gguf", shape)
    assert layout(path, 0, 3).layers == shape.layers
    with pytest.raises(Problem):
        layout(path, 3, shape.layers + shape.prediction_layers)


async def test_a_member_that_names_such_a_file_is_told_at_its_start(tmp_path: Path) -> None:
    path = _file(tmp_path, "gemma3", {"attention.sliding_window": 512})
    files = await files_of(Config(data=str(tmp_path)), [str(path)])
    with pytest.raises(Problem) as refused:
        await check_parts(files)
    assert refused.value.code == ProblemCode.MODEL_NOT_SLICEABLE
    assert "gemma3" in refused.value.message and "model" in refused.value.message


async def test_a_member_with_a_model_that_can_be_cut_starts(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "llama.gguf", SHAPES["llama"])
    await check_parts(await files_of(Config(data=str(tmp_path)), [str(path)]))
