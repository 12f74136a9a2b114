"""Which node holds which prompt's beginning in its prefix cache, as far as we know; pure, bounded.

Engines reuse a prefix only inside one account (DESIGN 3), so a prefix is known under the account's
cache scope. A prompt is cut into blocks, each block's key depends on all before it, and a node that
ran a prompt is taken to hold its blocks, the last used first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

BLOCK_IDS = 64
"""Shorter saves little prefill, and a block costs a hash and about 250 bytes."""

PROMPT_BLOCKS_LIMIT = 512
"""32,768 ids: of a longer prompt only this much counts as cached, in under half a millisecond."""

NODE_BLOCKS_LIMIT = 2048
"""131,072 ids a node, where its own KV memory does not hold less."""

BLOCKS_LIMIT = 65_536
"""Of all nodes together, about 20 MB; the nodes used longest ago are forgotten first."""


class Affinity:
    """Prefix blocks by node, each node's in order of use."""

    def __init__(self, blocks_limit: int = BLOCKS_LIMIT) -> None:
        self._limit = blocks_limit
        self._of_node: OrderedDict[str, OrderedDict[int, None]] = OrderedDict()
        self._holders: dict[int, set[str]] = {}
        self.size = 0

    def note(self, peer: str, scope: str, digest: str, ids: Sequence[int], kv_tokens: int) -> None:
        """The node ran these ids (prompt and answer) and holds `kv_tokens` at most."""
        keys = list(_keys(scope, digest, ids))
        if not keys:
            return
        held = self._of_node.setdefault(peer, OrderedDict())
        self._of_node.move_to_end(peer)
        # The last block first: a beginning is forgotten after its end, never before.
        for key in reversed(keys):
            if key not in held:
                self.size += 1
                self._holders.setdefault(key, set()).add(peer)
                held[key] = None
            held.move_to_end(key)
        most = min(NODE_BLOCKS_LIMIT, kv_tokens // BLOCK_IDS)
        while len(held) > most:
            self._drop(peer, held)
        while self.size > self._limit:
            self._drop(*next(iter(self._of_node.items())))

    def cached(self, scope: str, digest: str, prompt_ids: Sequence[int]) -> dict[str, int]:
        """Tokens of the prompt's longest known prefix by node; nodes without one are left out."""
        found: dict[str, int] = {}
        for number, key in enumerate(_keys(scope, digest, prompt_ids), 1):
            holders = self._holders.get(key)
            if holders is None:
                break
            # Who holds a block holds all before it: they were used with it, and after it.
            for peer in holders:
                found[peer] = number * BLOCK_IDS
        return found

    def forget(self, peer: str) -> None:
        """The node left, and its cache with it."""
        held = self._of_node.get(peer)
        while held:
            self._drop(peer, held)

    def _drop(self, peer: str, held: OrderedDict[int, None]) -> None:
        key, _ = held.popitem(last=False)
        holders = self._holders[key]
        holders.discard(peer)
        if not holders:
            del self._holders[key]
        if not held:
            del self._of_node[peer]
        self.size -= 1


def _keys(scope: str, digest: str, ids: Sequence[int]) -> Iterator[int]:
    """A key for each whole block, each made of the one before it.

    Python's own hash, at a fifth of a cryptographic one's cost: who makes two prompts of his own
    account collide gets a worse choice of node, nothing else.
    """
    known = tuple(ids)
    blocks = min(len(known) // BLOCK_IDS, PROMPT_BLOCKS_LIMIT)
    key = hash((scope, digest))
    for start in range(0, blocks * BLOCK_IDS, BLOCK_IDS):
        key = hash((key, known[start : start + BLOCK_IDS]))
        yield key
