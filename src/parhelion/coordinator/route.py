"""Which node gets a request: filter -> score -> pick; pure, over whatever looks like a node."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from parhelion.coordinator.breaker import Phase
from parhelion.coordinator.finish import Desk, expected_rest, finishes_s, sooner_elsewhere
from parhelion.coordinator.provider import Choice

LIVE = ("ready", "suspect")

LOOK_NODES = 128
"""Free nodes that one decision compares: the best of so many is among the best 1 % of all, and the
decision takes a fraction of a millisecond however large the pool."""

HAND_BACKS_TRIED = 2
"""In a row; who handed back once may have had a stream that was winding down."""

SAME_FINISH = 1.05
"""Finishes within 5 % are the same: the estimate is no better."""


class RoomState(Desk, Protocol):
    """What a node has for one model, as far as routing reads it beyond the estimate."""

    @property
    def largest_tokens(self) -> int: ...
    @property
    def kv_tokens(self) -> int: ...
    @property
    def kv_busy(self) -> int: ...
    @property
    def full_until_s(self) -> float | None: ...
    @property
    def hand_backs(self) -> int: ...
    @property
    def barred(self) -> str | None: ...
    @property
    def failed(self) -> str | None: ...
    @property
    def stuck(self) -> str | None: ...
    @property
    def alone(self) -> bool: ...
    @property
    def first_id_s(self) -> float | None: ...
    @property
    def tokens_per_s(self) -> float | None: ...


class NodeState(Protocol):
    """The facts about one node that routing reads."""

    @property
    def peer(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def rooms(self) -> Mapping[str, RoomState]: ...
    @property
    def slots(self) -> int: ...
    @property
    def slots_busy(self) -> int: ...
    @property
    def stages(self) -> tuple[str, ...]: ...
    @property
    def operators(self) -> frozenset[str]: ...
    @property
    def fallback(self) -> bool: ...
    @property
    def price_micro(self) -> int: ...
    @property
    def idle_since_s(self) -> float: ...


Seat = TypeVar("Seat", bound=NodeState)


@dataclass(frozen=True, slots=True)
class Need:
    """What one attempt takes: a model, and room for prompt and output together.

    `alone`: in a batch of its own, so the whole engine. `choice`: what its client said of nodes.
    `expected_tokens`: the output to expect, where that is known. `cached`: tokens of the prompt
    that a node holds, by peer. `max_price_micro`: no node that asks more. `accused`: no node in
    which all of such a set of operators have a part.
    """

    digest: str
    prompt_tokens: int
    max_tokens: int
    alone: bool = False
    choice: Choice | None = None
    expected_tokens: int | None = None
    cached: Mapping[str, int] = field(default_factory=dict[str, int], compare=False)
    max_price_micro: int | None = None
    accused: tuple[frozenset[str], ...] = ()

    def resumed(self, ids_out: int) -> Need:
        """What is left of it elsewhere: the ids that are out are prefilled, and made no more.

        The room that it takes stays the same.
        """
        assert 0 <= ids_out < self.max_tokens, "an answer with all its ids is not resumed"
        return replace(
            self,
            prompt_tokens=self.prompt_tokens + ids_out,
            max_tokens=self.max_tokens - ids_out,
            expected_tokens=None
            if self.expected_tokens is None
            else expected_rest(self.expected_tokens, ids_out),
        )

    @property
    def output_tokens(self) -> int:
        """Ids to expect; never more than its bound."""
        expected = self.expected_tokens
        return self.max_tokens if expected is None else min(expected, self.max_tokens)

    def allows(self, node: NodeState) -> bool:
        """Whether its client lets this node serve it."""
        return self.choice is None or self.choice.allows(node)

    @property
    def kv_tokens(self) -> int:
        """KV tokens to reserve: the most the attempt can fill."""
        return self.prompt_tokens + self.max_tokens


def is_able(node: NodeState, need: Need, without: Collection[str] = ()) -> bool:
    """Whether a node could take it, now or once others finish; a suspect one may come back."""
    room = node.rooms.get(need.digest)
    return (
        room is not None
        and room.barred is None
        and room.failed is None
        and node.state in LIVE
        and need.kv_tokens <= room.largest_tokens
        and room.record.breaker.phase is not Phase.OPEN
        and node.peer not in without
        and (need.max_price_micro is None or node.price_micro <= need.max_price_micro)
        and not (need.accused and any(part <= node.operators for part in need.accused))
        and need.allows(node)
    )


def has_place(node: NodeState, need: Need) -> bool:
    """Whether an able node has a slot and the KV tokens free now, as far as we and it know.

    Half-open, or after a job stood still or it handed back again and again, it has one place, for
    the job that shows whether it works again.
    """
    room = node.rooms[need.digest]
    return (
        node.slots_busy < node.slots
        and node.state == "ready"
        and room.slots_busy < room.slots
        and room.kv_busy + need.kv_tokens <= room.kv_tokens
        and room.full_until_s is None
        and not room.alone
        and (
            room.slots_busy == 0
            or (
                room.record.breaker.phase is Phase.CLOSED
                and room.stuck is None
                and room.hand_backs < HAND_BACKS_TRIED
            )
        )
    )


def capable(nodes: Iterable[Seat], need: Need, without: Collection[str] = ()) -> list[Seat]:
    """Nodes that could take it, now or once others finish.

    The fallback is among them only where there is no other.
    """
    able = [node for node in nodes if is_able(node, need, without)]
    return [node for node in able if not node.fallback] or able


def any_capable(nodes: Iterable[NodeState], need: Need, without: Collection[str] = ()) -> bool:
    """Whether some node could take it, now or once others finish."""
    return any(is_able(node, need, without) for node in nodes)


def pick(
    nodes: Iterable[Seat],
    need: Need,
    without: Collection[str] = (),
    barred: Collection[str] = (),
    everyone: Iterable[NodeState] = (),
) -> Seat | None:
    """The best node with a free slot and free KV tokens, or None: all are busy.

    Nodes of `without` it cannot have; those of `barred` it could, but others come before it there.
    Where `nodes` are not all there are, `everyone` tells whether the fallback is called for.

    The soonest estimated finish wins; among those that are as soon, the cheapest, then the one
    that holds most of the prompt, then the least busy.
    """
    able: Sequence[Seat] = free(nodes, need, without, barred, everyone)
    if need.choice is not None:
        able = need.choice.wanted(able, need.digest)
    if len(able) < 2:
        return able[0] if able else None
    finishes = finishes_s(able, need)
    soon_s = min(finishes) * SAME_FINISH
    best = [node for node, finish_s in zip(able, finishes, strict=True) if finish_s <= soon_s]
    return min(best, key=lambda node: _rank(node, need)) if len(best) > 1 else best[0]


def free(
    nodes: Iterable[Seat],
    need: Need,
    without: Collection[str] = (),
    barred: Collection[str] = (),
    everyone: Iterable[NodeState] = (),
) -> list[Seat]:
    """The nodes that can start it now, LOOK_NODES of them; the fallback where no other ever could.

    A client's own order of nodes is over all of them, so then there is no limit.
    """
    most = None if need.choice is not None and need.choice.order else LOOK_NODES
    found: list[Seat] = []
    spare: list[Seat] = []
    others = False
    for node in nodes:
        if not is_able(node, need, without):
            continue
        others = others or not node.fallback
        if has_place(node, need) and node.peer not in barred:
            (spare if node.fallback else found).append(node)
            if len(found) == most:
                break
    if others or not spare or _any_other(everyone, need, without):
        return found
    return spare


def any_free(
    nodes: Iterable[NodeState],
    need: Need,
    barred: Collection[str] = (),
    everyone: Iterable[NodeState] = (),
) -> bool:
    """Whether some node can start it now; the fallback only where no other ever could."""
    others = spare = False
    for node in nodes:
        if not is_able(node, need):
            continue
        others = others or not node.fallback
        if has_place(node, need) and node.peer not in barred:
            if not node.fallback:
                return True
            spare = True
    return spare and not others and not _any_other(everyone, need, ())


def _any_other(nodes: Iterable[NodeState], need: Need, without: Collection[str]) -> bool:
    return any(not node.fallback and is_able(node, need, without) for node in nodes)


def _rank(node: NodeState, need: Need) -> tuple[int, int, float, float, str]:
    share = node.slots_busy / node.slots
    cached = need.cached.get(node.peer, 0)
    return node.price_micro, -cached, share, node.idle_since_s, node.peer


def sooner_at_busy(
    node: Seat, nodes: Iterable[Seat], need: Need, without: Collection[str] = ()
) -> int:
    """How many such jobs do better to wait for busy nodes than to take the free slot of `node`.

    0 where the client asked for an order of nodes: that is its own.
    """
    if need.choice is not None or node.fallback:
        return 0
    busy = [
        other
        for other in nodes
        if not other.fallback and is_able(other, need, without) and not has_place(other, need)
        and other.state == "ready" and not other.rooms[need.digest].alone
    ]  # fmt: skip
    return sooner_elsewhere(node, busy, need) if busy else 0


def pick_idle(
    nodes: Iterable[Seat], need: Need, without: Collection[str], rather_without: str | None
) -> Seat | None:
    """A node whose engine for this model has no work, whoever it is kept for, or None."""
    idle = [
        node
        for node in capable(nodes, need, without)
        if node.state == "ready"
        and node.rooms[need.digest].slots_busy == 0
        and node.slots_busy < node.slots
    ]
    return min(idle, key=lambda node: (node.peer == rather_without, node.peer), default=None)


def largest_tokens(
    nodes: Iterable[NodeState], digest: str, choice: Choice | None = None
) -> int | None:
    """The largest request of a model that some allowed node can hold; None without a node."""
    sizes = [
        node.rooms[digest].largest_tokens
        for node in nodes
        if node.state in LIVE
        and digest in node.rooms
        and node.rooms[digest].failed is None
        and (choice is None or choice.allows(node))
    ]
    return max(sizes, default=None)
