"""Nodes of the pool and their states, from what they say and from the clock; no I/O."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from parhelion.config import NodesConfig
from parhelion.coordinator.index import Index
from parhelion.coordinator.names import Names
from parhelion.coordinator.past import History, Past
from parhelion.coordinator.room import Room
from parhelion.coordinator.route import Need
from parhelion.identity import is_derived_name, node_name, operator_account
from parhelion.words import NodeCard, Problem, ProblemCode, StageOffer

log = logging.getLogger("parhelion.coordinator")

SLOTS_LIMIT = 1024
"""No single machine batches more; a larger number is a mistake or a bid for all the work."""

MODELS_LIMIT = 64
NAME_LIMIT_CHARS = 64
TEXT_LIMIT_CHARS = 200
CONTEXT_LIMIT_TOKENS = 16_777_216
ADDRESSES_LIMIT = 8
"""Interfaces of one machine that others may reach."""

OFFER_LIMIT_BYTES = 2**50
"""A petabyte: past it the number is invented."""

KV_LIMIT_TOKENS = SLOTS_LIMIT * 1_048_576
"""1,024 slots of a million tokens: past it the number is invented."""


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
    leaving: str | None = None
    slots_busy: int = 0
    fallback: bool = False
    """The coordinator's own: it serves when no other can, and what it earns is the treasury's."""
    own: bool = False
    """The pool's own, fallback or not: what it reports we take as seen by ourselves."""
    stages: tuple[str, ...] = ()
    """Of a pipeline, which is one node to whoever looks for a place: the peers of its stages."""
    operators: frozenset[str] = frozenset()
    """Who may be behind what its engine does: of a pipeline's operators all but the pool's own."""
    site: str = ""
    """Where it comes from, as far as an address tells (identity.site_of)."""
    price_micro: int = 0
    """What its operator asks beside the pool's rate; the same for all until operators may ask."""
    history: History = field(default_factory=History)
    """What was seen of it so far, in earlier sessions too."""
    stage_device: str = ""
    """What a stage of a pipeline found to compute on there, in the node's own words."""
    on_slots: Callable[[Node], None] | None = None
    """Called after each reservation and release: the registry keeps who has a slot free."""
    peer: str = field(init=False)
    """The proven peer id."""
    slots: int = field(init=False)
    """Requests the node runs at once."""
    _stream_s: float = field(default=0.0, init=False)
    _counted_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.peer, self.slots = self.card.peer, self.card.slots
        self.operators = self.operators or frozenset({self.operator})

    @property
    def name(self) -> str:
        """What it is called: made from its key, or chosen by its operator."""
        return self.card.name

    @property
    def device(self) -> str:
        """What it computes on: by its card, or where no engine of its own told, by its stages."""
        return self.card.device or self.stage_device

    @property
    def operator(self) -> str:
        """Who earns with it; of a pipeline its first node's, which stays the same in every ring."""
        return operator_account(self.stages[0] if self.stages else self.peer)

    @property
    def served(self) -> int:
        """Jobs that it answered since the coordinator started, over all its sessions."""
        return self.history.served

    @property
    def failed(self) -> int:
        """Jobs that it did not, likewise."""
        return self.history.failed

    @property
    def tokens_per_s(self) -> float | None:
        """The most ids a second of all streams together that was measured, of its best model."""
        seen = [room.speed.tokens_per_s for room in self.rooms.values()]
        return max((rate for rate in seen if rate is not None), default=None)

    @property
    def first_id_s(self) -> float | None:
        """The shortest mean wait for a first id that was measured, of its quickest model."""
        seen = [room.first_id_s for room in self.rooms.values()]
        return min((wait_s for wait_s in seen if wait_s is not None), default=None)

    @property
    def samples(self) -> int:
        """Jobs that `success_rate` is over."""
        return sum(room.record.sample for room in self.rooms.values())

    @property
    def success_rate(self) -> float | None:
        """Share of its last jobs that it did not fail, over all its models; None without one."""
        good = sum((room.record.success_rate or 0.0) * room.record.sample for room in
                   self.rooms.values())  # fmt: skip
        return good / self.samples if self.samples else None

    def stream_seconds(self, now_s: float) -> float:
        """Seconds of work of all streams so far; the difference of two is their mean number."""
        return self._stream_s + self.slots_busy * (now_s - self._counted_s)

    def reserve(self, need: Need, now_s: float) -> None:
        """Take a slot and its KV tokens, at once."""
        self._count(now_s)
        if self.slots_busy == 0:
            self.idle_since_s = now_s
        self.slots_busy += 1
        room = self.rooms[need.digest]
        room.alone = need.alone
        room.slots_busy += 1
        room.kv_busy += need.kv_tokens
        if self.on_slots is not None:
            self.on_slots(self)

    def release(self, need: Need, now_s: float) -> None:
        """Give them back."""
        self._count(now_s)
        self.slots_busy -= 1
        room = self.rooms[need.digest]
        room.slots_busy -= 1
        if need.alone and not room.slots_busy:
            room.alone = False
        room.kv_busy -= need.kv_tokens
        assert room.slots_busy >= 0 and room.kv_busy >= 0, "a reservation was given back twice"
        if self.slots_busy == 0:
            self.idle_since_s = now_s
        if self.on_slots is not None:
            self.on_slots(self)

    def _count(self, now_s: float) -> None:
        self._stream_s, self._counted_s = self.stream_seconds(now_s), now_s


class Member(Protocol):
    """A session as the registry sees it: a node, and a way to end it."""

    @property
    def node(self) -> Node: ...
    @property
    def cause(self) -> Problem | None: ...

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
    fewest = 0 if card.stage is not None else 1
    if not fewest <= len(card.models) <= MODELS_LIMIT:
        raise _refused(f"a node offers {fewest} to {MODELS_LIMIT} models, not {len(card.models)}")
    check_name(card.name, peer)
    check_texts(card.version, card.device, card.backend)
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
    if card.stage is not None:
        check_offer(card.stage)
    elif not rooms:
        raise Problem(
            ProblemCode.LINK_REFUSED,
            "this pool knows none of the models that the node offers",
            hint="add the model to the pool first (parhelion models add), or join with its model",
        )
    return rooms


def check_name(name: str, peer: str) -> None:
    """Problem LINK_REFUSED for a name that this peer may not have."""
    if not 1 <= len(name) <= NAME_LIMIT_CHARS or not name.isprintable():
        raise _refused(f"a node's name has 1 to {NAME_LIMIT_CHARS} printable characters")
    if looks_like_an_id(name) or (is_derived_name(name) and name != node_name(peer)):
        raise _refused("a node's name may not look like another node's id or made name")


def check_texts(*texts: str) -> None:
    """Problem LINK_REFUSED for what a node says of itself that nobody could show."""
    if any(len(text) > TEXT_LIMIT_CHARS or not text.isprintable() for text in texts):
        raise _refused(f"version, device and backend have {TEXT_LIMIT_CHARS} characters at most")


def check_offer(offer: StageOffer) -> None:
    """Problem LINK_REFUSED for an offer to pipelines that cannot be."""
    if not 0 < offer.memory_bytes <= OFFER_LIMIT_BYTES:
        raise _refused(f"a stage's memory is 1 to {OFFER_LIMIT_BYTES} bytes")
    if len(offer.direct) > ADDRESSES_LIMIT or len(offer.whole) > MODELS_LIMIT:
        raise _refused(f"an offer names {ADDRESSES_LIMIT} addresses at most")
    for text in (*offer.direct, *offer.whole, *offer.wires):
        if len(text) > TEXT_LIMIT_CHARS or not text.isprintable():
            raise _refused(f"a word of an offer has {TEXT_LIMIT_CHARS} characters at most")


def looks_like_an_id(name: str) -> bool:
    """Whether a reader, or a client's `provider` object, could take it for a peer or operator."""
    return name.startswith(("12D3KooW", "node:", "acct_"))


def state_of(node: Node, now_s: float, limits: NodesConfig) -> tuple[str, str | None]:
    """A registered node's state and its reason; "gone" when it was silent for too long.

    Silence outranks all: a node that says nothing is suspect whatever it said before.
    """
    silent_s = now_s - node.heard_s
    if silent_s >= limits.gone_s:
        return "gone", f"silent for {silent_s:.1f} s"
    if node.leaving is not None:
        return "draining", node.leaving
    standings = [room.standing() for room in node.rooms.values()]
    out = [standing for standing in standings if standing[0] != "ready"]
    if out and len(out) == len(standings):
        # One that may be probed still is no failed node: its other models are met meanwhile.
        return min(out, key=lambda standing: standing[0] == "failed")
    if silent_s >= limits.suspect_s:
        return "suspect", f"silent for {silent_s:.1f} s"
    if out:
        worst, reason = max(out, key=lambda standing: standing[0] == "failed")
        count = sum(state == worst for state, _reason in out)
        return "ready", f"{count} of {len(standings)} models {worst}: {reason}"
    return "ready", next((reason for _state, reason in standings if reason is not None), None)


class Registry:
    """Live sessions by peer id; `on_change` is called when a node may have become free."""

    def __init__(self, limits: NodesConfig, need: int, on_change: Callable[[], None]) -> None:
        self._limits = limits
        self._need = need
        self._on_change = on_change
        self.on_leave: Callable[[Member], None] = lambda _member: None
        """Called when a node is here no more: not for a session that a newer one replaced."""
        self.on_state: Callable[[Node], None] = lambda _node: None
        """Called when a node came, and when its state is another one."""
        self._members: dict[str, Member] = {}
        self._past = Past()
        self.index = Index()
        self.names = Names()
        self.version = 0
        """Counts what changes who could serve: members, their states, breakers that let one try."""
        self._complete = False
        self._by_fallback = False
        self._counted = -1

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
        past = self._past.back(member.node.peer) if old is None else old.node.history
        if past is not None:
            member.node.history = past
        member.node.history.meet(member.node.rooms)
        if old is not None:
            self._unlist(old.node)
        self.index.add(member.node)
        if not member.node.stages:
            # A client names machines; a pipeline is allowed or not by those that are in it.
            self.names.add(member.node)
        member.node.on_slots = self.index.update
        self.version += 1
        if old is not None:
            old.end(ProblemCode.CONFLICT, "a newer session of the same node replaced this one")
        self.refresh(member.node, member.node.heard_s)
        self.on_state(member.node)

    def leave(self, member: Member) -> None:
        """The session ended."""
        if self._members.get(member.node.peer) is member:
            del self._members[member.node.peer]
            self._unlist(member.node)
            if not member.node.stages:
                # A pipeline never comes back: each time that it is set up it has another name.
                self._past.left(member.node.peer, member.node.history)
            self.on_leave(member)
        self._changed()

    def widen(self, node: Node, rooms: Mapping[str, Room]) -> None:
        """Take more models from a node that offered them all along."""
        node.rooms.update(rooms)
        node.history.meet(rooms)
        self.index.add(node)
        self._changed()

    def refresh(self, node: Node, now_s: float) -> None:
        """Bring a node's state up to date after it was heard."""
        before = node.state
        has_changed = False
        for digest, room in node.rooms.items():
            has_changed |= _note_fault(node, digest, room, now_s)
        node.state, node.reason = state_of(node, now_s, self._limits)
        if node.state != before:
            log.info(
                "node is %s",
                node.state,
                extra={"node": node.peer, "was": before, "reason": node.reason},
            )
            has_changed = True
            self.on_state(node)
        self.version += has_changed
        self.complete()
        if has_changed or node.state == "ready":
            self._on_change()

    def reassess(self, node: Node) -> None:
        """What speaks for or against a node has changed."""
        self.refresh(node, node.heard_s)
        self._changed()

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
            if state != node.state or _is_over(node, now_s):
                self.refresh(node, now_s)
            self._end_pauses(node, now_s)
            member.look(now_s)

    def _end_pauses(self, node: Node, now_s: float) -> None:
        for room in node.rooms.values():
            if room.record.look(now_s):
                self._changed()
            if room.full_until_s is not None and now_s >= room.full_until_s:
                room.full_until_s = None
                self._changed()

    def _unlist(self, node: Node) -> None:
        node.on_slots = None
        self.index.remove(node)
        self.names.discard(node.peer)

    def _changed(self) -> None:
        self.version += 1
        self._on_change()

    def ready_count(self) -> int:
        """Machines that take work now."""
        return sum(
            node.state == "ready" and not node.fallback and not node.stages for node in self.nodes()
        )

    def complete(self) -> bool:
        """Whether the pool has once had the nodes it was told to wait for.

        It stays complete when nodes leave: while one is there, prompts are still served. With a
        fallback engine nobody has to wait for nodes.
        """
        if not self._complete and self._counted != self.version:
            # Once a change: of thousands of heartbeats a second none may count all nodes.
            self._counted = self.version
            self._complete = self.ready_count() >= self._need
            self._by_fallback = any(
                node.fallback and node.state == "ready" for node in self.nodes()
            )
        return self._complete or self._by_fallback

    @property
    def need(self) -> int:
        """How many nodes the pool was told to wait for."""
        return self._need

    def want(self, need: int) -> None:
        """Wait for so many from now on; a pool that has had its nodes goes on serving."""
        self._need, self._counted = need, -1
        self.complete()
        self._changed()

    def waits(self) -> str | None:
        """What a pool says that has not had the nodes yet which it was told to wait for."""
        if self.complete():
            return None
        return f"the pool waits for nodes: {self.ready_count()} of {self._need} have joined"


def _note_fault(node: Node, digest: str, room: Room, now_s: float) -> bool:
    """Bring what is wrong with one model's engine up to date; whether it failed or is back."""
    was, room.failed = room.failed, room.fault(now_s)
    if (was is None) == (room.failed is None):
        return False
    word = "failed" if room.failed is not None else "back"
    extra = {"node": node.peer, "digest": digest, "reason": room.failed}
    log.info("engine is %s", word, extra=extra)
    return True


def _is_over(node: Node, now_s: float) -> bool:
    """Whether some model's pause has ended since the node was looked at."""
    return any(
        room.failed is not None and room.fault(now_s) is None for room in node.rooms.values()
    )


def _refused(message: str) -> Problem:
    return Problem(
        ProblemCode.LINK_REFUSED, message, hint="the node's software and settings are at fault"
    )
