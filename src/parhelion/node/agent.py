"""The agent: keeps a node joined to its coordinator until it is drained or refused for good."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Literal

from parhelion import __version__
from parhelion.hosts import backoff_s
from parhelion.identity import NodeKey
from parhelion.link import (
    Address,
    Bye,
    Carrier,
    FromCoordinator,
    LinkBroken,
    NotTaken,
    Welcome,
    connect,
)
from parhelion.node.session import Session, register
from parhelion.words import (
    Clock,
    NodeCard,
    Problem,
    ProblemCode,
    Record,
    ServedModel,
)

if TYPE_CHECKING:
    # Only named here: the room loads numpy and more, which a command's --help has no use for.
    from parhelion.engines import Engine, EngineEvent

DRAIN_DEADLINE_S = 25.0
"""What running jobs get before they are handed back: under the 30 s that a Ctrl-C waits."""

GOODBYE_S = 5.0
"""What the last frames get beyond the drain's own deadline."""

STEADY_S = 10.0
"""A session that lived so long was a good one: the next failure starts the waits anew."""

LONGEST_WAIT_S = 4.0
"""However long the coordinator was down, its nodes are back within 5 s of its return."""

FOR_GOOD = frozenset({ProblemCode.LINK_REFUSED.value, ProblemCode.FORBIDDEN.value})
"""A proven coordinator that says one of these does not change its mind by being asked again.

A welcomed node stops at CONFLICT too: a second process has joined with its key, and the two would
push each other out for ever.
"""

log = logging.getLogger("parhelion.node")

Dial = Callable[[Address, NodeKey], Awaitable[Carrier[FromCoordinator]]]
"""How a coordinator is reached: `connect`, or one that also looks where it has moved."""


class AgentState(Record, frozen=True, kw_only=True):
    """Where a node stands; `accepted` are the digests that the pool takes from it.

    `refused` are those that it does not, with its reasons.
    `fault`: the reason is one that was logged as a warning, not a goodbye that was announced.
    """

    state: Literal["joining", "ready", "draining", "gone"]
    reason: str | None = None
    fault: bool = False
    coordinator: str | None = None
    accepted: tuple[str, ...] = ()
    refused: tuple[NotTaken, ...] = ()


class Agent:
    """One node: engines by digest, a key, and the coordinator it serves.

    `slots` are those of the machine, which its engines share; None: the sum of theirs.

    `on_state` is called in the event loop at every change; it may not block.
    """

    def __init__(
        self,
        key: NodeKey,
        address: Address,
        engines: Mapping[str, Engine],
        *,
        name: str,
        clock: Clock,
        on_state: Callable[[AgentState], None],
        jitter: Callable[[], float] = random.random,
        slots: int | None = None,
        dial: Dial = connect,
    ) -> None:
        self._key = key
        self._address = address
        self._engines = engines
        self._name = name
        self._clock = clock
        self._on_state = on_state
        self._jitter = jitter
        self._dial = dial
        self._slots = slots
        self._engine_events: dict[str, EngineEvent] = {}
        self._session: Session | None = None
        self._joining: asyncio.Timeout | None = None
        self._leaving: str | None = None
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()
        self._was_welcomed = False
        self._was_told = False
        self.state = AgentState(state="joining")

    async def run(self) -> None:
        """Serve until drained; Problem when the coordinator refuses this node for good."""
        self._ended.clear()
        failures = 0
        try:
            while self._leaving is None:
                began_s = self._clock.monotonic_s()
                cause = await self._visit()
                if self._leaving is not None:
                    break
                is_steady = self._clock.monotonic_s() - began_s >= STEADY_S
                failures = 0 if is_steady else failures + 1
                wait_s = min(LONGEST_WAIT_S, backoff_s(failures, self._jitter()))
                is_fault = self._is_fault(cause)
                log.log(
                    logging.WARNING if is_fault else logging.INFO,
                    "no link to the coordinator",
                    extra={"cause": cause.message, "hint": cause.hint, "again_in_s": wait_s},
                )
                self._become(AgentState(state="joining", reason=cause.message, fault=is_fault))
                await self._pause(wait_s)
            self._become(AgentState(state="gone", reason=self._leaving))
        except Problem as refusal:
            log.error("refused", extra={"cause": refusal.message, "hint": refusal.hint})
            self._become(AgentState(state="gone", reason=refusal.message))
            raise
        finally:
            if self.state.state != "gone":
                self._become(AgentState(state="gone", reason="stopped"))
            self._ended.set()

    async def drain(self, reason: str, deadline_s: float = DRAIN_DEADLINE_S) -> None:
        """Take nothing new, finish what runs, leave; returns when `run` has."""
        if self._leaving is None:
            self._leaving = reason
            self._become_draining(reason)
            self._wake.set()
            if self._session is not None:
                self._session.leave(reason, deadline_s)
            elif self._joining is not None:
                self._joining.reschedule(asyncio.get_running_loop().time())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), deadline_s + GOODBYE_S)

    def on_engine(self, event: EngineEvent, digest: str = "") -> None:
        """An engine crashed, hangs, restarts or is ready again: the coordinator hears at once."""
        self._engine_events[digest] = event
        if self._session is not None:
            self._session.beat()

    async def _visit(self) -> Problem:
        """One session from dialling to its end; why it ended. Problem is raised when for good."""
        try:
            async with asyncio.timeout(None) as self._joining:
                carrier = await self._dial(self._address, self._key)
        except TimeoutError:
            return Problem(ProblemCode.DRAINING, "drained while joining")
        except Problem as problem:
            # A first visit that finds the wrong door will not find a better one by waiting; once
            # welcomed, a wrong door is a coordinator being moved or a network playing tricks.
            if problem.code is ProblemCode.LINK_REFUSED and not self._was_welcomed:
                raise
            return problem
        finally:
            self._joining = None
        try:
            now_ms = self._clock.now_ms()
            answer = await register(carrier, self._card(), self._address.invite, now_ms)
            if isinstance(answer, Welcome):
                session = Session(
                    carrier,
                    answer,
                    key=self._key,
                    engines=self._engines,
                    clock=self._clock,
                    engine_state=self._engine_state,
                    on_drain=self._drain_session,
                )
                answer = await self._attend(session, answer, carrier.peer)
                return self._farewell(answer, FOR_GOOD | {ProblemCode.CONFLICT.value})
            return self._farewell(answer, FOR_GOOD)
        except LinkBroken as cause:
            return cause.problem()
        finally:
            await carrier.abort()

    async def _attend(self, session: Session, welcome: Welcome, coordinator: str) -> Bye:
        self._session = session
        self._was_welcomed = True
        self._was_told = False
        try:
            for one in welcome.refused:
                log.warning("a model is not taken: %s", one.reason, extra={"digest": one.digest})
            self._become(
                AgentState(
                    state="ready",
                    coordinator=coordinator,
                    accepted=welcome.accepted,
                    refused=welcome.refused,
                )
            )
            if self._leaving is not None:
                session.leave(self._leaving, DRAIN_DEADLINE_S)
            return await session.run()
        finally:
            self._session = None

    def _farewell(self, bye: Bye, for_good: frozenset[str]) -> Problem:
        if self._leaving is None and bye.code in for_good:
            hint = "stop the other one, or give it a data folder and so a key of its own"
            is_twin = bye.code == ProblemCode.CONFLICT
            raise Problem(
                ProblemCode.LINK_REFUSED, bye.message, hint=bye.hint or (hint if is_twin else "")
            )
        planned = bye.code == ProblemCode.DRAINING
        code = ProblemCode.DRAINING if planned else ProblemCode.LINK_BROKEN
        return Problem(code, bye.message, hint=bye.hint)

    def _is_fault(self, cause: Problem) -> bool:
        """A coordinator that said goodbye is no fault, and a fault is one warning, not ten."""
        self._was_told = self._was_told or cause.code is ProblemCode.DRAINING
        return cause.message != self.state.reason and not self._was_told

    def _drain_session(self, reason: str) -> None:
        """The coordinator asks this node to leave; it comes back when it is welcome again."""
        self._become_draining(reason)
        if self._session is not None:
            self._session.leave(reason, DRAIN_DEADLINE_S)

    def _card(self) -> NodeCard:
        cards = [engine.describe() for engine in self._engines.values()]
        slots = sum(card.slots for card in cards)
        return NodeCard(
            peer=self._key.peer,
            name=self._name,
            version=__version__,
            device=", ".join(sorted({card.device for card in cards})),
            backend=", ".join(sorted({card.backend for card in cards})),
            slots=slots if self._slots is None else min(slots, self._slots),
            kv_tokens=sum(card.kv_tokens for card in cards),
            models=tuple(
                ServedModel(
                    digest=digest,
                    context=card.context,
                    slots=card.slots if self._slots is None else min(card.slots, self._slots),
                    kv_tokens=card.kv_tokens,
                )
                for digest, card in zip(self._engines, cards, strict=True)
            ),
        )

    def _engine_state(self) -> tuple[str, str | None]:
        for event in self._engine_events.values():
            if event.kind != "ready":
                return event.kind, event.reason
        return "ready", None

    async def _pause(self, wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._wake.wait()

    def _become_draining(self, reason: str) -> None:
        self._become(
            AgentState(state="draining", reason=reason, coordinator=self.state.coordinator)
        )

    def _become(self, state: AgentState) -> None:
        if state != self.state:
            self.state = state
            self._on_state(state)
