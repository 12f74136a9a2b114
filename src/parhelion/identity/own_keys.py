"""Keys that an account makes for itself: by a session, few at once, and in nobody's way.

Strangers open accounts, so their keys are counted apart from the operator's and from those of
top-ups; and a key that ended without having spent anything leaves no row for ever.
"""

from __future__ import annotations

from parhelion.store import Statement
from parhelion.words import Problem, ProblemCode

PER_ACCOUNT_LIMIT = 64
"""Live keys of one account: one for each program that somebody runs."""

IN_ALL_LIMIT = 20_000
"""12 MB in memory. One more ends one that has expired, else one of the account with the most keys,
the one that has spent least: whoever opens many accounts pushes out only whom has more keys than
each of them. Where nobody has more, the newcomer is refused, and no key ends."""

ENDED_KEPT = 64
"""Ended keys of one account that never spent anything: the latest stay, to be seen in the list."""

LISTED_LIMIT = 512
"""What a list shows, the live ones first; each ended one beyond ENDED_KEPT was paid for."""

END, FORGET = "key.end-own", "key.forget-own"

_END = """
UPDATE keys SET revoked_at_ms = ?1 WHERE id IN (
    SELECT id FROM keys WHERE own = 1 AND revoked_at_ms IS NULL
        AND (expires_at_ms <= ?1 OR account = (
            SELECT account FROM keys WHERE own = 1 AND revoked_at_ms IS NULL
            GROUP BY account HAVING count(*) > max(1, (
                SELECT count(*) FROM keys
                WHERE account = ?3 AND own = 1 AND revoked_at_ms IS NULL))
            ORDER BY count(*) DESC, sum(spent_micro) LIMIT 1))
    ORDER BY coalesce(expires_at_ms <= ?1, 0) DESC, spent_micro, created_at_ms
    LIMIT max(0, 1 - ?2 + (
        SELECT count(*) FROM keys WHERE own = 1 AND revoked_at_ms IS NULL)))
RETURNING id
"""
_FORGET = """
DELETE FROM keys WHERE id IN (
    SELECT id FROM keys WHERE account = ?1 AND own = 1 AND spent_micro = 0 AND reserved_micro = 0
        AND (revoked_at_ms IS NOT NULL OR expires_at_ms <= ?2)
    ORDER BY created_at_ms DESC, id DESC LIMIT -1 OFFSET ?3)
RETURNING id
"""


def ending(account: str, now_ms: int) -> tuple[Statement, Statement]:
    """Make room for one more key of this account, in the unit that makes it.

    Both return who ended: `Keys.forget` them when that is durable.
    """
    return (
        Statement(END, _END, (now_ms, IN_ALL_LIMIT, account)),
        Statement(FORGET, _FORGET, (account, now_ms, ENDED_KEPT)),
    )


def not_made() -> Problem:
    """Why a key of an account could not be made: it has too many, or everybody has."""
    return Problem(
        ProblemCode.CONFLICT,
        "there are too many keys",
        hint=f"revoke some: an account has at most {PER_ACCOUNT_LIMIT}, and all accounts together "
        f"{IN_ALL_LIMIT}",
    )
