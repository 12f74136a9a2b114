"""One machine for several engines: threads and memory are dealt out, and never twice."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from parhelion.config import EngineConfig
from parhelion.engines.share import KV_MEMORY_SHARE, KV_TOKENS_PER_SLOT, kv_tokens, share
from parhelion.words import ModelCard

GIB = 2**30
TOKEN_BYTES = 100_000


def card(size_bytes: int = GIB, context: int = 8192) -> ModelCard:
    return ModelCard(
        id="m", digest="d" * 64, vocabulary_digest="", template_digest="", purpose="chat",
        size_bytes=size_bytes, memory_bytes=size_bytes + context * TOKEN_BYTES, context=context,
        default_max_tokens=1, n_vocab=1, architecture="llama", layers=1, created_s=0,
    )  # fmt: skip


def test_one_model_has_the_machine_as_it_is_set() -> None:
    config = EngineConfig()
    assert share(config, [card()], 16, 64 * GIB) == (config,)
    assert share(config, [], 16, 64 * GIB) == ()


def test_threads_are_split_with_the_rest_to_the_first() -> None:
    def threads(cores: int, models: int, **said: Any) -> list[int]:
        config = EngineConfig(**said)
        return [one.threads for one in share(config, [card()] * models, cores, 64 * GIB)]

    assert threads(16, 2) == [8, 7]
    assert threads(16, 4) == [4, 4, 4, 3]
    assert threads(16, 2, threads=6) == [3, 3]
    # Fewer cores than models: one thread each is the least there is.
    assert threads(2, 2) == [1, 1]
    assert threads(1, 3) == [1, 1, 1]


def test_slots_are_the_nodes_and_each_engine_may_use_them_all() -> None:
    assert [one.slots for one in share(EngineConfig(slots=16), [card()] * 2, 8, GIB)] == [16, 16]


def test_an_operators_own_memory_is_each_engines() -> None:
    config = EngineConfig(kv_tokens=5000)
    assert [one.kv_tokens for one in share(config, [card()] * 2, 8, GIB)] == [5000, 5000]


def test_what_the_files_take_is_not_free_for_caches() -> None:
    roomy = share(EngineConfig(), [card(GIB)] * 2, 8, 12 * GIB)
    tight = share(EngineConfig(), [card(5 * GIB)] * 2, 8, 12 * GIB)
    assert roomy[0].kv_tokens > tight[0].kv_tokens >= KV_TOKENS_PER_SLOT


@given(
    models=st.integers(2, 6),
    cores=st.integers(1, 128),
    free_gib=st.integers(1, 512),
    size_gib=st.integers(1, 64),
)
def test_no_machine_is_given_away_twice(
    models: int, cores: int, free_gib: int, size_gib: int
) -> None:
    cards = [card(size_gib * GIB)] * models
    settings = share(EngineConfig(), cards, cores, free_gib * GIB)
    assert sum(one.threads for one in settings) <= max(models, cores - 1)
    caches = sum(one.kv_tokens for one in settings) * TOKEN_BYTES
    left_bytes = max(0, (free_gib - models * size_gib) * GIB)
    least = models * KV_TOKENS_PER_SLOT * TOKEN_BYTES
    assert caches <= max(least, KV_MEMORY_SHARE * left_bytes)
    same = [msgspec.structs.replace(one, threads=0, kv_tokens=0) for one in settings]
    assert same == [EngineConfig()] * models


def test_a_cache_is_what_its_slots_want_and_memory_has() -> None:
    assert kv_tokens(2048, 16, 1e12, 1000) == 16 * KV_TOKENS_PER_SLOT
    assert kv_tokens(24_000, 16, 1e12, 1000) == 24_000
    assert kv_tokens(131_072, 16, 1e12, 1000) == 32 * 1024
    assert kv_tokens(8192, 16, 4e9, 1_000_000) == 1024
    assert kv_tokens(8192, 1, 40e9, 2_000_000) == 5000
