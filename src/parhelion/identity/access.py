"""Which nodes may join: a node reads prompts, so this is a decision and is remembered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from parhelion.identity.invites import Invites, spent_problem
from parhelion.identity.peers import public_of
from parhelion.identity.succession import Succession, check
from parhelion.store import Refused, Statement, Store
from parhelion.words import Clock, Problem, ProblemCode

Mode = Literal["open", "invite", "list"]
State = Literal["admitted", "allowed", "revoked", "succeeded"]

REASON_LIMIT_CHARS = 200

# A revoked or succeeded peer stays what it is, also when the decision fell while we waited.
_ADMIT = """
INSERT INTO node_access(peer, state, reason, at_ms) VALUES (?, 'admitted', 'invite', ?)
ON CONFLICT(peer) DO UPDATE SET at_ms = excluded.at_ms WHERE state IN ('admitted', 'allowed')
"""
_DECIDE = """
INSERT INTO node_access(peer, state, reason, at_ms) VALUES (?, ?, ?, ?)
ON CONFLICT(peer) DO UPDATE
SET state = excluded.state, reason = excluded.reason, at_ms = excluded.at_ms
WHERE state <> 'succeeded'
"""
_END = """
INSERT INTO node_access(peer, state, reason, next, at_ms) VALUES (?, 'succeeded', '', ?, ?)
ON CONFLICT(peer) DO UPDATE
SET state = 'succeeded', next = excluded.next, at_ms = excluded.at_ms
WHERE state IN ('admitted', 'allowed')
"""
_FOLLOW = """
INSERT INTO node_access(peer, state, reason, at_ms) VALUES (?, ?, 'successor', ?)
ON CONFLICT(peer) DO UPDATE
SET state = iif(excluded.state = 'allowed', 'allowed', state), at_ms = excluded.at_ms
WHERE state IN ('admitted', 'allowed')
"""


class NodeAccess:
    """Answers whether a peer may join now; what it decides is durable before it counts.

    `mode`: open lets everyone in and remembers nobody (a stranger must not fill the file);
    invite lets in who was allowed, who was admitted before and who brings an invite; list lets
    in who was allowed. `allowed` are the peers that the configuration names.
    """

    def __init__(
        self, store: Store, clock: Clock, invites: Invites, mode: Mode, allowed: Iterable[str]
    ) -> None:
        self._store = store
        self._clock = clock
        self._invites = invites
        self._mode = mode
        self._listed = frozenset(allowed)
        self._states: dict[str, State] = {}
        for peer in self._listed:
            public_of(peer)

    async def load(self) -> None:
        """Read what was decided before; once, before the first node."""
        rows = await self._store.read("SELECT peer, state FROM node_access")
        self._states = {str(peer): _state(state) for peer, state in rows}

    async def admit(self, peer: str, invite: str | None) -> None:
        """Return when the peer may join; Problem LINK_REFUSED otherwise, with what to do."""
        needed = self._needed(peer, invite)
        if needed is not None:
            await self._redeem(peer, needed)
            # Revoked while its invite was being spent: memory knows it by now.
            self.refuse_ended(peer)

    async def consider(self, peer: str, invite: str | None) -> None:
        """As `admit` answers now, but nothing is decided and no invite is spent."""
        needed = self._needed(peer, invite)
        if needed is not None:
            await self._invites.check(needed)

    def _needed(self, peer: str, invite: str | None) -> str | None:
        """The invite that must open to this peer, None when it may join without; or Problem."""
        public_of(peer)
        self.refuse_ended(peer)
        state = self._states.get(peer)
        if self._mode == "open" or state == "allowed" or peer in self._listed:
            return None
        if self._mode == "list":
            raise _refused(
                "this pool admits listed nodes only",
                f"ask its owner to allow {peer}",
            )
        if state == "admitted":
            return None
        if invite is None:
            raise _refused(
                "this pool admits nodes by invite",
                "join with the whole command that the pool's owner gave, #INVITE included",
            )
        return invite

    def refuse_ended(self, peer: str) -> None:
        """Problem LINK_REFUSED when the peer's time is over; for the last look before it is in."""
        state = self._states.get(peer)
        if state == "revoked":
            raise _refused("this node's key was revoked", "ask the pool's owner why")
        if state == "succeeded":
            raise _refused("this node's key was succeeded by another", "use the new key")

    async def revoke(self, peer: str, reason: str) -> None:
        """Refuse this peer from now on; who ends its running session is the caller."""
        await self._decide(peer, "revoked", reason)

    async def allow(self, peer: str) -> None:
        """Let this peer in from now on, also one that was revoked."""
        await self._decide(peer, "allowed", "admin")

    async def succeed(self, succession: Succession) -> None:
        """Let the new key take the old one's place, whose own time ends; Problem otherwise."""
        old, new, now_ms = succession.old, succession.new, self._clock.now_ms()
        check(succession, now_ms)
        self.refuse_ended(old)
        self.refuse_ended(new)
        inherited: State = "allowed" if self._may_always(old) else "admitted"
        if inherited == "admitted" and self._states.get(old) != "admitted":
            raise _refused("the old key was never admitted here", "join with the new key")
        unit = [
            Statement("access.end", _END, (old, new, now_ms), rows=1),
            Statement("access.follow", _FOLLOW, (new, inherited, now_ms), rows=1),
        ]
        try:
            await self._store.commit(unit)
        except Refused as refused:
            raise _refused("one of the two keys was revoked or succeeded", "") from refused
        self._states[old] = "succeeded"
        # A revocation of the new key that is on its way stands in memory already: it stays.
        if self._states.get(new, "admitted") == "admitted":
            self._states[new] = inherited

    def _may_always(self, peer: str) -> bool:
        return self._states.get(peer) == "allowed" or peer in self._listed

    async def _redeem(self, peer: str, invite: str) -> None:
        now_ms = self._clock.now_ms()
        unit = [
            self._invites.spend(invite),
            Statement("access.admit", _ADMIT, (peer, now_ms), rows=1),
        ]
        try:
            await self._store.commit(unit)
        except Refused as refused:
            if refused.name == "invite.spend":
                raise spent_problem() from refused
            raise _refused("this node's key was revoked", "ask the pool's owner why") from refused
        # A revocation that was committed after ours is in memory already: it stays.
        self._states.setdefault(peer, "admitted")

    async def _decide(self, peer: str, state: State, reason: str) -> None:
        public_of(peer)
        row = (peer, state, reason[:REASON_LIMIT_CHARS], self._clock.now_ms())
        before = self._states.get(peer)
        if state == "revoked" and before != "succeeded":
            # At once: refused in memory while the row is on its way.
            self._states[peer] = state
        try:
            await self._store.commit([Statement("access.decide", _DECIDE, row, rows=1)])
        except Refused as refused:
            raise Problem(
                ProblemCode.CONFLICT,
                "this key was succeeded by another",
                hint="decide about the new key",
            ) from refused
        except Problem:
            self._restore(peer, before)
            raise
        self._states[peer] = state

    def _restore(self, peer: str, before: State | None) -> None:
        # The file does not say so, and memory must not say more than the file.
        if before is None:
            self._states.pop(peer, None)
        else:
            self._states[peer] = before


def _state(value: object) -> State:
    states: tuple[State, ...] = ("admitted", "allowed", "revoked", "succeeded")
    for state in states:
        if value == state:
            return state
    raise ValueError(f"node_access has a state {value!r}")


def _refused(message: str, hint: str) -> Problem:
    return Problem(ProblemCode.LINK_REFUSED, message, hint=hint)
