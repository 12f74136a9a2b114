"""The hash chain over commits: what was written, in which order; pure.

Each group commit leaves one row: its number, its time, `content` (the hash of every statement and
parameter that took effect, in order) and `hash`, which covers all of these and the hash before.

What it proves. No row of the middle can be changed, swapped or taken out without `faults` naming
the first one that does not fit; rows cut off the end are missed by SQLite's own count of the
numbers it gave. Whoever kept a head (number and hash) from any earlier day can prove that the
file's history still contains it. A person who holds the statements of a commit (a replica, a
log) can prove that these and no others were it.

What it does not prove. There is no secret in it: somebody who may write the file can make a whole
new chain from any row on, which only a head kept elsewhere shows. It says nothing of the tables
themselves: a balance edited behind our back is found by `Ledger.audit`, not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from parhelion.store.statements import Statement

HASH_BYTES = 32
"""256 bits: collisions are out of reach, so a hash names one history."""

GENESIS = bytes(HASH_BYTES)
"""What stands before the first commit."""

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Commit(NamedTuple):
    """One row of the chain."""

    number: int
    at_ms: int
    content: bytes
    hash: bytes


FIRST = Commit(0, 0, GENESIS, GENESIS)
"""The head of an empty chain."""


def content_of(units: Iterable[Sequence[Statement]]) -> bytes:
    """The hash of the units that took effect, in order: SQL text and parameters of each."""
    digest = blake2b(digest_size=HASH_BYTES)
    for unit in units:
        # msgpack marks every length, so that no two lists of units share an encoding.
        digest.update(_encode([(statement.sql, statement.params) for statement in unit]))
    return digest.digest()


def follow(head: Commit, at_ms: int, content: bytes) -> Commit:
    """The commit that comes after `head`."""
    number = head.number + 1
    return Commit(number, at_ms, content, _link(head.hash, number, at_ms, content))


def fault(head: Commit, row: Commit) -> str | None:
    """Why `row` cannot stand after `head`, or None when it fits."""
    if row.number != head.number + 1:
        return f"commit {head.number + 1} is missing: {row.number} follows {head.number}"
    if row.hash != _link(head.hash, row.number, row.at_ms, row.content):
        return f"commit {row.number} does not follow from commit {head.number}: one was altered"
    return None


def _link(before: bytes, number: int, at_ms: int, content: bytes) -> bytes:
    written = before + number.to_bytes(8, "big") + at_ms.to_bytes(8, "big", signed=True) + content
    return blake2b(written, digest_size=HASH_BYTES, person=b"parhelion.commit").digest()
