"""The agent: keeps a node joined to its coordinator until it is drained or refused for good."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Literal

from msgspec import structs

from parhelion import __version__
from parhelion.hosts import backoff_s
from parhelion.identity import DRAIN_LIMIT_S, NodeKey
from parhelion.link import (
    Address,
    Bye,
    Carrier,
    Drain,
    EngineState,
    FromCoordinator,
    LinkBroken,
    NotTaken,
    Standing,
    Welcome,
    clipped,
    connect,
)
from parhelion.node.doors import Doors
from parhelion.node.pipes import OpenPipe
from parhelion.node.session import REASON_LIMIT_CHARS, Session, register
from parhelion.node.stages import Stages
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

REFUSED_HINT = "compare the model file's digest and the engine's build with the pool's"

MEMBER_HINT = (
    "a node that has the model's file serves it whole: join -m FILE; `parhelion plan --explain` "
    "says what keeps the pool's models from being served in parts"
)

KEPT_OUT = "kept out"
"""What is shown of a node that asks again every few seconds, and is told why it may not come."""

StandingState = Literal["measuring", "ready", "refused"]


class AgentState(Record, frozen=True, kw_only=True):
    """Where a node stands; `accepted` are the digests that the pool takes from it.

    `refused` are those that it does not, with its reasons. `standing` is what the pool says of a
    node that is `ready`: whether it gets paid work, is being measured for it, or is refused it.
    `fault`: the reason is one that was logged as a warning, not a goodbye that was announced.
    `kept_out`: it is `joining`, and the pool has told it why it waits outside: it was drained, or
    the coordinator is stopping.
    """

    state: Literal["joining", "ready", "draining", "gone"]
    reason: str | None = None
    fault: bool = False
    kept_out: bool = False
    coordinator: str | None = None
    accepted: tuple[str, ...] = ()
    refused: tuple[NotTaken, ...] = ()
    standing: StandingState | None = None

    @property
    def shown(self) -> str:
        """The word for a person: of a node that is `ready`, its standing."""
        return KEPT_OUT if self.kept_out else self.standing or self.state


class Agent:
    """One node: engines by digest, a key, and the coordinator it serves.

    `slots` are those of the machine, which its engines share; None: the sum of theirs. A node with
    `stages` is a member of pipelines; it may have no engine of its own, and where it `listens` its
    neighbours there may connect to it directly.

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
        stages: Stages | None = None,
        listens: bool = True,
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
        self._stages = stages
        self._doors = None if stages is None else Doors(key, address, listens)
        self._engine_events: dict[str, EngineEvent] = {}
        self._session: Session | None = None
        self._joining: asyncio.Timeout | None = None
        self._leaving: str | None = None
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()
        self._was_welcomed = False
        self._was_told = False
        self._was_sent_away = False
        """By the coordinator, from this session: it has said why."""
        self.state = AgentState(state="joining")

    async def run(self) -> None:
        """Serve until drained; Problem when the coordinator refuses this node for good."""
        self._ended.clear()
        failures, hint = 0, ""
        try:
            while self._leaving is None:
                began_s = self._clock.monotonic_s()
                cause = await self._visit()
                if self._leaving is not None:
                    break
                is_steady = self._clock.monotonic_s() - began_s >= STEADY_S
                failures = 0 if is_steady else failures + 1
                wait_s = min(LONGEST_WAIT_S, backoff_s(failures, self._jitter()))
                is_fault, now = self._is_fault(cause), self._joining_after(cause)
                # Who is kept out asks for days and hears the same: that is no news.
                is_news = not (now.kept_out and now == self.state and cause.hint == hint)
                hint = cause.hint
                level = logging.WARNING if is_fault else logging.INFO if is_news else logging.DEBUG
                log.log(
                    level,
                    "no link to the coordinator",
                    extra={"cause": cause.message, "hint": cause.hint, "again_in_s": wait_s},
                )
                self._become(structs.replace(now, fault=is_fault))
                await self._pause(wait_s)
            self._become(AgentState(state="gone", reason=self._leaving))
        except Problem as refusal:
            log.error("refused", extra={"cause": refusal.message, "hint": refusal.hint})
            self._become(AgentState(state="gone", reason=refusal.message))
            raise
        finally:
            if self._doors is not None:
                await self._doors.close()
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
            # Not wait_for: before Python 3.12 it can swallow a cancellation.
            async with asyncio.timeout(deadline_s + GOODBYE_S):
                await self._ended.wait()

    def on_engine(self, event: EngineEvent, digest: str) -> None:
        """A model's engine crashed, hangs, restarts or is ready again; it is told at once."""
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
        self._was_sent_away = False
        try:
            now_ms = self._clock.now_ms()
            open_pipe = await self._open_doors(carrier.here)
            answer = await register(carrier, self._card(), self._address.invite, now_ms)
            if isinstance(answer, Welcome):
                session = Session(
                    carrier,
                    answer,
                    key=self._key,
                    engines=self._engines,
                    clock=self._clock,
                    engine_faults=self._engine_faults,
                    on_drain=self._drain_session,
                    on_standing=self._stand,
                    stages=self._stages,
                    open_pipe=open_pipe,
                )
                answer = await self._attend(session, answer, carrier.peer)
                return self._farewell(answer, FOR_GOOD | {ProblemCode.CONFLICT.value})
            # No member yet, so what it is told to wait for is not a session's own end.
            self._was_sent_away = True
            return self._farewell(answer, FOR_GOOD)
        except LinkBroken as cause:
            return cause.problem()
        finally:
            await carrier.abort()

    async def _open_doors(self, here: str | None) -> OpenPipe | None:
        """Be reachable for other nodes, before the card says where; None for no member."""
        if self._doors is None or self._stages is None:
            return None
        open_pipe, direct = await self._doors.open_at(here)
        self._stages.reachable(direct)
        return open_pipe

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

    def _joining_after(self, cause: Problem) -> AgentState:
        """Where a node stands that has no link for this cause."""
        return AgentState(
            state="joining",
            reason=cause.message,
            kept_out=self._was_sent_away and cause.code is ProblemCode.DRAINING,
        )

    def _is_fault(self, cause: Problem) -> bool:
        """A coordinator that said goodbye is no fault, and a fault is one warning, not ten."""
        self._was_told = self._was_told or cause.code is ProblemCode.DRAINING
        return cause.message != self.state.reason and not self._was_told

    def _drain_session(self, drain: Drain) -> None:
        """The coordinator asks this node to leave; it comes back when it is welcome again."""
        self._was_sent_away = True
        self._become_draining(drain.reason)
        if self._session is not None:
            asked_s = DRAIN_DEADLINE_S if drain.deadline_s is None else drain.deadline_s
            self._session.leave(drain.reason, min(DRAIN_LIMIT_S, max(0.0, asked_s)))

    def _stand(self, standing: Standing) -> None:
        """The pool says whether this node earns, and why not."""
        state, reason = standing_of(standing)
        if state == "refused":
            # No warning: a person is told by `join` itself, whatever the log's level is.
            hint = refused_hint(self.state.accepted)
            log.info("no paid work for this node", extra={"reason": reason, "hint": hint})
        if self.state.state == "ready":
            self._become(structs.replace(self.state, standing=state, reason=reason))

    def _card(self) -> NodeCard:
        cards = [engine.describe() for engine in self._engines.values()]
        # Every card has room for a job; who has no model of its own is sent none by it.
        slots = sum(card.slots for card in cards) or 1
        return NodeCard(
            peer=self._key.peer,
            name=self._name,
            version=__version__,
            device=", ".join(sorted({card.device for card in cards})),
            backend=", ".join(sorted({card.backend for card in cards})),
            slots=slots if self._slots is None else min(slots, self._slots),
            kv_tokens=sum(card.kv_tokens for card in cards) or 1,
            models=tuple(
                ServedModel(
                    digest=digest,
                    context=card.context,
                    slots=card.slots if self._slots is None else min(card.slots, self._slots),
                    kv_tokens=card.kv_tokens,
                )
                for digest, card in zip(self._engines, cards, strict=True)
            ),
            stage=None if self._stages is None else self._stages.offer,
        )

    def _engine_faults(self) -> tuple[EngineState, ...]:
        return tuple(
            EngineState(digest=digest, state=event.kind, reason=event.reason[:REASON_LIMIT_CHARS])
            for digest, event in self._engine_events.items()
            if event.kind != "ready"
        )

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


def refused_hint(models: Collection[str]) -> str:
    """What an operator can do about no paid work; `models` are those that the pool takes of it.

    Where there are none, it is a member of pipelines, and has no file or engine to compare.
    """
    return REFUSED_HINT if models else MEMBER_HINT


def standing_of(standing: Standing) -> tuple[StandingState, str | None]:
    """What the pool says in our words; one line, whatever the coordinator sent."""
    reason = None if standing.reason is None else clipped(standing.reason)
    if standing.paid_work:
        return "ready", reason
    return ("measuring" if standing.state == "measuring" else "refused"), reason
