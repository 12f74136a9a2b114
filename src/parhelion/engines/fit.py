"""Whether a model fits into what a node gives: decided before it is loaded; pure.

A file that does not fit is read from the disk again for every token: the machine seems to stand
still, and so does whatever else runs on it. So it is refused, or cut.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from parhelion.config import EngineConfig
from parhelion.engines.share import KV_TOKENS_PER_SLOT, kv_tokens, token_bytes
from parhelion.words import ModelCard, Problem, ProblemCode

MIB = 1024 * 1024

KV_STEP_TOKENS = 256
"""llama.cpp rounds a cache up to a multiple of this."""


def offered_memory(limit_bytes: int | None, available_bytes: int, reserve_bytes: int = 0) -> int:
    """What a node gives to models: what is free but for a reserve, never more than its limit."""
    free_bytes = max(0, available_bytes - reserve_bytes)
    return free_bytes if limit_bytes is None else min(limit_bytes, free_bytes)


def whole_bytes(card: ModelCard, config: EngineConfig) -> int:
    """The least that a node needs to serve the model alone: the file, and a small KV cache.

    `memory_bytes` of a card counts a cache for the full context, which an engine need not have.
    """
    tokens = config.kv_tokens or min(card.context, KV_TOKENS_PER_SLOT)
    tokens = -(-tokens // KV_STEP_TOKENS) * KV_STEP_TOKENS
    return card.size_bytes + round(tokens * token_bytes(card))


def fits_whole(card: ModelCard, limit_bytes: int | None, config: EngineConfig) -> bool:
    """Whether a node with this limit can serve the model alone; any may that has none."""
    return limit_bytes is None or whole_bytes(card, config) <= limit_bytes


def check_fit(cards: Sequence[ModelCard], limit_bytes: int | None, config: EngineConfig) -> None:
    """Problem where these models together need more than the limit; both numbers are named."""
    need_bytes = sum(whole_bytes(card, config) for card in cards)
    if limit_bytes is None or need_bytes <= limit_bytes:
        return
    names = ", ".join(card.id for card in cards)
    verb = "needs" if len(cards) == 1 else "need"
    raise Problem(
        ProblemCode.CONFIG_INVALID,
        f"{names} {verb} {_mib(need_bytes)} MiB for weights and KV cache, and this node may use "
        f"{limit_bytes // MIB} MiB",
        hint=f"raise --memory-limit to {_mib(need_bytes)}MiB or more, or serve a smaller model",
        param="memory_limit",
    )


def bounded(config: EngineConfig, card: ModelCard, limit_bytes: int | None) -> EngineConfig:
    """The settings of the only engine of a node: with a limit, its cache is sized by that."""
    if limit_bytes is None or config.kv_tokens:
        return config
    left_bytes = limit_bytes - card.size_bytes
    # All that is left is the cache's: the limit was said for the model, and for nothing else.
    room = int(left_bytes / max(1.0, token_bytes(card))) // KV_STEP_TOKENS * KV_STEP_TOKENS
    wanted = kv_tokens(card.context, config.slots, sys.maxsize, token_bytes(card))
    return msgspec.structs.replace(config, kv_tokens=max(1, min(wanted, room)))


def _mib(size_bytes: int) -> int:
    return -(-size_bytes // MIB)
