"""Names for the beginnings of a job's ids, so that a stage knows what it holds without them; pure.

tag i = the first 8 bytes of BLAKE2b, keyed with a secret of this process and personal to the
job's cache scope, over tag i-1's whole state and the ids of block i. Two jobs have a tag in common
only where one account's ids begin alike; nobody without the secret can try ids until a tag fits.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from parhelion.words import TAG_BLOCK_IDS

SECRET_BYTES = 32
TAG_BYTES = 8
"""Of some thousands of tags that a stage holds, two are alike by chance never; by design neither,
without the secret."""


def tags_of(secret: bytes, scope: str, ids: Sequence[int]) -> tuple[bytes, ...]:
    """One tag for each whole block of TAG_BLOCK_IDS ids; none without a scope (no reuse)."""
    if not scope:
        return ()
    state = hashlib.blake2b(scope.encode(), key=secret)
    tags: list[bytes] = []
    for at in range(0, len(ids) - TAG_BLOCK_IDS + 1, TAG_BLOCK_IDS):
        state.update(struct.pack(f"<{TAG_BLOCK_IDS}I", *ids[at : at + TAG_BLOCK_IDS]))
        tags.append(state.copy().digest()[:TAG_BYTES])
    return tuple(tags)
