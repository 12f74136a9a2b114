"""Nodes that still load what they will serve: shown as joining, and counted for nothing else.

Each is a knock that stays (link.Knock): it was found to be welcome, has spent no invite, and gets
no job here. What a stranger could make of it is bounded by number, site, time and manners.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from parhelion.config import NodesConfig
from parhelion.coordinator.manners import Manners
from parhelion.coordinator.registry import check_name, check_texts
from parhelion.coordinator.roster import Roster
from parhelion.coordinator.session import say_goodbye
from parhelion.coordinator.views import NodeView
from parhelion.identity import operator_account
from parhelion.link import Bye, Carrier, FromNode, Heartbeat, LinkBroken, Loading, Stay
from parhelion.words import Clock, Problem, ProblemCode

JOINERS_LIMIT = 256
"""Each is a socket and a row that everybody is shown; one too many joins unseen, as before."""

JOINERS_PER_SITE_LIMIT = 16
"""Of one address (identity.site_of), as many as its doorway lets in at once: an open pool admits
anyone, and one machine with many keys must not fill the page."""

JOINING_LIMIT_S = 3600.0
"""A model's file may be read twice from a slow disk; six times what its engine gets for loading."""

ANSWERED = Problem(ProblemCode.DRAINING, "the knock is answered")
"""What ends a knock that does not stay, and one that is over because all is well."""

log = logging.getLogger("parhelion.coordinator")


class Joiner:
    """One node on its way in, as it says of itself; `ended` says why it is none any more."""

    def __init__(
        self, carrier: Carrier[FromNode], stay: Stay, site: str, fallback: bool, clock: Clock
    ) -> None:
        self.peer = carrier.peer
        self.site = site
        self.stay = stay
        self.heard_s = self.since_s = clock.monotonic_s()
        self.ended: asyncio.Future[Problem] = asyncio.get_running_loop().create_future()
        self.said_code: str | None = None
        """With which it left, by its own word."""
        self._since_ms = clock.now_ms()
        self._fallback = fallback
        self._carrier = carrier
        self._clock = clock
        self._manners = Manners()

    def view(self, last: NodeView | None) -> NodeView:
        """It as anyone may see it; `last` is how it was before, whose counts stay with it."""
        return NodeView(
            name=self.stay.name,
            peer=self.peer,
            operator=operator_account(self.peer),
            state="joining",
            reason=None,
            models=(),
            slots=None,
            slots_busy=None,
            tokens_per_s=None if last is None else last.tokens_per_s,
            first_id_s=None if last is None else last.first_id_s,
            success_rate=None if last is None else last.success_rate,
            samples=None if last is None else last.samples,
            version=self.stay.version or None,
            device=None if last is None else last.device,
            backend=None if last is None else last.backend,
            connected_at_ms=self._since_ms,
            served=0 if last is None else last.served,
            failed=0 if last is None else last.failed,
            fallback=self._fallback,
            phase=self.stay.phase,
            percent=self.stay.percent,
        )

    def end(self, cause: Problem) -> None:
        """It is no joiner any more; the first cause counts."""
        if not self.ended.done():
            self.ended.set_result(cause)

    async def run(self, on_news: Callable[[], None]) -> Problem:
        """Hear it until it ends, and why that was; `on_news` is called when it is further."""
        reading = asyncio.create_task(self._read(on_news), name="joiner")
        try:
            # Shielded: a cancelled wait would else take the future along.
            return await asyncio.shield(self.ended)
        finally:
            reading.cancel()
            await asyncio.wait([reading])

    async def _read(self, on_news: Callable[[], None]) -> None:
        try:
            while not self.ended.done():
                self._hear(await self._carrier.receive(), on_news)
        except LinkBroken as broken:
            self.end(broken.problem())
        except Exception as error:
            # A bug of ours with one node's message must not take the others along.
            log.exception("message handler failed", extra={"node": self.peer})
            what = f"the coordinator failed: {type(error).__name__}"
            self.end(Problem(ProblemCode.INTERNAL, what))

    def _hear(self, message: FromNode, on_news: Callable[[], None]) -> None:
        self.heard_s = self._clock.monotonic_s()
        fault = self._manners.notice(self.heard_s)
        if fault is None and not isinstance(message, Heartbeat | Loading | Bye):
            fault = f"{type(message).__name__} is not expected here"
        if fault is not None:
            what = f"the node misbehaved: {fault}"
            self.end(Problem(ProblemCode.INVALID_REQUEST, what))
        elif isinstance(message, Loading):
            told = msgspec.structs.replace(self.stay, phase=message.phase, percent=message.percent)
            if told != self.stay:
                self.stay = told
                on_news()
        elif isinstance(message, Bye):
            self.said_code = message.code
            self.end(ANSWERED)


class Joiners:
    """All of them, one a peer; `on_change` is called when what is shown of them may be another.

    `is_here` says whether a peer is in a session: it is shown by that, and not twice. `roster` has
    those that were here once, and is told of those that will not come.
    """

    def __init__(
        self,
        limits: NodesConfig,
        clock: Clock,
        roster: Roster,
        is_here: Callable[[str], bool],
        fallback: str | None,
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._limits = limits
        self._clock = clock
        self._roster = roster
        self._is_here = is_here
        self._fallback = fallback
        self._here: dict[str, Joiner] = {}

    def view(self, peer: str) -> NodeView | None:
        """How a node that loads is shown; None for any other."""
        joiner = self._here.get(peer)
        return None if joiner is None else joiner.view(self._roster.last(peer))

    def shown(self) -> tuple[NodeView, ...]:
        """Every one that is in no session yet, or not any more."""
        found = (self.view(peer) for peer in self._here if not self._is_here(peer))
        return tuple(view for view in found if view is not None)

    def away(self) -> tuple[NodeView, ...]:
        """Those of the roster that are not on their way in."""
        return tuple(view for view in self._roster.shown() if view.peer not in self._here)

    async def attend(
        self,
        carrier: Carrier[FromNode],
        stay: Stay | None,
        site: str,
        joined: Callable[[], None],
    ) -> None:
        """Answer a knock to its end: at once, or after a stay; `joined` is called once it stays."""
        if stay is None or not self._has_room(carrier.peer, site):
            await say_goodbye(carrier, ANSWERED)
            return
        is_own = carrier.peer == self._fallback
        joiner = Joiner(carrier, stay, site, is_own, self._clock)
        # A newer one of the same key is the same machine, which has lost the older.
        self.end(carrier.peer, Problem(ProblemCode.CONFLICT, "it knocked again"))
        self._here[carrier.peer] = joiner
        log.info("node is on its way in", extra={"node": carrier.peer})
        joined()
        self.on_change()
        cause = Problem(ProblemCode.LINK_BROKEN, "the connection was closed")
        try:
            cause = await joiner.run(self.on_change)
        finally:
            self._leave(joiner, cause)
        await say_goodbye(carrier, cause)

    def end(self, peer: str, cause: Problem) -> None:
        """This one is shown as joining no more, if it was: it came, or may not come."""
        joiner = self._here.pop(peer, None)
        if joiner is not None:
            joiner.end(cause)
            self.on_change()

    def end_all(self, cause: Problem) -> None:
        """The coordinator stops."""
        for peer in list(self._here):
            self.end(peer, cause)

    def sweep(self, now_s: float, late_s: float) -> None:
        """Let go of who is silent, and of who takes longer than anything may.

        Of the silence `late_s` seconds were ours: we did not listen.
        """
        for peer, joiner in list(self._here.items()):
            joiner.heard_s += late_s
            silent_s = now_s - joiner.heard_s
            if silent_s >= self._limits.gone_s:
                what = f"silent for {silent_s:.1f} s"
                self.end(peer, Problem(ProblemCode.LINK_BROKEN, what))
            elif now_s - joiner.since_s >= JOINING_LIMIT_S:
                what = f"it was joining for more than {JOINING_LIMIT_S / 60:.0f} minutes"
                self._roster.gave_up(joiner.view(None), what)
                self.end(peer, Problem(ProblemCode.DEADLINE_EXCEEDED, what))

    def _has_room(self, peer: str, site: str) -> bool:
        others = [one for one in self._here.values() if one.peer != peer]
        of_site = sum(one.site == site for one in others)
        return len(others) < JOINERS_LIMIT and of_site < JOINERS_PER_SITE_LIMIT

    def _leave(self, joiner: Joiner, cause: Problem) -> None:
        """Its session is over: who said why it will not come is shown so for a while."""
        joiner.end(cause)
        if self._here.get(joiner.peer) is not joiner:
            return  # Ended by us, or replaced: that was told.
        del self._here[joiner.peer]
        why = joiner.said_code
        if why is not None and why != ProblemCode.DRAINING:
            self._roster.gave_up(joiner.view(None), f"it could not load: {known_code(why)}")
        self.on_change()


def check_stay(stay: Stay, peer: str) -> None:
    """Problem LINK_REFUSED for a node that would be refused when it registers, by its own words."""
    check_name(stay.name, peer)
    check_texts(stay.version)


def known_code(said: str) -> str:
    """A code that a node said, where it is one of ours; its words are its own and not repeated."""
    try:
        return str(ProblemCode(said))
    except ValueError:
        return "an unknown cause"
