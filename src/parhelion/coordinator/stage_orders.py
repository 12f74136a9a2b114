"""What is asked of nodes about their stages, each with its answer or the Problem in its place.

One asks and waits; the node's session brings the answer, or its end brings the Problem.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from parhelion.coordinator.layer_times import (
    ROUNDS_ENOUGH_S,
    ROUNDS_LEAST,
    ROUNDS_LIMIT,
    Runs,
)
from parhelion.coordinator.planner import Rtt
from parhelion.coordinator.session import NodeSession
from parhelion.link import (
    FromStages,
    LoadStage,
    Pair,
    PairDown,
    PairTicket,
    PairUp,
    ServeSlice,
    StageFailed,
    StageLoaded,
    StageTimed,
    TimeStage,
    UnloadStage,
    clipped,
)
from parhelion.models import SliceCard
from parhelion.words import Clock, Problem, ProblemCode, StageSpec

LOAD_DEADLINE_S = 3600.0
"""Forty gigabytes over 100 Mbit/s; a transfer that stands still is given up by its node."""

PAIR_DEADLINE_S = 20.0
"""A relay pairs within 10 s, and a path is measured before it is taken."""

TIME_DEADLINE_S = 60.0
TIME_ROWS = 1

LINKS_KEPT = 4096
"""Pairs of nodes whose last measured path is remembered."""

Key = tuple[str, ...]

T = TypeVar("T")


class Tickets(Protocol):
    """Where two nodes meet that do not reach each other (relaying.Relays)."""

    def issue(
        self, dial: str, accept: str, direct: tuple[str, ...] = ()
    ) -> tuple[PairTicket, PairTicket]:
        """A ticket for each side of a new link; Problem OVERLOADED."""
        ...

    def withdraw(self, link: str, reason: str) -> None:
        """End a link; harmless when it is over."""
        ...


@dataclass(frozen=True, slots=True)
class Path:
    """A link between two nodes as its last report had it."""

    path: str
    rtt_ms: float | None
    """None before the first round trip was measured."""
    mbit_s: float | None
    sent_bytes: int
    received_bytes: int


class Orders:
    """Asks nodes; `hear` and `left` bring what comes back."""

    def __init__(self, relays: Tickets, clock: Clock) -> None:
        self._relays = relays
        self._clock = clock
        self._waits: dict[Key, tuple[NodeSession, asyncio.Future[FromStages]]] = {}
        self._ends: dict[str, tuple[str, str]] = {}
        """By link: the peers of its dialling and its accepting end."""
        self._paths: dict[tuple[str, str], Path] = {}
        self._tickets = 0
        self.on_broken: Callable[[NodeSession, StageFailed | PairDown], None] = lambda _s, _m: None
        """Called for a fault that nobody waits for: of a stage or link at work."""

    # --- asking -------------------------------------------------------------------------------

    async def load(
        self,
        session: NodeSession,
        stage: str,
        spec: StageSpec,
        card: SliceCard,
        token: str,
        holders: tuple[PairTicket, ...] = (),
        *,
        only_fetch: bool = False,
    ) -> StageLoaded:
        """Have a node hold these layers; the answer of one that holds them already is quick.

        With `only_fetch` it has them on its disk afterwards, and no process holds them.
        """
        order = LoadStage(
            stage=stage,
            spec=spec,
            size_bytes=card.size_bytes,
            sha256=card.sha256,
            holders=holders,
            token=token,
            only_fetch=only_fetch,
        )
        what = "fetch" if only_fetch else "load"
        answer = await self._ask(session, (what, stage), order, LOAD_DEADLINE_S)
        assert isinstance(answer, StageLoaded)
        return answer

    def unload(self, session: NodeSession, stage: str) -> None:
        """Have a node let go of a stage."""
        session.send(UnloadStage(stage=stage))

    def serve(self, holder: NodeSession, fetcher: NodeSession, card: SliceCard) -> PairTicket:
        """Have a node serve a slice to another one: that one's ticket; Problem OVERLOADED."""
        offer = holder.node.card.stage
        direct = offer.direct if offer is not None else ()
        dials, accepts = self._relays.issue(fetcher.node.peer, holder.node.peer, direct)
        holder.send(
            ServeSlice(
                ticket=accepts,
                digest=card.digest,
                start=card.start,
                end=card.end,
                size_bytes=card.size_bytes,
                sha256=card.sha256,
            )
        )
        return dials

    def withdraw(self, link: str, reason: str) -> None:
        """A link is not needed any more."""
        self._relays.withdraw(link, reason)

    async def pair(
        self, dialler: NodeSession, its_stage: str, accepter: NodeSession, other_stage: str
    ) -> str:
        """Close one link of a ring, from the next side of one stage to the previous of another.

        Returns its id; what was measured of it is its `path`. Where one end fails, or nobody wants
        it any more, the other end is let go of too.
        """
        offer = accepter.node.card.stage
        direct = offer.direct if offer is not None else ()
        one, other = dialler.node.peer, accepter.node.peer
        dials, accepts = self._relays.issue(one, other, direct)
        link = dials.link
        self._note_ends(link, one, other)
        theirs = Pair(stage=other_stage, side="previous", ticket=accepts)
        ours = Pair(stage=its_stage, side="next", ticket=dials)
        try:
            answers = await all_or_none(
                (
                    self._ask(accepter, ("pair", link, other), theirs, PAIR_DEADLINE_S),
                    self._ask(dialler, ("pair", link, one), ours, PAIR_DEADLINE_S),
                )
            )
        except (Problem, asyncio.CancelledError):
            self._relays.withdraw(link, "the link is not made")
            raise
        assert all(isinstance(answer, PairUp) for answer in answers)
        return link

    async def time(self, stages: Sequence[tuple[NodeSession, str]]) -> list[float]:
        """Milliseconds of one step of each of these stages by our own clock.

        One after the other: on one machine they would take the processor from each other. Round
        by round: what disturbs a machine for a second disturbs all that are on it, not one alone.
        The first step of each is not counted: it reads the weights from the disk.
        """
        if not stages:
            return []
        for session, stage in stages:
            await self._timed(session, stage, 1)
        all_runs = [Runs() for _ in stages]
        began_s = self._clock.monotonic_s()
        for count in range(1, ROUNDS_LIMIT + 1):
            for (session, stage), runs in zip(stages, all_runs, strict=True):
                short_s = await self._timed(session, stage, 1)
                runs.add(short_s, await self._timed(session, stage, 1 + runs.repeats))
            is_late = self._clock.monotonic_s() - began_s > ROUNDS_ENOUGH_S
            if all(runs.is_confirmed for runs in all_runs) or (count >= ROUNDS_LEAST and is_late):
                break
        return [runs.step_ms for runs in all_runs]

    async def _timed(self, session: NodeSession, stage: str, repeats: int) -> float:
        self._tickets += 1
        ticket = self._tickets
        order = TimeStage(stage=stage, ticket=ticket, rows=TIME_ROWS, repeats=repeats)
        started_s = self._clock.monotonic_s()
        await self._ask(session, ("time", stage, str(ticket)), order, TIME_DEADLINE_S)
        return self._clock.monotonic_s() - started_s

    async def _ask(
        self,
        session: NodeSession,
        what: Key,
        order: LoadStage | Pair | TimeStage,
        deadline_s: float,
    ) -> FromStages:
        key = (session.node.peer, *what)
        answer: asyncio.Future[FromStages] = asyncio.get_running_loop().create_future()
        if session.ended:
            raise _gone(session)
        assert key not in self._waits, "one asks at a time"
        self._waits[key] = session, answer
        try:
            session.send(order)
            async with asyncio.timeout(deadline_s):
                return await answer
        except TimeoutError:
            raise Problem(
                ProblemCode.NODE_LOST,
                f"node {session.node.name} did not answer {type(order).__name__} "
                f"within {deadline_s:.0f} s",
            ) from None
        finally:
            self._waits.pop(key, None)

    # --- hearing ------------------------------------------------------------------------------

    def hear(self, session: NodeSession, message: FromStages) -> None:
        """What a node says of its stages and links."""
        peer = session.node.peer
        match message:
            case StageLoaded():
                if message.device:
                    session.node.stage_device = clipped(message.device)
                what = "fetch" if message.only_fetched else "load"
                self._answer((peer, what, message.stage), message)
            case StageFailed():
                problem = _said(session, message.code, message.message)
                is_awaited = self._refuse((peer, "load", message.stage), problem)
                is_awaited |= self._refuse((peer, "fetch", message.stage), problem)
                for key in [key for key in self._waits if key[:3] == (peer, "time", message.stage)]:
                    is_awaited |= self._refuse(key, problem)
                if not is_awaited:
                    self.on_broken(session, message)
            case StageTimed():
                self._answer((peer, "time", message.stage, str(message.ticket)), message)
            case PairUp():
                self._note_path(peer, message)
                self._answer((peer, "pair", message.link, peer), message)
            case PairDown():
                problem = _said(session, ProblemCode.LINK_BROKEN, message.cause)
                if not self._refuse((peer, "pair", message.link, peer), problem):
                    self.on_broken(session, message)
            case _:
                pass  # Of a job: the session brings it to the job's pipeline.

    def left(self, session: NodeSession) -> None:
        """A node is gone: whoever waits for it hears so."""
        for key, (asked, answer) in list(self._waits.items()):
            if asked is session and not answer.done():
                del self._waits[key]
                answer.set_exception(_gone(session))

    # --- links --------------------------------------------------------------------------------

    def path(self, one: str, other: str) -> Path | None:
        """The last measured path between two nodes, in either direction."""
        return self._paths.get((one, other) if one < other else (other, one))

    @property
    def paths(self) -> Mapping[tuple[str, str], Path]:
        """The last measured path of each pair of nodes, the lower peer id first."""
        return self._paths

    @property
    def rtt(self) -> Rtt:
        """Measured round trips, as the planner asks for them."""

        def rtt(one: str, other: str) -> float | None:
            path = self.path(one, other)
            return None if path is None else path.rtt_ms

        return rtt

    def ends(self, link: str) -> tuple[str, str] | None:
        """The peers at both ends of a link."""
        return self._ends.get(link)

    def _note_ends(self, link: str, one: str, other: str) -> None:
        self._ends[link] = (one, other)
        while len(self._ends) > LINKS_KEPT:
            del self._ends[next(iter(self._ends))]

    def _note_path(self, peer: str, message: PairUp) -> None:
        ends = self._ends.get(message.link)
        if ends is None or peer not in ends:
            return
        one, other = sorted(ends)
        if message.path not in ("direct", "relay") or not 0.0 <= message.rtt_ms < 1e6:
            return
        before = self._paths.pop((one, other), None)
        # Both ends say it with the link; what no clock can have shown is no round trip.
        known_ms = before.rtt_ms if before is not None and before.path == message.path else None
        self._paths[one, other] = Path(
            message.path,
            message.rtt_ms or known_ms,
            message.mbit_s,
            message.sent_bytes,
            message.received_bytes,
        )
        while len(self._paths) > LINKS_KEPT:
            del self._paths[next(iter(self._paths))]

    # --- inside -------------------------------------------------------------------------------

    def _answer(self, key: Key, message: FromStages) -> None:
        _session, answer = self._waits.get(key, (None, None))
        if answer is not None and not answer.done():
            answer.set_result(message)

    def _refuse(self, key: Key, problem: Problem) -> bool:
        _session, answer = self._waits.get(key, (None, None))
        if answer is None or answer.done():
            return False
        answer.set_exception(problem)
        return True


async def all_or_none(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What each of these brings, at once; the first failure, with the others cancelled and over."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


def _gone(session: NodeSession) -> Problem:
    return Problem(ProblemCode.NODE_LOST, f"node {session.node.name} left")


def _said(session: NodeSession, code: str, message: str) -> Problem:
    known = set(map(str, ProblemCode))
    return Problem(
        ProblemCode(code) if code in known else ProblemCode.ENGINE_FAILED,
        f"node {session.node.name}: {message[:300]}",
    )
