"""Invites: secrets that let a node in a counted number of times, until a given time."""

from __future__ import annotations

import os

from parhelion.identity.peers import public_of
from parhelion.identity.secrets import Entropy, at_rest, text_of
from parhelion.store import Refused, Statement, Store
from parhelion.words import Clock, Problem, ProblemCode

INVITE_BYTES = 16
INVITE_CHARS = 22
"""128 bits: short enough to be read out, and there is nothing offline to guess against."""

USES_LIMIT = 10_000
TTL_LIMIT_S = 366 * 24 * 3600
INVITES_LIMIT = 1_000
"""Live invites; each is a way in, and nobody keeps sight of more."""

_INSERT = """
INSERT INTO invites(hash, uses_left, created_at_ms, expires_at_ms)
SELECT ?1, ?2, ?3, ?4 WHERE (SELECT count(*) FROM invites) < ?5
"""
# One statement decides and counts: of two nodes that race for the last use one gets no row.
_SPEND = """
UPDATE invites SET uses_left = uses_left - 1
WHERE hash = ? AND uses_left > 0 AND expires_at_ms > ?
"""
_LIVE = "SELECT 1 FROM invites WHERE hash = ? AND uses_left > 0 AND expires_at_ms > ?"


class Invites:
    """The invites of this pool, hashed at rest."""

    def __init__(self, store: Store, clock: Clock, entropy: Entropy = os.urandom) -> None:
        self._store = store
        self._clock = clock
        self._entropy = entropy

    async def create(self, *, uses: int, ttl_s: int) -> str:
        """A new invite for `uses` nodes; shown once, put after `#` in an address."""
        if not 1 <= uses <= USES_LIMIT:
            raise _invalid(f"an invite has 1 to {USES_LIMIT} uses", "uses")
        if not 1 <= ttl_s <= TTL_LIMIT_S:
            raise _invalid(f"an invite lives 1 to {TTL_LIMIT_S} seconds", "ttl_s")
        now_ms = self._clock.now_ms()
        secret = text_of(self._entropy(INVITE_BYTES))
        row = (at_rest(secret), uses, now_ms, now_ms + ttl_s * 1000, INVITES_LIMIT)
        try:
            await self._store.commit(
                [_forget_dead(now_ms), Statement("invite.insert", _INSERT, row, rows=1)]
            )
        except Refused as refused:
            raise Problem(
                ProblemCode.CONFLICT,
                f"there are {INVITES_LIMIT} live invites",
                hint="wait until some are used or expire, or give one more uses",
            ) from refused
        return secret

    def spend(self, secret: str) -> Statement:
        """The statement that takes one use, for the unit that admits the node.

        Refused "invite.spend" when the invite is unknown, used up or expired.
        """
        # Another length is no invite of ours: an empty hash matches nothing.
        hash = at_rest(secret) if len(secret) == INVITE_CHARS else b""
        return Statement("invite.spend", _SPEND, (hash, self._clock.now_ms()), rows=1)

    async def check(self, secret: str) -> None:
        """Problem LINK_REFUSED when there is no use to take now; none is taken."""
        if not await self._store.read(_LIVE, (at_rest(secret), self._clock.now_ms())):
            raise spent_problem()

    async def redeem(self, secret: str, peer: str) -> None:
        """Take one use for `peer`; Problem LINK_REFUSED when there is none to take."""
        public_of(peer)
        try:
            await self._store.commit([self.spend(secret)])
        except Refused as refused:
            raise spent_problem() from refused


def spent_problem() -> Problem:
    """What a node hears whose invite does not open: not which of the three reasons it was."""
    return Problem(
        ProblemCode.LINK_REFUSED,
        "this invite is unknown, used up or expired",
        hint="ask the pool's owner for a new join command",
    )


def _forget_dead(now_ms: int) -> Statement:
    return Statement(
        "invite.forget", "DELETE FROM invites WHERE uses_left = 0 OR expires_at_ms <= ?", (now_ms,)
    )


def _invalid(message: str, param: str) -> Problem:
    return Problem(ProblemCode.INVALID_REQUEST, message, param=param)
