"""Idempotency-Keys: one row each, claimed in the hold's own unit; statements only.

    (no row) --claim--> running --finish--> finished
                 ^         |
                 |         +--cut--> cut (billed_ids: what that run billed)
                 +---------------------+

Two requests that race both read "no row"; the claim of the second then changes nothing and is
Refused together with its hold, so that only one ever runs. A run that billed nothing leaves no
row. `billed_ids` NULL: nothing billed yet; otherwise the prompt and so many output ids are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from parhelion.store import Migration, Row, Statement

State = Literal["running", "finished", "cut"]
Outcome = Literal["finished", "cut", "failed"]
"""finished: delivered to its end, or until its client left; never run again. cut: we lost it, and
it was billed for what went out before. failed: nothing was billed."""

LIFETIME_MS = 24 * 3600 * 1000
CLAIM = "idempotency.claim"

FORGET_ROWS = 4
"""Each claim takes out so many dead rows, so the table shrinks faster than it can grow."""

_TABLE = """
CREATE TABLE idempotency(
    account TEXT NOT NULL,
    key TEXT NOT NULL,
    body_hash TEXT NOT NULL,
    request TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('running', 'finished', 'cut')),
    seed TEXT NOT NULL,
    billed_ids INTEGER CHECK (billed_ids >= 0),
    expires_at_ms INTEGER NOT NULL,
    PRIMARY KEY (account, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_by_expiry ON idempotency(expires_at_ms);
"""

MIGRATIONS: tuple[Migration, ...] = (Migration(number=50, room="payments", sql=_TABLE),)

READ = """
SELECT body_hash, request, state, seed, billed_ids FROM idempotency
WHERE account = ? AND key = ? AND expires_at_ms > ?
"""

# A row may be taken over when its time is over, or when its run was cut and this is the run that
# goes on from exactly there; otherwise no row changes and the unit is refused.
_CLAIM = """
INSERT INTO idempotency(account, key, body_hash, request, state, seed, billed_ids, expires_at_ms)
VALUES (?1, ?2, ?3, ?4, 'running', ?5, ?6, ?7)
ON CONFLICT(account, key) DO UPDATE SET
    body_hash = excluded.body_hash, request = excluded.request, state = 'running',
    seed = excluded.seed, billed_ids = excluded.billed_ids, expires_at_ms = excluded.expires_at_ms
WHERE idempotency.expires_at_ms <= ?8
   OR (idempotency.state = 'cut' AND idempotency.body_hash = excluded.body_hash
       AND idempotency.seed = excluded.seed AND idempotency.billed_ids IS excluded.billed_ids)
"""
_FORGET = """
DELETE FROM idempotency WHERE (account, key) IN (
    SELECT account, key FROM idempotency WHERE expires_at_ms <= ? ORDER BY expires_at_ms LIMIT ?)
"""
_FINISH = "UPDATE idempotency SET state = 'finished' WHERE request = ? AND state = 'running'"
_CUT = """
UPDATE idempotency SET state = 'cut', billed_ids = max(coalesce(billed_ids, 0), ?)
WHERE request = ? AND state = 'running'
"""
_DROP = "DELETE FROM idempotency WHERE request = ? AND state = 'running' AND billed_ids IS NULL"
_CUT_AGAIN = "UPDATE idempotency SET state = 'cut' WHERE request = ? AND state = 'running'"


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an earlier request with the same Idempotency-Key left."""

    body_hash: str
    request: str
    state: State
    seed: int
    billed_ids: int | None


def earlier_of(row: Row) -> Earlier:
    """A row of READ."""
    body_hash, request, state, seed, billed_ids = row
    return Earlier(
        body_hash=str(body_hash),
        request=str(request),
        state=_state(state),
        # 64 bits do not fit SQLite's integers, which have a sign.
        seed=int(str(seed)),
        billed_ids=None if billed_ids is None else int(billed_ids),
    )


def claim(
    account: str,
    key: str,
    body_hash: str,
    *,
    request: str,
    seed: int,
    billed_ids: int | None,
    now_ms: int,
) -> tuple[Statement, ...]:
    """Take the key for this request; Refused CLAIM when another has it."""
    row = (account, key, body_hash, request, str(seed), billed_ids, now_ms + LIFETIME_MS, now_ms)
    return (
        Statement(CLAIM, _CLAIM, row, rows=1),
        Statement("idempotency.forget", _FORGET, (now_ms, FORGET_ROWS)),
    )


def end(request: str, outcome: Outcome, billed_ids: int | None) -> tuple[Statement, ...]:
    """Leave what the next request with this key must find.

    No row is changed where the request had no key, or its row's time is over: that never stands
    in the way of a post.
    """
    if outcome == "finished":
        return (Statement("idempotency.finish", _FINISH, (request,)),)
    if outcome == "cut" and billed_ids is not None:
        return (Statement("idempotency.cut", _CUT, (billed_ids, request)),)
    if outcome == "cut":
        # Nothing of this run is billed, but its client may have seen text: the seed is kept.
        return (Statement("idempotency.cut-again", _CUT_AGAIN, (request,)),)
    return (
        Statement("idempotency.drop", _DROP, (request,)),
        # Still there: a run before this one billed something, which stays billed.
        Statement("idempotency.cut-again", _CUT_AGAIN, (request,)),
    )


def _state(value: object) -> State:
    states: tuple[State, ...] = ("running", "finished", "cut")
    for state in states:
        if value == state:
            return state
    raise ValueError(f"idempotency has a state {value!r}")
