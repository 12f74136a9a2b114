"""What the pool remembers of peers, the latest first: for its owner, also of who is away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import msgspec

from parhelion.store import Store
from parhelion.words import Record

Decided = Literal["banned", "allowed", "drained", "succeeded", "admitted"]
DECIDED: tuple[Decided, ...] = get_args(Decided)

DECISIONS_LIMIT = 1000
"""A page for a person; a state may be asked for by itself."""

_LIST = """
SELECT peer, state, reason, next, at_ms FROM (
    SELECT peer, state, reason, next, at_ms FROM node_access
    UNION ALL
    SELECT peer, 'drained', reason, NULL, at_ms FROM node_drains
)
WHERE state = ?1 OR (?1 IS NULL AND state <> 'admitted')
ORDER BY at_ms DESC, peer, state LIMIT ?2
"""


class Decision(Record, frozen=True, kw_only=True):
    """One thing that holds of a peer; one may be both allowed and drained.

    `reason`: the owner's words for a ban or a drain; of an allowance or an admission how it came
    about: `admin`, `invite`, `successor` (of a key that had it), or `config`, which has no moment.
    `next` is the key that followed a succeeded one.
    """

    peer: str
    state: Decided
    reason: str
    at_ms: int | None
    next: str | None = None


async def decisions(
    store: Store, listed: Iterable[str], state: Decided | None
) -> tuple[tuple[Decision, ...], bool]:
    """Decisions of one state, or all but admissions; and whether there are more of them.

    `listed` are the peers that the configuration allows; what is decided of one counts before it.
    """
    rows = await store.read(_LIST, (state, DECISIONS_LIMIT + 1))
    names = ("peer", "state", "reason", "next", "at_ms")
    found = [
        msgspec.convert(dict(zip(names, row, strict=True)), Decision)
        for row in rows[:DECISIONS_LIMIT]
    ]
    if state in (None, "allowed"):
        known = await store.read("SELECT peer FROM node_access WHERE state <> 'admitted'")
        rest = set(listed) - {str(peer) for (peer,) in known}
        found += [
            Decision(peer=peer, state="allowed", reason="config", at_ms=None)
            for peer in sorted(rest)
        ]
    return tuple(found), len(rows) > DECISIONS_LIMIT
