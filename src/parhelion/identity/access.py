"""Which nodes may join: a node reads prompts, so this is a decision and is remembered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from parhelion.identity.decisions import Decided, Decision, decisions
from parhelion.identity.drains import REASON_LIMIT_CHARS, Drains
from parhelion.identity.invites import Invites, spent_problem
from parhelion.identity.names import chosen_name
from parhelion.identity.peers import public_of
from parhelion.identity.succession import Succession, check
from parhelion.store import Refused, Statement, Store
from parhelion.words import Clock, Problem, ProblemCode

Mode = Literal["open", "near", "invite", "list"]
State = Literal["admitted", "allowed", "banned", "succeeded"]

Whence = Literal["near", "far"]
"""Whether a peer's connection comes from this machine, straight and not through a proxy."""

BANNED_HINT = "ask the pool's owner: `parhelion nodes allow` lets it in again"

# A banned or succeeded peer stays what it is, also when the decision fell while we waited.
_ADMIT = """
INSERT INTO node_access(peer, state, reason, at_ms, name) VALUES (?, 'admitted', 'invite', ?, ?)
ON CONFLICT(peer) DO UPDATE
SET at_ms = excluded.at_ms, name = iif(excluded.name = '', name, excluded.name)
WHERE state IN ('admitted', 'allowed')
"""
_DECIDE = """
INSERT INTO node_access(peer, state, reason, at_ms, name) VALUES (?, ?, ?, ?, ?)
ON CONFLICT(peer) DO UPDATE
SET state = excluded.state, reason = excluded.reason, at_ms = excluded.at_ms,
    name = iif(excluded.name = '', name, excluded.name)
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


@dataclass(frozen=True, eq=False, slots=True)
class Standing:
    """What was decided of one peer; no two are the same, whatever they say."""

    state: State
    reason: str = ""
    name: str = ""


class NodeAccess:
    """Answers whether a peer may join now; what it decides is durable before it counts.

    `mode`: open lets everyone in and remembers nobody (a stranger must not fill the file);
    invite lets in who was allowed, who was admitted before and who brings an invite; near is open
    to who comes from this machine and asks everybody else for an invite; list lets in who was
    allowed. `allowed` are the peers that the configuration names. `drains`: who waits outside,
    whatever its access is.
    """

    def __init__(
        self, store: Store, clock: Clock, invites: Invites, mode: Mode, allowed: Iterable[str]
    ) -> None:
        self._store = store
        self._clock = clock
        self._invites = invites
        self._mode = mode
        self._listed = frozenset(allowed)
        self._written: dict[str, Standing] = {}
        self._banning: dict[str, Standing] = {}
        """Bans whose row is on its way: they count at once."""
        self.drains = Drains(store, clock)
        for peer in self._listed:
            public_of(peer)

    async def load(self) -> None:
        """Read what was decided before; once, before the first node."""
        rows = await self._store.read("SELECT peer, state, reason, name FROM node_access")
        self._written = {
            str(peer): Standing(msgspec.convert(state, State), str(reason), str(name))
            for peer, state, reason, name in rows
        }
        await self.drains.load()

    async def admit(
        self, peer: str, invite: str | None, whence: Whence = "far", name: str = ""
    ) -> None:
        """Return when the peer may join; Problem LINK_REFUSED otherwise, with what to do.

        DRAINING for one that may join at another time. Who is written down is so with its `name`.
        """
        needed = self._needed(peer, invite, whence)
        if needed is not None:
            await self._redeem(peer, needed, chosen_name(peer, name))
            # Banned while its invite was being spent: memory knows it by now.
            self.refuse_ended(peer)

    async def consider(self, peer: str, invite: str | None, whence: Whence = "far") -> None:
        """As `admit` answers now, but nothing is decided and no invite is spent."""
        needed = self._needed(peer, invite, whence)
        if needed is not None:
            await self._invites.check(needed)

    def _needed(self, peer: str, invite: str | None, whence: Whence) -> str | None:
        """The invite that must open to this peer, None when it may join without; or Problem."""
        public_of(peer)
        self.refuse_now(peer)
        state = self._state_of(peer)
        if self._mode == "open" or state == "allowed" or peer in self._listed:
            return None
        if self._mode == "near" and whence == "near":
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

    def refuse_now(self, peer: str) -> None:
        """Problem when the peer is banned, succeeded or drained; for the last look too."""
        self.refuse_ended(peer)
        self.drains.refuse(peer)

    def refuse_ended(self, peer: str) -> None:
        """Problem LINK_REFUSED when the peer's time is over."""
        now = self._standing(peer)
        if now is None:
            return
        if now.state == "banned":
            raise _refused(banned_words(now.reason), BANNED_HINT)
        if now.state == "succeeded":
            raise _refused("this node's key was succeeded by another", "use the new key")

    async def ban(self, peer: str, reason: str, name: str = "") -> None:
        """Refuse this peer from now on; who ends its running session is the caller.

        `name`: what it is called now, to be known by that also when it is away.
        """
        await self._decide(peer, "banned", reason, name)

    async def allow(self, peer: str, name: str = "") -> None:
        """Let this peer in from now on, also one that was banned."""
        await self._decide(peer, "allowed", "admin", name)

    def name_of(self, peer: str) -> str | None:
        """What its operator had called a peer when something was decided of it."""
        return self.drains.name(peer) or self._called(peer) or None

    async def succeed(self, succession: Succession) -> None:
        """Let the new key take the old one's place, whose own time ends; Problem otherwise."""
        old, new, now_ms = succession.old, succession.new, self._clock.now_ms()
        check(succession, now_ms)
        self.refuse_ended(old)
        self.refuse_ended(new)
        inherited: State = "allowed" if self._may_always(old) else "admitted"
        if inherited == "admitted" and self._state_of(old) != "admitted":
            raise _refused("the old key was never admitted here", "join with the new key")
        unit = [
            Statement("access.end", _END, (old, new, now_ms), rows=1),
            Statement("access.follow", _FOLLOW, (new, inherited, now_ms), rows=1),
        ]
        try:
            await self._store.commit(unit)
        except Refused as refused:
            raise _refused("one of the two keys was banned or succeeded", "") from refused
        self._written[old] = Standing("succeeded", name=self._called(old))
        known = self._written.get(new)
        if known is None or known.state == "admitted":
            self._written[new] = Standing(inherited)

    async def decisions(self, state: Decided | None) -> tuple[tuple[Decision, ...], bool]:
        """What holds of peers, the latest first, and whether there is more than is told."""
        return await decisions(self._store, self._listed, state)

    def _called(self, peer: str) -> str:
        known = self._written.get(peer)
        return "" if known is None else known.name

    def _standing(self, peer: str) -> Standing | None:
        written = self._written.get(peer)
        if written is not None and written.state == "succeeded":
            return written
        return self._banning.get(peer) or written

    def _state_of(self, peer: str) -> State | None:
        now = self._standing(peer)
        return None if now is None else now.state

    def _may_always(self, peer: str) -> bool:
        return self._state_of(peer) == "allowed" or peer in self._listed

    async def _redeem(self, peer: str, invite: str, name: str = "") -> None:
        now_ms = self._clock.now_ms()
        unit = [
            self._invites.spend(invite),
            Statement("access.admit", _ADMIT, (peer, now_ms, name), rows=1),
        ]
        try:
            await self._store.commit(unit)
        except Refused as refused:
            if refused.name == "invite.spend":
                raise spent_problem() from refused
            now = self._standing(peer)
            why = "" if now is None else now.reason
            raise _refused(banned_words(why), BANNED_HINT) from refused
        self._written.setdefault(peer, Standing("admitted", name=name))

    async def _decide(self, peer: str, state: State, reason: str, name: str) -> None:
        public_of(peer)
        said = reason[:REASON_LIMIT_CHARS]
        called = chosen_name(peer, name) or self._called(peer)
        row = (peer, state, said, self._clock.now_ms(), called)
        now = Standing(state, said, called)
        if state == "banned":
            self._banning[peer] = now
        try:
            await self._store.commit([Statement("access.decide", _DECIDE, row, rows=1)])
            # Commits end in their order, so the later of two commands has the last word here too.
            self._written[peer] = now
        except Refused as refused:
            raise Problem(
                ProblemCode.CONFLICT,
                "this key was succeeded by another",
                hint="decide about the new key",
            ) from refused
        finally:
            if self._banning.get(peer) is now:
                del self._banning[peer]


def banned_words(reason: str) -> str:
    """What a banned node is told; `reason` is its owner's, and may be empty."""
    return "this node was banned by the pool's owner" + (f": {reason}" if reason else "")


def _refused(message: str, hint: str) -> Problem:
    return Problem(ProblemCode.LINK_REFUSED, message, hint=hint)
