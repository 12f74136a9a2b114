"""The published models that ship: sane rows, memory by the stated rule, and never served unseen."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from parhelion.models import (
    BITS_PER_WEIGHT,
    ID_FORM,
    KNOWN,
    Catalogue,
    KnownModel,
    inspect,
    known_model,
)
from parhelion.models.families import MILLION
from parhelion.words import Problem, ProblemCode

FAMILIES = {"Qwen3", "Qwen2.5", "DeepSeek", "Llama 3", "MiniMax", "GLM"}


def test_every_family_is_there_and_every_row_is_sane() -> None:
    assert {model.family for model in KNOWN} == FAMILIES
    assert len({model.id.lower() for model in KNOWN}) == len(KNOWN)
    for model in KNOWN:
        assert ID_FORM.fullmatch(model.id) and "/" in model.id
        assert 100 <= model.parameters_millions <= 2 * MILLION
        assert model.active_millions is None or model.active_millions < model.parameters_millions
        assert model.context is None or 4096 <= model.context <= 1024 * 1024
        assert model.purpose in {"chat", "reasoning", "code"}
        assert model.licence


def test_the_size_in_a_name_is_the_size_in_the_row() -> None:
    for model in KNOWN:
        words = [word for word in model.id.split("/")[1].split("-") if word[-1] in "bB"]
        sizes = [float(word[:-1]) for word in words if word[:-1].replace(".", "").isdigit()]
        for size in sizes:
            assert model.parameters_millions / 1000 == pytest.approx(size, rel=0.25), model.id


def test_memory_is_parameters_times_bits_and_nothing_invented() -> None:
    model = known_model("qwen/qwen3-8b")
    assert isinstance(model, KnownModel) and model.parameters_millions == 8200
    assert model.weights_bytes("Q4_0") == 8_200_000_000 * 18 // 32
    assert model.weights_bytes("Q8_0") == 8_200_000_000 * 34 // 32
    assert model.weights_bytes("F16") == 16_400_000_000
    assert set(BITS_PER_WEIGHT) == {"Q4_0", "Q8_0", "F16"}


def test_a_model_is_known_by_its_id_or_its_last_part() -> None:
    assert known_model("Llama-3.3-70B-Instruct") == known_model("meta-llama/Llama-3.3-70B-Instruct")
    assert known_model("Acme/Small-1") is None


def test_a_file_under_a_known_id_takes_its_purpose_where_it_can(
    tiny: ModuleType, tmp_path: Path
) -> None:
    chat = tiny.write_bpe(tmp_path / "chat.gguf")
    raw = tiny.write_bpe(tmp_path / "raw.gguf", template=None)
    assert inspect(chat, "Qwen/Qwen3-8B").purpose == "reasoning"
    assert inspect(chat, "Lab/Any").purpose == "chat"
    # Without a template it answers no messages, whatever its maker says of it.
    assert inspect(raw, "Qwen/Qwen3-8B").purpose == "completion"


async def test_a_known_model_without_a_file_is_404_and_says_what_is_served(
    tiny_gguf: Path, tmp_path: Path, store: object
) -> None:
    class Clock:
        def now_ms(self) -> int:
            return 1

        def monotonic_s(self) -> float:
            return 0.0

    catalogue = await Catalogue.open(store, Clock(), tmp_path)  # type: ignore[arg-type]
    await catalogue.add("Lab/One", tiny_gguf, rates={})
    for name in ("Qwen/Qwen3-8B", "qwen3-8b"):
        with pytest.raises(Problem) as caught:
            catalogue.resolve(name)
        assert caught.value.code == ProblemCode.MODEL_NOT_FOUND
        assert "Qwen/Qwen3-8B has no file in this pool" in caught.value.message
        assert "Lab/One" in caught.value.message
    assert [model.card.id for model in catalogue.models()] == ["Lab/One"]
