"""How one machine is shared among the engines of several models; pure.

Two engines that both use all cores take turns at waiting for each other: one busy neighbour made an
engine five times slower (DESIGN 3). So threads are dealt out, and so is the memory for KV caches.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from parhelion.config import EngineConfig
from parhelion.words import ModelCard

KV_TOKENS_PER_SLOT = 1024
"""The default memory: every slot can hold a chat of this length at once."""

KV_TOKENS_LARGEST = 32 * 1024
"""The default's bound; a longer context is an operator's own decision."""

KV_MEMORY_SHARE = 0.25
"""Of the memory that is free, the KV caches together take at most this."""


def kv_tokens(context: int, slots: int, free_bytes: float, token_bytes: float) -> int:
    """Tokens of a KV cache that nobody gave a size: as many as its slots want and memory has."""
    wanted = max(context, slots * KV_TOKENS_PER_SLOT)
    affordable = int(KV_MEMORY_SHARE * free_bytes / max(1.0, token_bytes))
    return max(KV_TOKENS_PER_SLOT, min(wanted, KV_TOKENS_LARGEST, affordable))


def share(
    config: EngineConfig, cards: Sequence[ModelCard], cores: int, free_bytes: int
) -> tuple[EngineConfig, ...]:
    """The settings of each model's engine, in the order of `cards`.

    `threads` are those of the machine and are split, at least one each; `slots` are the node's and
    every engine may use them all, because the coordinator counts the node's together. `kv_tokens`
    that the operator set is each engine's own: a token is not the same memory in two models.
    """
    if len(cards) < 2:
        return (config,) * len(cards)
    threads = config.threads or max(1, cores - 1)
    each, rest = divmod(threads, len(cards))
    left_bytes = max(0, free_bytes - sum(card.size_bytes for card in cards)) / len(cards)
    return tuple(
        msgspec.structs.replace(
            config,
            threads=max(1, each + (place < rest)),
            kv_tokens=config.kv_tokens
            or kv_tokens(card.context, config.slots, left_bytes, token_bytes(card)),
        )
        for place, card in enumerate(cards)
    )


def token_bytes(card: ModelCard) -> float:
    """What one token takes in the KV cache: the catalogue's memory is the file and a full one."""
    return (card.memory_bytes - card.size_bytes) / card.context
