"""A model file is taken only when all that it lists is in it, to the last byte."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import gguf
import pytest

from parhelion.models import inspect
from parhelion.models.gguf_header import HeaderBroken, Outline, Tensor, read_outline
from parhelion.models.gguf_tensors import BLOCKS, check_whole
from parhelion.words import Problem, ProblemCode


def test_the_packaged_model_and_its_copy_are_whole_to_their_last_byte(
    smollm2: Path, tmp_path: Path
) -> None:
    outline = read_outline(smollm2)
    assert len(outline.tensors) == 272
    check_whole(outline, 30)
    cut = tmp_path / "cut.gguf"
    whole = smollm2.read_bytes()
    # The last tensor is padded to 32 bytes; its own last byte is what counts.
    for size_bytes in (len(whole) // 2, len(whole) - 32, outline.read_bytes):
        cut.write_bytes(whole[:size_bytes])
        with pytest.raises(Problem, match="cut short") as caught:
            inspect(cut, "lab/cut", tmp_path)
        assert caught.value.code is ProblemCode.ARTEFACT_INVALID
        assert "fetch it again" in caught.value.hint


def test_a_vocabulary_is_no_model(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="a vocabulary and no weights") as caught:
        inspect(tiny.write_bpe(tmp_path / "v.gguf", tensors=()), "lab/v", tmp_path)
    assert caught.value.code is ProblemCode.ARTEFACT_INVALID


def test_a_model_without_one_of_its_layers_or_its_embedding_is_refused(
    tiny: ModuleType, tmp_path: Path
) -> None:
    one, two, three = tiny.TENSORS
    for number, (names, why) in enumerate(
        [((one, two), "layer 1 of 2"), ((one, three), "layer 0 of 2"), ((two, three), "token_embd")]
    ):
        path = tiny.write_bpe(tmp_path / f"{number}.gguf", tensors=names)
        with pytest.raises(Problem, match=why):
            inspect(path, "lab/x", tmp_path)


def test_the_sizes_of_blocks_are_those_of_the_gguf_package() -> None:
    theirs = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert theirs == BLOCKS


def outline_of(*tensors: Tensor, size_bytes: int = 4096, header: object = None) -> Outline:
    return Outline(dict(header or {}), tensors, 100, size_bytes)  # type: ignore[call-overload]


def embedding(elements: int = 32, kind: int = 0, offset: int = 0) -> Tensor:
    return Tensor("token_embd.weight", elements, kind, offset)


def test_the_last_byte_of_the_last_tensor_must_be_there() -> None:
    # The list ends at byte 100, so the weights begin at 128; 32 floats take 128 bytes.
    check_whole(outline_of(embedding(), size_bytes=256), 0)
    for broken in (
        outline_of(embedding(), size_bytes=255),
        outline_of(embedding(offset=2**62)),
        outline_of(embedding(elements=2**200)),
        outline_of(embedding(kind=12345, offset=5000)),
        outline_of(embedding(), header={"general.alignment": 0}),
        outline_of(embedding(), header={"general.alignment": "x"}),
    ):
        with pytest.raises(HeaderBroken):
            check_whole(broken, 0)


def test_a_type_that_is_newer_than_this_program_is_not_refused_for_that() -> None:
    check_whole(outline_of(embedding(kind=12345)), 0)
