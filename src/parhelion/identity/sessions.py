"""Sessions: opaque tokens, opened by a payment or by signing in, and found by their hash."""

from __future__ import annotations

import os

import msgspec

from parhelion.identity.secrets import Entropy, at_rest, text_of
from parhelion.store import Row, Statement, Store
from parhelion.words import ID_ENTROPY_BYTES, Clock, Problem, ProblemCode, Record, Tier, mint

TOKEN_PREFIX = "ses-prl-"
TOKEN_BYTES = 32
TOKEN_CHARS = len(TOKEN_PREFIX) + 43
"""256 bits in unpadded base64url."""

TTL_LIMIT_S = 30 * 24 * 3600
"""A token that lies in some browser opens nothing after a month."""

SIGNED_IN_LIMIT = 32
"""Open sign-ins of one account: nobody has more browsers. The oldest ends when one more opens, so
that no unit is ever refused for it. Sessions with an answer are not counted: each is paid for."""

END_OTHERS = "session.end-others"

FORGET_ROWS = 4
"""Each opening takes out so many dead rows, so the table shrinks faster than it can grow."""

SPEND = "session.spend"

_INSERT = """
INSERT INTO sessions(
    id, hash, account, asset, wallet, tier, hold, sold, opened_at_ms, expires_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_TRIM = """
DELETE FROM sessions WHERE id IN (
    SELECT id FROM sessions WHERE account = ? AND tier IS NULL
    ORDER BY opened_at_ms DESC, id DESC LIMIT -1 OFFSET ?)
"""
_FORGET = """
DELETE FROM sessions WHERE id IN (
    SELECT id FROM sessions WHERE expires_at_ms <= ? ORDER BY expires_at_ms LIMIT ?)
"""
# Those with an answer stay: each is paid for, and tells nothing of its account.
_END_OTHERS = """
DELETE FROM sessions WHERE account = ? AND tier IS NULL AND id <> ? RETURNING id
"""
_FIND = """
SELECT id, account, asset, tier, hold, wallet, expires_at_ms, spent_by, sold
FROM sessions WHERE hash = ?
"""
# The trigger says no ("check") when another request has had the answer; no row ("rows") is changed
# where the session has ended or has no answer to give.
_SPEND = """
UPDATE sessions SET spent_by = ? WHERE id = ? AND tier IS NOT NULL AND expires_at_ms > ?
"""


def is_session(bearer: str) -> bool:
    """Whether this has the form of a session token of ours, good or bad, in quotes or mistyped."""
    return TOKEN_PREFIX in bearer.lower()


class Session(Record, frozen=True, kw_only=True):
    """What a token is good for.

    `tier` and `hold` are both None for a sign-in, which spends the account's balance of `asset`;
    otherwise it is worth one answer of the tier, and `spent_by` is the request that had it.
    `wallet` (CAIP-10) opened it, None where a passkey or a recovery code did. `sold` is the tier as
    it was when it was paid for, None where that was not kept (before migration 57).
    """

    id: str
    account: str
    asset: str
    tier: str | None
    hold: str | None
    wallet: str | None
    expires_at_ms: int
    spent_by: str | None
    sold: Tier | None = None


class Sessions:
    """All sessions of this coordinator, hashed at rest; they outlive a restart."""

    def __init__(self, store: Store, clock: Clock, entropy: Entropy = os.urandom) -> None:
        self._store = store
        self._clock = clock
        self._entropy = entropy

    def issue(
        self,
        account: str,
        asset: str,
        wallet: str | None,
        ttl_s: int,
        tier: str | None = None,
        hold: str | None = None,
        sold: Tier | None = None,
    ) -> tuple[str, Session, tuple[Statement, ...]]:
        """A new session's token, never to be seen again, and the rows that open it.

        The rows are for the caller's own unit, behind those that open the account.
        """
        if not 1 <= ttl_s <= TTL_LIMIT_S:
            raise ValueError(f"a session lives 1 to {TTL_LIMIT_S} seconds")
        if (tier is None) != (hold is None):
            raise ValueError("an answer of a tier and the hold that pays for it go together")
        if tier is not None and wallet is None:
            raise ValueError("a wallet pays for an answer of a tier")
        if sold is not None and sold.name != tier:
            raise ValueError("the terms of a sale are those of its tier")
        now_ms = self._clock.now_ms()
        token = TOKEN_PREFIX + text_of(self._entropy(TOKEN_BYTES))
        session = Session(
            id=mint("ses", now_ms, self._entropy(ID_ENTROPY_BYTES)),
            account=account,
            asset=asset,
            tier=tier,
            hold=hold,
            wallet=wallet,
            expires_at_ms=now_ms + ttl_s * 1000,
            spent_by=None,
            sold=sold,
        )
        terms = None if sold is None else msgspec.json.encode(sold).decode()
        row = (session.id, at_rest(token), account, asset, wallet, tier, hold, terms)
        unit = [
            Statement("session.forget", _FORGET, (now_ms, FORGET_ROWS)),
            Statement("session.open", _INSERT, (*row, now_ms, session.expires_at_ms), rows=1),
        ]
        if tier is None:
            unit.append(Statement("session.trim", _TRIM, (account, SIGNED_IN_LIMIT)))
        return token, session, tuple(unit)

    async def open(
        self,
        account: str,
        asset: str,
        wallet: str | None,
        ttl_s: int,
        tier: str | None = None,
        hold: str | None = None,
        sold: Tier | None = None,
    ) -> tuple[str, Session]:
        """As `issue`, durable when it returns."""
        token, session, unit = self.issue(account, asset, wallet, ttl_s, tier, hold, sold)
        await self._store.commit(unit)
        return token, session

    async def find(self, token: str) -> Session:
        """The session of this token, also when its answer is spent; Problem INVALID_SESSION."""
        rows: list[Row] = []
        if len(token) == TOKEN_CHARS:
            rows = await self._store.read(_FIND, (at_rest(token),))
        if not rows:
            # One answer for unknown, malformed and ended: a guess learns nothing.
            raise _refused("this session is not known here, or has ended")
        session = _session(rows[0])
        if session.expires_at_ms <= self._clock.now_ms():
            # Only who holds the token gets here, so this tells nobody else anything.
            raise _refused("this session has expired")
        return session

    def spend(self, session: Session, request: str) -> Statement:
        """Give the session's one answer to this request, in the unit that starts it.

        Refused "session.spend": kind "check" when another request has had it (`session_spent`),
        "rows" when the session ended or expired since it was found, or has no answer. The same
        request may spend it again.
        """
        return Statement(SPEND, _SPEND, (request, session.id, self._clock.now_ms()), rows=1)

    async def end(self, token: str) -> None:
        """Sign out; idempotent, and silent about tokens that are not known.

        What is held for an answer that was not spent goes back when that hold expires.
        """
        end = "DELETE FROM sessions WHERE hash = ?"
        await self._store.commit([Statement("session.end", end, (at_rest(token),))])

    def ending_others(self, kept: Session) -> Statement:
        """End every other sign-in of this session's account; returns which, as rows."""
        return Statement(END_OTHERS, _END_OTHERS, (kept.account, kept.id))


def session_spent(session: Session) -> Problem:
    """What whoever brings a session hears when its one answer has been given."""
    by = "" if session.spent_by is None else f" (request {session.spent_by})"
    return Problem(
        ProblemCode.INVALID_SESSION,
        f"the one answer of this session was given already{by}",
        hint="one payment buys one answer: pay again for the next",
    )


def _session(row: Row) -> Session:
    id, account, asset, tier, hold, wallet, expires_at_ms, spent_by, sold = row
    assert isinstance(expires_at_ms, int)
    return Session(
        id=str(id),
        account=str(account),
        asset=str(asset),
        tier=None if tier is None else str(tier),
        hold=None if hold is None else str(hold),
        wallet=None if wallet is None else str(wallet),
        expires_at_ms=expires_at_ms,
        spent_by=None if spent_by is None else str(spent_by),
        sold=None if sold is None else msgspec.json.decode(str(sold), type=Tier),
    )


def _refused(message: str) -> Problem:
    return Problem(
        ProblemCode.INVALID_SESSION,
        message,
        hint="sign in again (POST /v1/sign-in/...), or pay for a new session",
    )
