"""Keys that top-ups made: each spends what was paid, for a while, and gives its place up in time.

Anybody who pays gets one, so there must be no number of them that stands in anybody's way: not in
that of the operator's own keys, which are counted apart, and not in that of the next top-up.
"""

from __future__ import annotations

from parhelion.store import Statement

LIFE_MS = 90 * 24 * 3600 * 1000
"""From its last top-up on. A quarter of a year is longer than any task that a key was made for; the
balance outlives it, and the wallet's owner spends it by signing in."""

PER_ACCOUNT_LIMIT = 100
"""Of one wallet at once; nobody runs more agents off one purse. One more ends the emptiest."""

IN_ALL_LIMIT = 50_000
"""Half of all keys that there may be (30 MB in memory); one more ends the emptiest of all."""

EXPIRED_ROWS = 4
"""Each new key ends so many that have expired, so that places come back faster than they go."""

END = "key.end"

# Who is ended loses no money: it is its account's. The emptiest first, so that whoever wants to
# push a key out must lay down more than that key still has, for each one of them.
_END = """
UPDATE keys SET revoked_at_ms = ?1 WHERE id IN (
    SELECT id FROM (SELECT id FROM keys
        WHERE wallet IS NOT NULL AND revoked_at_ms IS NULL AND expires_at_ms <= ?1
        ORDER BY expires_at_ms LIMIT ?3)
    UNION
    SELECT id FROM (SELECT id FROM keys
        WHERE wallet IS NOT NULL AND revoked_at_ms IS NULL AND account = ?2
        ORDER BY limit_micro - spent_micro LIMIT max(0, 1 - ?4 + (SELECT count(*) FROM keys
            WHERE wallet IS NOT NULL AND revoked_at_ms IS NULL AND account = ?2)))
    UNION
    SELECT id FROM (SELECT id FROM keys
        WHERE wallet IS NOT NULL AND revoked_at_ms IS NULL
        ORDER BY limit_micro - spent_micro LIMIT max(0, 1 - ?5 + (SELECT count(*) FROM keys
            WHERE wallet IS NOT NULL AND revoked_at_ms IS NULL)))
) RETURNING id
"""


def ending(account: str, now_ms: int) -> Statement:
    """Make room for one more key of this account, in the unit that makes it; returns who ended.

    `Keys.forget` them when that is durable.
    """
    row = (now_ms, account, EXPIRED_ROWS, PER_ACCOUNT_LIMIT, IN_ALL_LIMIT)
    return Statement(END, _END, row)
