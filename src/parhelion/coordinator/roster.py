"""Nodes that are not here any more, or were never let in: for who looks, and for names; no I/O.

Bounded in number and time, because strangers decide how many there are.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from parhelion.coordinator.biography import States
from parhelion.coordinator.names import Names
from parhelion.coordinator.registry import Node
from parhelion.coordinator.views import NodeView
from parhelion.identity import node_name, operator_account
from parhelion.words import Clock

GONE_KEPT = 4096
"""Names that are still known; who is pushed out is a stranger again, which is a 400 to who names
it."""

REFUSED_KEPT = 64
"""A key costs nothing, so anyone can be refused any number of times."""

SHOWN_S = 600.0
"""Long enough to see what happened, short enough that a list is about now."""

PARDONED = "it may join again, and has not come yet"


class Roster:
    """Who left and who was refused, the latest last; a node that is back is in neither."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.names = Names()
        """Of nodes that were members once: those are known, however long they are away."""
        self.states = States(clock)
        self._gone: OrderedDict[str, tuple[NodeView, float]] = OrderedDict()
        self._refused: OrderedDict[str, tuple[NodeView, float]] = OrderedDict()

    def came(self, peer: str) -> None:
        """The node is connected: its view is live again."""
        self._gone.pop(peer, None)
        self._refused.pop(peer, None)
        self.names.discard(peer)

    def seen(self, node: Node) -> None:
        """A member came, or came into another state; a pipeline is no machine."""
        if not node.stages:
            self.states.note(node.peer, node.state, node.reason)

    def left(self, view: NodeView, reason: str) -> None:
        """A member's session ended; `view` is the last one. What was measured stays with it."""
        now_ms = self._clock.now_ms()
        self.states.note(view.peer, "gone", reason)
        gone = msgspec.structs.replace(
            view,
            state="gone",
            reason=reason,
            model_states=(),
            slots_busy=0,
            utilisation=None,
            left_at_ms=now_ms,
        )
        self.names.add(gone)
        self._put(self._gone, gone, GONE_KEPT)

    def refused(self, peer: str, reason: str, name: str = "") -> None:
        """A proven peer was not let in; of what it says of itself nothing is repeated.

        `name` is what it was called when it was let in, where that is known.
        One that asks again for the same answer stays as it is shown, for as long as it asks.
        """
        now_ms = self._clock.now_ms()
        known = self._gone.pop(peer, None)
        if known is not None:
            view = known[0]
            if (view.state, view.reason) != ("refused", reason):
                self.states.note(peer, "refused", reason)
                view = msgspec.structs.replace(
                    view, state="refused", reason=reason, left_at_ms=now_ms
                )
            self._put(self._gone, view, GONE_KEPT)
            return
        stranger = self._refused.get(peer)
        if stranger is not None and stranger[0].reason == reason:
            self._put(self._refused, stranger[0], REFUSED_KEPT)
            return
        view = NodeView(
            name=name or node_name(peer),
            peer=peer,
            operator=operator_account(peer),
            state="refused",
            reason=reason,
            models=(),
            slots=None,
            slots_busy=None,
            utilisation=None,
            tokens_per_s=None,
            version=None,
            device=None,
            backend=None,
            connected_at_ms=None,
            left_at_ms=now_ms,
            served=0,
            failed=0,
        )
        self._put(self._refused, view, REFUSED_KEPT)

    def gave_up(self, view: NodeView, reason: str) -> None:
        """A node that was joining will not come; `view` is the last one of it."""
        known = self._gone.pop(view.peer, None)
        away = msgspec.structs.replace(
            view if known is None else known[0],
            state="gone",
            reason=reason,
            connected_at_ms=None,
            left_at_ms=self._clock.now_ms(),
            phase=None,
            percent=None,
        )
        if known is None:
            # Never a member: it is kept with those that were not let in, and pushes out no other.
            self._put(self._refused, away, REFUSED_KEPT)
            return
        self.states.note(view.peer, "gone", reason)
        self._put(self._gone, away, GONE_KEPT)

    def pardoned(self, peer: str) -> None:
        """Nothing is held against it any more: it is away until it comes."""
        self._refused.pop(peer, None)
        known = self._gone.get(peer)
        if known is not None and known[0].state == "refused":
            away = msgspec.structs.replace(known[0], state="gone", reason=PARDONED)
            self.states.note(peer, "gone", PARDONED)
            self._put(self._gone, away, GONE_KEPT)

    def shown(self) -> tuple[NodeView, ...]:
        """Those that left or were refused a short while ago."""
        since_s = self._clock.monotonic_s() - SHOWN_S
        kept = [*self._gone.values(), *self._refused.values()]
        return tuple(view for view, at_s in kept if at_s >= since_s)

    def last(self, peer: str) -> NodeView | None:
        """How one that is not here was last; None for a stranger."""
        known = self._gone.get(peer) or self._refused.get(peer)
        return None if known is None else known[0]

    def _put(
        self, kept: OrderedDict[str, tuple[NodeView, float]], view: NodeView, limit: int
    ) -> None:
        kept[view.peer] = view, self._clock.monotonic_s()
        kept.move_to_end(view.peer)
        if len(kept) > limit:
            peer, _pushed_out = kept.popitem(last=False)
            if kept is self._gone:
                self.names.discard(peer)
