"""Whether a model fits: both numbers said before it is loaded, and never a cache over the limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.config import EngineConfig
from parhelion.engines import bounded, check_fit, fits_whole, offered_memory, whole_bytes
from parhelion.engines.share import KV_TOKENS_LARGEST, KV_TOKENS_PER_SLOT, kv_tokens
from parhelion.words import ModelCard, Problem, ProblemCode

MIB = 1024 * 1024
TOKEN_BYTES = 20_000
CONFIG = EngineConfig()


def card(size_bytes: int = 100 * MIB, context: int = 8192, id: str = "m") -> ModelCard:
    return ModelCard(
        id=id, digest="d" * 64, vocabulary_digest="", template_digest="", purpose="chat",
        size_bytes=size_bytes, memory_bytes=size_bytes + context * TOKEN_BYTES, context=context,
        default_max_tokens=1, n_vocab=1, architecture="llama", layers=1, created_s=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("limit", "available", "reserve", "offered"),
    [
        (None, 1000, 0, 1000),
        (None, 1000, 300, 700),
        (500, 1000, 300, 500),
        (900, 1000, 300, 700),
        (500, 100, 300, 0),
        (0, 1000, 0, 0),
    ],
)
def test_a_node_gives_what_is_free_and_never_more_than_its_limit(
    limit: int | None, available: int, reserve: int, offered: int
) -> None:
    assert offered_memory(limit, available, reserve) == offered


def test_a_model_needs_its_file_and_a_small_cache_and_not_one_for_its_whole_context() -> None:
    small = 100 * MIB + KV_TOKENS_PER_SLOT * TOKEN_BYTES
    assert whole_bytes(card(), CONFIG) == small
    assert whole_bytes(card(context=1_000_000), CONFIG) == small
    # llama.cpp rounds up to 256.
    assert whole_bytes(card(context=100), CONFIG) == 100 * MIB + 256 * TOKEN_BYTES
    # What the operator set is taken whole, however small the limit.
    assert whole_bytes(card(), EngineConfig(kv_tokens=5120)) == 100 * MIB + 5120 * TOKEN_BYTES


def test_a_model_fits_up_to_its_last_byte() -> None:
    need = whole_bytes(card(), CONFIG)
    assert fits_whole(card(), need, CONFIG)
    assert not fits_whole(card(), need - 1, CONFIG)
    assert fits_whole(card(10**15), None, CONFIG)


def test_what_does_not_fit_is_refused_with_both_numbers_and_what_to_do() -> None:
    with pytest.raises(Problem) as refused:
        check_fit([card(id="Acme/Big")], 64 * MIB, CONFIG)
    assert refused.value.code is ProblemCode.CONFIG_INVALID
    assert "Acme/Big needs 120 MiB" in refused.value.message
    assert "64 MiB" in refused.value.message
    assert "--memory-limit to 120MiB" in refused.value.hint
    check_fit([card()], 120 * MIB, CONFIG)
    check_fit([card()], None, CONFIG)


def test_models_that_fit_one_by_one_may_not_fit_together() -> None:
    check_fit([card()], 200 * MIB, CONFIG)
    with pytest.raises(Problem, match="a, b need 240 MiB"):
        check_fit([card(id="a"), card(id="b")], 200 * MIB, CONFIG)


@given(
    size_mib=st.integers(1, 100_000),
    context=st.integers(1, 200_000),
    room_mib=st.integers(-10, 800),
    kv=st.sampled_from((0, 2048)),
)
def test_a_cache_stays_within_the_limit_wherever_the_model_fits(
    size_mib: int, context: int, room_mib: int, kv: int
) -> None:
    model, config, limit = (
        card(size_mib * MIB, context),
        EngineConfig(kv_tokens=kv),
        (size_mib + room_mib) * MIB,
    )
    if not fits_whole(model, limit, config):
        return
    tokens = bounded(config, model, limit).kv_tokens
    rounded = -(-tokens // 256) * 256
    assert model.size_bytes + rounded * TOKEN_BYTES <= limit
    assert tokens >= min(context, KV_TOKENS_PER_SLOT) or tokens == kv
    assert tokens <= KV_TOKENS_LARGEST


def test_without_a_limit_nothing_changes() -> None:
    assert bounded(CONFIG, card(), None) == CONFIG


def test_a_generous_limit_gives_what_a_roomy_machine_does() -> None:
    roomy = kv_tokens(8192, CONFIG.slots, 10**15, TOKEN_BYTES)
    assert bounded(CONFIG, card(), 10**12).kv_tokens == roomy
