"""One session with a coordinator: registration, heartbeats, and the frames it sends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from parhelion.identity import NodeKey
from parhelion.link import (
    Alive,
    Bye,
    Carrier,
    Cut,
    Drain,
    Draining,
    EngineState,
    FromCoordinator,
    Heartbeat,
    Knock,
    LinkBroken,
    Open,
    Register,
    Standing,
    Stay,
    ToStages,
    Welcome,
)
from parhelion.node.jobs import Jobs
from parhelion.node.outbox import Outbox
from parhelion.node.pipes import OpenPipe
from parhelion.node.stages import Stages
from parhelion.words import Clock, NodeCard, ProblemCode

if TYPE_CHECKING:
    # Only named here: the room loads numpy and more, which a command's --help has no use for.
    from parhelion.engines import Engine

REGISTER_DEADLINE_S = 10.0
"""The coordinator looks up one row and answers."""

SILENT_BEATS = 3
"""Heartbeats without an answer after which the coordinator is gone (6 s, as it judges us)."""

BEAT_SHORTEST_S, BEAT_LONGEST_S = 0.02, 30.0
"""The coordinator says how often to beat; whatever it says, a lost link is found, and no core is
spent on beating."""

LINGER_S = 0.5
"""A Cut for a job that just ended may be on its way; its signature is still owed."""

IDLE_LINGER_S = 0.1
"""Where no job has ended lately, only an Open may be on its way: it is answered with DRAINING, or
meets a closed link, and is placed elsewhere either way."""

REASON_LIMIT_CHARS = 500
"""Of a reason that is told over the link: a sentence, and room."""

log = logging.getLogger("parhelion.node")


async def register(
    carrier: Carrier[FromCoordinator],
    card: NodeCard,
    invite: str | None,
    now_ms: int | None = None,
) -> Welcome | Bye:
    """Say who this node is; the coordinator's Welcome, or the Bye with which it refuses."""
    return await _answered(carrier, Register(card=card, invite=invite, sent_at_ms=now_ms))


async def knock(
    carrier: Carrier[FromCoordinator], invite: str | None, stay: Stay | None = None
) -> Welcome | Bye:
    """Ask whether a registration with this invite would be welcome; with a `stay`, and wait."""
    return await _answered(carrier, Knock(invite=invite, stay=stay))


async def _answered(carrier: Carrier[FromCoordinator], message: Register | Knock) -> Welcome | Bye:
    await carrier.send(message)
    try:
        async with asyncio.timeout(REGISTER_DEADLINE_S):
            answer = await carrier.receive()
    except TimeoutError as error:
        cause = f"silence: no answer to the registration for {REGISTER_DEADLINE_S:g} s"
        raise await _break(carrier, ProblemCode.LINK_BROKEN, cause) from error
    if isinstance(answer, Welcome | Bye):
        return answer
    cause = f"{type(answer).__name__} came before Welcome"
    raise await _break(carrier, ProblemCode.INVALID_REQUEST, cause)


def pace_s(told_s: float) -> float:
    """How often to beat, from what the coordinator says of it: any number, or none."""
    return min(BEAT_LONGEST_S, max(BEAT_SHORTEST_S, told_s))  # In this order NaN is the shortest.


class Session:
    """A welcomed node at work until either side ends it.

    `stages` are those of a node that is a member of pipelines, linked by `open_pipe`.
    """

    def __init__(
        self,
        carrier: Carrier[FromCoordinator],
        welcome: Welcome,
        *,
        key: NodeKey,
        engines: Mapping[str, Engine],
        clock: Clock,
        engine_faults: Callable[[], tuple[EngineState, ...]],
        on_drain: Callable[[Drain], None],
        on_standing: Callable[[Standing], None],
        stages: Stages | None = None,
        open_pipe: OpenPipe | None = None,
    ) -> None:
        self._carrier = carrier
        self._heartbeat_s = pace_s(welcome.heartbeat_s)
        self._clock = clock
        self._engine_faults = engine_faults
        self._on_drain = on_drain
        self._on_standing = on_standing
        self._outbox = Outbox(carrier.post)
        self._jobs = Jobs(key, engines, self._outbox, clock)
        self._stages = stages if open_pipe is not None else None
        if stages is not None and open_pipe is not None:
            stages.begin(self._outbox, open_pipe)
        self._beat_now = asyncio.Event()
        self._leaving: asyncio.Task[None] | None = None
        self._goodbye: Bye | None = None

    async def run(self) -> Bye:
        """Serve until a Bye, the other side's or ours; LinkBroken when the link is lost."""
        beating = asyncio.create_task(self._beat(), name="heartbeat")
        try:
            while True:
                message = await self._hear()
                if isinstance(message, Bye):
                    return message
                await self._obey(message)
        except LinkBroken:
            if self._goodbye is None:
                raise
            return self._goodbye
        finally:
            beating.cancel()
            if self._leaving is not None:
                self._leaving.cancel()
            await self._jobs.abandon()
            if self._stages is not None:
                await self._stages.end()

    def beat(self) -> None:
        """Send a heartbeat at once: something about this node has changed."""
        self._beat_now.set()

    def leave(self, reason: str, deadline_s: float) -> None:
        """Take nothing new, finish what runs within the deadline, hand back the rest, then go."""
        if self._leaving is None:
            for desk in self._desks:
                desk.refuse_new(reason)
            self._outbox.say(Draining(reason=reason))
            self._leaving = asyncio.create_task(self._leave(reason, deadline_s), name="leave")

    @property
    def _desks(self) -> tuple[Jobs | Stages, ...]:
        """Everything that has jobs here."""
        return (self._jobs,) if self._stages is None else (self._jobs, self._stages)

    async def _hear(self) -> FromCoordinator:
        silence_s = SILENT_BEATS * self._heartbeat_s
        try:
            async with asyncio.timeout(silence_s):
                return await self._carrier.receive()
        except TimeoutError as error:
            cause = f"silence: nothing from the coordinator for {silence_s:g} s"
            raise await _break(self._carrier, ProblemCode.LINK_BROKEN, cause) from error

    async def _obey(self, message: FromCoordinator) -> None:
        match message:
            case Open(job=job):
                self._jobs.open(job)
            case Cut():
                for desk in self._desks:
                    desk.cut(message)
            case Drain():
                self._on_drain(message)
            case Standing():
                self._on_standing(message)
            case Alive():
                pass  # That it came is what it says.
            case _ if isinstance(message, ToStages) and self._stages is not None:
                self._stages.obey(message)
            case _:
                cause = f"{type(message).__name__} came in the middle of a session"
                raise await _break(self._carrier, ProblemCode.INVALID_REQUEST, cause)

    async def _beat(self) -> None:
        while True:
            faults = self._engine_faults()
            self._outbox.say(
                Heartbeat(
                    sent_at_ms=self._clock.now_ms(),
                    slots_busy=self._jobs.busy,
                    # For a coordinator that knows one state a node: the worst.
                    engine=faults[0].state if faults else "ready",
                    reason=faults[0].reason if faults else None,
                    engines=faults,
                    stages=() if self._stages is None else self._stages.states(),
                )
            )
            with contextlib.suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it can swallow a cancellation.
                async with asyncio.timeout(self._heartbeat_s):
                    await self._beat_now.wait()
            self._beat_now.clear()

    async def _leave(self, reason: str, deadline_s: float) -> None:
        try:
            async with asyncio.timeout(deadline_s):
                for desk in self._desks:
                    await desk.finished()
        except TimeoutError:
            busy = sum(desk.busy for desk in self._desks)
            log.warning("drain took too long: handing jobs back", extra={"busy": busy})
            for desk in self._desks:
                desk.hand_back(reason)
        recent_s = min(desk.since_last_end_s() for desk in self._desks)
        await asyncio.sleep(max(IDLE_LINGER_S, LINGER_S - recent_s))
        self._outbox.flush()
        self._goodbye = Bye(code=ProblemCode.DRAINING, message=reason)
        await self._carrier.close(self._goodbye)


async def _break(carrier: Carrier[FromCoordinator], code: ProblemCode, message: str) -> LinkBroken:
    await carrier.close(Bye(code=code, message=message))
    return LinkBroken(code, message)
