"""Nodes of the pool and their states, from what they say and from the clock; no I/O."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from parhelion.config import NodesConfig
from parhelion.coordinator.route import Need
from parhelion.words import NodeCard, Problem, ProblemCode

log = logging.getLogger("parhelion.coordinator")

SLOTS_LIMIT = 1024
"""No single machine batches more; a larger number is a mistake or a bid for all the work."""

MODELS_LIMIT = 64
NAME_LIMIT_CHARS = 64
TEXT_LIMIT_CHARS = 200
CONTEXT_LIMIT_TOKENS = 16_777_216
KV_LIMIT_TOKENS = SLOTS_LIMIT * 1_048_576
"""1,024 slots of a million tokens: past it the number is invented."""

RATE_WEIGHT = 0.3
"""Of the newest sample: three heartbeats outweigh what was before."""

RATE_SAMPLE_MIN_S = 0.2
"""Shorter spells of work say more about timers than about speed."""

TRIAL_PAUSE_S = 30.0
TRIAL_PAUSE_LIMIT_S = 960.0
"""How long a node at which a job stood still gets none, before one job may show that it works
again: twice as long after each trial that failed, since a trial costs somebody six seconds."""

FULL_S = 1.0
"""How long a model gets no job at a node that handed one back, unless another job ends there."""


@dataclass(slots=True)
class Room:
    """What a node offers for one model, and how much of it is reserved."""

    context: int
    slots: int
    kv_tokens: int
    slots_busy: int = 0
    kv_busy: int = 0
    full_until_s: float | None = None

    @property
    def largest_tokens(self) -> int:
        """The largest request that it can hold."""
        return min(self.context, self.kv_tokens)


@dataclass(eq=False, slots=True)
class Node:
    """One node's facts: what it said once, what we saw since, and what it has reserved."""

    card: NodeCard
    rooms: dict[str, Room]
    connected_at_ms: int
    heard_s: float
    idle_since_s: float
    state: str = "ready"
    reason: str | None = None
    engine_fault: str | None = None
    stuck: str | None = None
    stalls: int = 0
    trial_from_s: float = 0.0
    leaving: str | None = None
    slots_busy: int = 0
    tokens_per_s: float | None = None
    served: int = 0
    failed: int = 0
    ids_made: int = 0
    busy_s: float = 0.0
    decoding: int = 0
    decoding_since_s: float = 0.0
    ids_decoded: int = 0
    decode_s: float = 0.0
    decoded_per_s: float | None = None

    @property
    def peer(self) -> str:
        """The proven peer id."""
        return self.card.peer

    @property
    def slots(self) -> int:
        """Requests the node runs at once; on trial it gets one."""
        return self.card.slots if self.stuck is None else 1

    def stall(self, reason: str, now_s: float) -> None:
        """A job stood still: no job for a while, then one on trial."""
        if self.stuck is None or now_s >= self.trial_from_s:
            # More jobs that stand still at the same time are no further failure.
            pause_s = TRIAL_PAUSE_S * 2.0 ** min(self.stalls, 16)
            self.trial_from_s = now_s + min(TRIAL_PAUSE_LIMIT_S, pause_s)
            self.stalls += 1
        self.stuck = reason

    def recover(self) -> None:
        """It works: whatever stood still before is over."""
        self.stuck, self.stalls = None, 0

    def reserve(self, need: Need, now_s: float) -> None:
        """Take a slot and its KV tokens, at once."""
        if self.slots_busy == 0:
            self.idle_since_s = now_s
        self.slots_busy += 1
        room = self.rooms[need.digest]
        room.slots_busy += 1
        room.kv_busy += need.kv_tokens

    def release(self, need: Need, now_s: float) -> None:
        """Give them back."""
        self.slots_busy -= 1
        room = self.rooms[need.digest]
        room.slots_busy -= 1
        room.kv_busy -= need.kv_tokens
        assert room.slots_busy >= 0 and room.kv_busy >= 0, "a reservation was given back twice"
        if self.slots_busy == 0:
            self.busy_s += now_s - self.idle_since_s
            self.idle_since_s = now_s

    def begin(self, now_s: float) -> None:
        """A stream's first ids are there: from now on it decodes."""
        if not self.decoding:
            self.decoding_since_s = now_s
        self.decoding += 1

    def end(self, now_s: float) -> None:
        """A stream that had begun made its last id."""
        self.decoding -= 1
        if not self.decoding:
            self.decode_s += max(0.0, now_s - self.decoding_since_s)

    def sample_rate(self, now_s: float) -> None:
        """Fold what was made since the last call into the measured ids a second.

        `tokens_per_s` counts over all the time with work, prefill too, all streams together: a
        node that keeps its ids back gains nothing by it at the router. `decoded_per_s` counts
        from first ids on, without them, and is what people call a node's speed: it is shown.
        """
        if self.slots_busy:
            self.busy_s += now_s - self.idle_since_s
            self.idle_since_s = now_s
        if self.decoding:
            self.decode_s += max(0.0, now_s - self.decoding_since_s)
            self.decoding_since_s = max(now_s, self.decoding_since_s)
        if self.busy_s >= RATE_SAMPLE_MIN_S and self.ids_made:
            self.tokens_per_s = _folded(self.tokens_per_s, self.ids_made / self.busy_s)
            self.ids_made, self.busy_s = 0, 0.0
        if self.decode_s >= RATE_SAMPLE_MIN_S and self.ids_decoded:
            self.decoded_per_s = _folded(self.decoded_per_s, self.ids_decoded / self.decode_s)
            self.ids_decoded, self.decode_s = 0, 0.0


def _folded(known: float | None, seen: float) -> float:
    return seen if known is None else known + RATE_WEIGHT * (seen - known)


class Member(Protocol):
    """A session as the registry sees it: a node, and a way to end it."""

    @property
    def node(self) -> Node: ...

    def end(self, code: ProblemCode, message: str, hint: str = "") -> None: ...
    def look(self, now_s: float) -> None: ...


def check_card(card: NodeCard, peer: str, known: Callable[[str], bool]) -> dict[str, Room]:
    """Room by digest for the offered models that the pool knows; Problem LINK_REFUSED."""
    if card.peer != peer:
        raise _refused("the card names another peer than the handshake proved")
    if not 1 <= card.slots <= SLOTS_LIMIT:
        raise _refused(f"slots must be 1 to {SLOTS_LIMIT}, not {card.slots}")
    if not 1 <= card.kv_tokens <= KV_LIMIT_TOKENS:
        raise _refused(f"kv_tokens must be 1 to {KV_LIMIT_TOKENS}, not {card.kv_tokens}")
    if not 1 <= len(card.models) <= MODELS_LIMIT:
        raise _refused(f"a node offers 1 to {MODELS_LIMIT} models, not {len(card.models)}")
    if not 1 <= len(card.name) <= NAME_LIMIT_CHARS or not card.name.isprintable():
        raise _refused(f"a node's name has 1 to {NAME_LIMIT_CHARS} printable characters")
    for text in (card.version, card.device, card.backend):
        if len(text) > TEXT_LIMIT_CHARS or not text.isprintable():
            raise _refused(
                f"version, device and backend have {TEXT_LIMIT_CHARS} characters at most"
            )
    if any(not 1 <= model.context <= CONTEXT_LIMIT_TOKENS for model in card.models):
        raise _refused(f"a context has 1 to {CONTEXT_LIMIT_TOKENS} tokens")
    for model in card.models:
        if not (0 <= model.slots <= card.slots and 0 <= model.kv_tokens <= card.kv_tokens):
            raise _refused("a model's slots and kv_tokens are a part of its node's")
    rooms = {
        model.digest: Room(
            model.context, model.slots or card.slots, model.kv_tokens or card.kv_tokens
        )
        for model in card.models
        if known(model.digest)
    }
    if not rooms:
        raise Problem(
            ProblemCode.LINK_REFUSED,
            "this pool knows none of the models that the node offers",
            hint="add the model to the pool first (parhelion models add), or join with its model",
        )
    return rooms


def state_of(node: Node, now_s: float, limits: NodesConfig) -> tuple[str, str | None]:
    """A registered node's state and its reason; "gone" when it was silent for too long.

    Silence outranks all: a node that says nothing is suspect whatever it said before.
    """
    silent_s = now_s - node.heard_s
    if silent_s >= limits.gone_s:
        return "gone", f"silent for {silent_s:.1f} s"
    if node.leaving is not None:
        return "draining", node.leaving
    if node.engine_fault is not None:
        return "failed", node.engine_fault
    if node.stuck is not None and now_s < node.trial_from_s:
        return "failed", node.stuck
    if silent_s >= limits.suspect_s:
        return "suspect", f"silent for {silent_s:.1f} s"
    return "ready", None if node.stuck is None else f"on trial: {node.stuck}"


class Registry:
    """Live sessions by peer id; `on_change` is called when a node may have become free."""

    def __init__(self, limits: NodesConfig, need: int, on_change: Callable[[], None]) -> None:
        self._limits = limits
        self._need = need
        self._on_change = on_change
        self._members: dict[str, Member] = {}
        self._complete = False

    def nodes(self) -> Iterable[Node]:
        """Every registered node."""
        return [member.node for member in self._members.values()]

    def member(self, peer: str) -> Member | None:
        """The live session of a peer."""
        return self._members.get(peer)

    def members(self) -> list[Member]:
        """All live sessions."""
        return list(self._members.values())

    def enter(self, member: Member) -> None:
        """A registered session; an older one of the same peer ends, it is the same machine."""
        old = self._members.get(member.node.peer)
        self._members[member.node.peer] = member
        if old is not None:
            old.end(ProblemCode.CONFLICT, "a newer session of the same node replaced this one")
        self.refresh(member.node, member.node.heard_s)

    def leave(self, member: Member) -> None:
        """The session ended."""
        if self._members.get(member.node.peer) is member:
            del self._members[member.node.peer]
        self._on_change()

    def refresh(self, node: Node, now_s: float) -> None:
        """Bring a node's state up to date after it was heard."""
        before = node.state
        node.state, node.reason = state_of(node, now_s, self._limits)
        if node.state != before:
            log.info(
                "node is %s",
                node.state,
                extra={"node": node.peer, "was": before, "reason": node.reason},
            )
        self.complete()
        if node.state == "ready":
            self._on_change()

    def forgive(self, late_s: float) -> None:
        """Count `late_s` seconds of everybody's silence as ours: we did not listen."""
        for node in self.nodes():
            node.heard_s += late_s

    def sweep(self, now_s: float) -> None:
        """Let the clock speak: who was silent too long is suspect, then gone."""
        for member in self.members():
            node = member.node
            state, reason = state_of(node, now_s, self._limits)
            if state == "gone":
                member.end(ProblemCode.LINK_BROKEN, f"the node was {reason}")
                continue
            if state != node.state:
                self.refresh(node, now_s)
            self._end_full(node, now_s)
            member.look(now_s)

    def _end_full(self, node: Node, now_s: float) -> None:
        for room in node.rooms.values():
            if room.full_until_s is not None and now_s >= room.full_until_s:
                room.full_until_s = None
                self._on_change()

    def ready_count(self) -> int:
        """Nodes that take work now."""
        return sum(member.node.state == "ready" for member in self._members.values())

    def complete(self) -> bool:
        """Whether the pool has once had the nodes it was told to wait for.

        It stays complete when nodes leave: while one is there, prompts are still served.
        """
        if not self._complete:
            self._complete = self.ready_count() >= self._need
        return self._complete


def _refused(message: str) -> Problem:
    return Problem(
        ProblemCode.LINK_REFUSED, message, hint="the node's software and settings are at fault"
    )
