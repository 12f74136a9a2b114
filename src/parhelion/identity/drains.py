"""Nodes that the pool's owner has drained: kept over restarts, and told to wait outside."""

from __future__ import annotations

from parhelion.identity.names import chosen_name
from parhelion.identity.peers import public_of
from parhelion.store import Statement, Store
from parhelion.words import Clock, Problem, ProblemCode

REASON_LIMIT_CHARS = 200

DRAIN_DEADLINE_S = 25.0
"""What running answers get before they move to other nodes, where nobody says otherwise."""

DRAIN_LIMIT_S = 3600.0
"""An hour: the longest answers are over, and a drain that never ends is none."""

_DRAIN = """
INSERT INTO node_drains(peer, reason, at_ms, name) VALUES (?, ?, ?, ?)
ON CONFLICT(peer) DO UPDATE
SET reason = excluded.reason, at_ms = excluded.at_ms,
    name = iif(excluded.name = '', name, excluded.name)
"""
_UNDRAIN = "DELETE FROM node_drains WHERE peer = ?"


class Drain:
    """A word that somebody said once: no two are the same, whatever they say."""

    __slots__ = ("name", "reason")

    def __init__(self, reason: str, name: str) -> None:
        self.reason = reason
        self.name = name


class Drains:
    """Who is drained and why; a drain is no judgement, so access and invites stay as they are.

    A drain counts at once, while its row is on its way; else memory says what the file does.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._written: dict[str, Drain] = {}
        self._coming: dict[str, Drain] = {}

    async def load(self) -> None:
        """Read what was decided before; once, before the first node."""
        rows = await self._store.read("SELECT peer, reason, name FROM node_drains")
        self._written = {str(peer): Drain(str(reason), str(name)) for peer, reason, name in rows}

    def reason(self, peer: str) -> str | None:
        """Why the peer is drained, as it is told; None when it is not."""
        said = self._coming.get(peer) or self._written.get(peer)
        return None if said is None else _words(said.reason)

    def name(self, peer: str) -> str:
        """What the drained peer was called by its operator; empty where that is not known."""
        said = self._written.get(peer)
        return "" if said is None else said.name

    def refuse(self, peer: str) -> None:
        """Problem DRAINING when the peer is drained: it may come back, so it goes on asking."""
        reason = self.reason(peer)
        if reason is not None:
            raise Problem(
                ProblemCode.DRAINING,
                reason,
                hint=f"it is let in again after: parhelion nodes undrain {peer}",
            )

    async def drain(self, peer: str, reason: str, name: str = "") -> str:
        """Keep the peer out from now on; the reason as it is told. Who asks it to go is the caller.

        At once, while the row is on its way: a node that finishes early must not come back first.
        """
        public_of(peer)
        called = chosen_name(peer, name) or self.name(peer)
        said = self._coming[peer] = Drain(reason[:REASON_LIMIT_CHARS], called)
        row = (peer, said.reason, self._clock.now_ms(), called)
        try:
            await self._store.commit([Statement("drains.drain", _DRAIN, row, rows=1)])
            # Commits end in their order, so the later of two commands has the last word here too.
            self._written[peer] = said
        finally:
            if self._coming.get(peer) is said:
                del self._coming[peer]
        return _words(said.reason)

    async def undrain(self, peer: str) -> None:
        """Let the peer come back; nothing happens when it was not drained."""
        public_of(peer)
        await self._store.commit([Statement("drains.undrain", _UNDRAIN, (peer,))])
        self._written.pop(peer, None)


def _words(said: str) -> str:
    return "drained by the pool's owner" + (f": {said}" if said else "")
