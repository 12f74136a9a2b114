"""Probes of nodes (DESIGN 5, L1 of DESIGN 9): at join and now and then, timed, and compared.

A probe is a fresh question whose ids are compared with what the pool's own engine says after the
same ids; who serves another model, a cut context or noise gets no paid work. At join it comes
alone, then with full slots; later it stands in the queue like anybody's prompt, so it finds the
node as users do, idle or busy. The own engine is the fallback's or the local node's; a pool
without one proves nothing, and its nodes are only timed (`timing`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial

from parhelion.coordinator.asking import Asker, Tokeniser, first_try_s
from parhelion.coordinator.compare import Tally, Verdict, tolerance
from parhelion.coordinator.judge import compare
from parhelion.coordinator.own import OwnEngines, standing_of
from parhelion.coordinator.place import Places
from parhelion.coordinator.questions import LONGEST_SENTENCES, Question
from parhelion.coordinator.registry import Node, Registry, Room
from parhelion.coordinator.session import Session
from parhelion.coordinator.timing import Timing
from parhelion.coordinator.trials import Due, Trial, Trials, chosen
from parhelion.identity import Entropy
from parhelion.link import Standing
from parhelion.models import Catalogue, Model
from parhelion.words import (
    Clock,
    Job,
    Problem,
    ProblemCode,
)

log = logging.getLogger("parhelion.coordinator")

PROBED = ("ready", "measuring", "refused")
"""States of nodes that are there and would answer."""

JOIN_SENTENCES = 6
"""Who joins waits for its first comparison: questions are short then, and of any length later."""

CROWD_S = 6.0
"""What the prefill of probes that fill a node's slots may take, at the speed just measured: a slow
node gets fewer at once, and its speed with full slots shows in service."""

CROWD_LIMIT = 32
"""Probes at once however fast it is: of more slots, so many show how speed is shared."""

CROWD_UNKNOWN = 4
"""As many where the first question was too short to measure prefill."""

CROWD_TOKENS = 64
"""Of a question of one sentence, template included."""

CROWD_COMPARED = 2
"""Of those answers, drawn after they came: a node cannot know which."""

CROWD_SENTENCES = 1
"""On a slow machine the prefill of all of them takes longer than the answers."""

CROWD_DEADLINE_S = 15.0
"""For all of them: who is late is measured in service, and others wait behind."""

COMPARED_AT_ONCE = 4
"""Each takes one slot of the own engine for a moment; a hundred nodes that join take a minute."""

AGAIN_S = 600.0
"""Between probes of a node that passed; random by half, so that none can be waited for."""

RETRY_S = 15.0
"""After a probe that came to nothing: the node was busy, or one of the two engines failed."""

LOOK_S = 1.0
"""Who is due is looked for so often; who joins is at once."""

FAILURES_LIMIT = 3
"""Probes in a row without an answer: then the node gets no paid work until one has."""


class Prober:
    """Probes members that are due, as many as `trials` lets; `own` are the pool's own peers."""

    def __init__(
        self,
        *,
        registry: Registry,
        catalogue: Catalogue,
        tokeniser: Tokeniser,
        clock: Clock,
        entropy: Entropy,
        own: Collection[str],
        places: Places,
        enabled: bool,
    ) -> None:
        self._registry = registry
        self._catalogue = catalogue
        self._asker = Asker(tokeniser, clock, entropy, places)
        self._clock = clock
        self._entropy = entropy
        self._own = OwnEngines(registry, own if enabled else ())
        self._timing = Timing(registry, catalogue, self._asker, self._own, clock)
        self._enabled = enabled
        self._told: dict[str, Standing] = {}
        self._trials = Trials()
        self._running: dict[tuple[str, str], tuple[Due, asyncio.Task[None]]] = {}
        self._comparing = asyncio.Semaphore(COMPARED_AT_ONCE)
        self._joined = asyncio.Event()

    def meet(self, node: Node) -> None:
        """A node has joined: a stranger gets no paid work before its first comparison."""
        self.forget(node)
        self.meet_models(node, node.rooms)

    def meet_models(self, node: Node, rooms: Mapping[str, Room]) -> None:
        """These models of a node are new to the pool; before it gives any work for them."""
        if node.peer in self._own:
            self._own.met(node, rooms)
        else:
            for digest, room in rooms.items():
                self._own.bar(digest, room)
                trial = self._trials.back((node.peer, digest))
                if trial is not None and trial.refused is not None and room.measuring:
                    # Coming back is no second chance; that comes when it would have come.
                    room.barred, room.measuring = trial.refused, False
        if self._enabled:
            self._timing.meet(node, rooms)
        self._joined.set()

    def forget(self, node: Node) -> None:
        """A node left: when it comes back it is a stranger again, and no new one if it failed."""
        self._told.pop(node.peer, None)
        self._timing.forget(node)
        for digest in node.rooms:
            key = node.peer, digest
            if node.stages:
                # A pipeline never comes back: each time that it is set up it has another name.
                self._trials.drop(key)
            else:
                self._trials.leave(key, is_probed=key in self._running)

    async def run(self) -> None:
        """Probe until cancelled."""
        try:
            while True:
                self._review()
                self._start_due()
                self._timing.start_due()
                self._joined.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._joined.wait()
        finally:
            await self._timing.stop()
            tasks = [task for _due, task in self._running.values()]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    def _review(self) -> None:
        """Own engines come and go: who is not compared yet hears what it waits for."""
        for member in self._registry.members():
            if isinstance(member, Session) and any(
                room.barred is not None for room in member.node.rooms.values()
            ):
                if self._own.review(member.node):
                    self._registry.reassess(member.node)
                self._tell(member)

    def _start_due(self) -> None:
        """Start what is due, as many as may run; nobody new waits for who failed, or serves."""
        if not self._own:
            return
        running = [due for due, _task in self._running.values()]
        for due in chosen(self._due(), running, self._asker.waiting):
            self._start(due)

    def _due(self) -> Iterator[Due]:
        """Probes that are due and can begin."""
        now_s = self._clock.monotonic_s()
        compared: dict[str, bool] = {}
        for member in self._registry.members():
            node = member.node
            if not isinstance(member, Session) or node.peer in self._own:
                continue
            for digest, room in node.rooms.items():
                trial = self._trials.get((node.peer, digest))
                due_s = 0.0 if trial is None else trial.due_s
                if due_s > now_s or (node.peer, digest) in self._running:
                    continue
                if digest not in compared:
                    compared[digest] = self._own.session(digest) is not None
                if not (compared[digest] and _is_able(node, room)):
                    continue
                if room.barred is None:
                    yield Due(due_s, member, digest, "again")
                else:
                    is_tried = trial is not None and trial.tried
                    yield Due(due_s, member, digest, "failed" if is_tried else "new")

    def _start(self, due: Due) -> None:
        key = due.session.node.peer, due.digest
        room = due.session.node.rooms[due.digest]
        task = asyncio.create_task(self._test(due.session, due.digest, room, key), name="probe")
        self._running[key] = due, task
        task.add_done_callback(partial(self._ended, key))

    def _ended(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        self._running.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("probe failed", exc_info=error)
            if (trial := self._trials.get(key)) is not None:
                trial.due_s = self._clock.monotonic_s() + RETRY_S

    async def _test(self, session: Session, digest: str, room: Room, key: tuple[str, str]) -> None:
        """One probe and its comparison; what it says of the node is in force when this returns."""
        model = self._catalogue.by_digest(digest)
        if model is None:
            return
        trial = self._trials.begin(key)
        trial.probes += 1
        try:
            longest = JOIN_SENTENCES if room.measuring else LONGEST_SENTENCES
            question, job = await self._draw(model, room, longest)
            limit_s = self._first_try_s(job, question.ids) if _is_first(room, trial) else None
            theirs = await self._asker.ids_of(session, job, question.ids, limit_s)
        except Problem as problem:
            self._failed(session, room, trial, problem)
            return
        trial.failures = 0
        if await self._judge(session, trial, job, theirs):
            if trial.tally.verdict is Verdict.SAME and _shows_only_one(room):
                await self._crowd(session, room, trial, model)
            self._conclude(session, room, trial)

    def _first_try_s(self, job: Job, ids: int) -> float:
        own = self._own.session(job.digest)
        speed = None if own is None else own.node.rooms[job.digest].speed
        return first_try_s(speed, len(job.prompt_ids), ids)

    async def _judge(self, session: Session, trial: Trial, job: Job, theirs: Sequence[int]) -> bool:
        """Compare these ids; False where our own engine could not say."""
        own = self._own.session(job.digest)
        if own is None:
            return True  # It went away meanwhile: measured, and not proven.
        trial.tally.tolerance = tolerance(session.node.card.backend, own.node.card.backend)
        try:
            await compare(partial(self._own_ids, own), job, theirs, trial.tally)
        except Problem as problem:
            log.warning("own engine did not answer a probe", extra={"cause": str(problem)})
            trial.due_s = self._clock.monotonic_s() + RETRY_S
            return False
        return True

    def _conclude(self, session: Session, room: Room, trial: Trial) -> None:
        verdict = trial.tally.verdict
        if verdict is Verdict.FOREIGN:
            self._refuse(session, room, trial, trial.tally.words)
        elif verdict is Verdict.SAME or not self._own.compares(_digest_of(session, room)):
            self._admit(session, room, trial)
        else:
            trial.due_s = 0.0
            self._joined.set()

    async def _crowd(self, session: Session, room: Room, trial: Trial, model: Model) -> None:
        """Fill the node's slots once, to see its speed and whether it answers as when alone.

        A node that does not manage its own slots is no liar: it is measured in service.
        """
        drawn = [await self._draw(model, room, CROWD_SENTENCES) for _ in range(_crowd_size(room))]
        answers = await asyncio.gather(
            *(
                self._asker.ids_of(session, job, question.ids, CROWD_DEADLINE_S)
                for question, job in drawn
            ),
            return_exceptions=True,
        )
        good: list[tuple[Job, Sequence[int]]] = []
        for (_question, job), ids in zip(drawn, answers, strict=True):
            if isinstance(ids, Problem):
                log.info("no answer with full slots", extra={"cause": str(ids)})
            elif isinstance(ids, BaseException):
                raise ids
            else:
                good.append((job, ids))
        for job, ids in self._asker.dice().sample(good, min(len(good), CROWD_COMPARED)):
            await self._judge(session, trial, job, ids)

    async def _own_ids(self, own: Session, job: Job) -> Sequence[int]:
        # A node runs no two jobs of one name; under the same scope the prompt is cached.
        async with self._comparing:
            return await self._asker.ids_of(own, self._asker.again(job), job.max_tokens)

    def _failed(self, session: Session, room: Room, trial: Trial, problem: Problem) -> None:
        was_short = _is_first(room, trial) and problem.code == ProblemCode.DEADLINE_EXCEEDED
        # A slow node was given little time at its first try: that is no failure yet.
        trial.failures += not was_short
        trial.tried = True
        trial.due_s = self._clock.monotonic_s() + RETRY_S
        log.info(
            "probe not answered",
            extra={"node": session.node.peer, "cause": str(problem), "in_a_row": trial.failures},
        )
        if trial.failures >= FAILURES_LIMIT:
            self._refuse(session, room, trial, f"it answers no probe: {problem.message}")

    def _admit(self, session: Session, room: Room, trial: Trial) -> None:
        was_barred = room.barred
        room.barred, room.measuring = None, False
        spread = 0.5 + int.from_bytes(self._entropy(2), "big") / 65536
        trial.due_s = self._clock.monotonic_s() + AGAIN_S * spread
        trial.tried, trial.refused = False, None
        if trial.tally.verdict is not Verdict.OPEN:
            trial.tally = Tally(trial.tally.tolerance)
        if was_barred is not None:
            self._tell(session)
            self._registry.reassess(session.node)

    def _refuse(self, session: Session, room: Room, trial: Trial, reason: str) -> None:
        log.warning("node gets no paid work", extra={"node": session.node.peer, "reason": reason})
        room.barred, room.measuring = reason, False
        trial.tried, trial.refused = True, reason
        trial.due_s = self._clock.monotonic_s() + AGAIN_S
        trial.tally = Tally(trial.tally.tolerance)
        self._tell(session)
        self._registry.reassess(session.node)

    def _tell(self, session: Session) -> None:
        """Its operator reads why it earns nothing, or that it does again; once each."""
        standing = standing_of(session.node)
        if not session.ended and self._told.get(session.node.peer) != standing:
            self._told[session.node.peer] = standing
            session.send(standing)

    async def _draw(self, model: Model, room: Room, longest: int) -> tuple[Question, Job]:
        """A question that both engines can hold."""
        digest = model.card.digest
        own = self._own.session(digest)
        limit = room.largest_tokens
        if own is not None:
            limit = min(limit, own.node.rooms[digest].largest_tokens)
        return await self._asker.draw(model, limit, longest)


def _is_able(node: Node, room: Room) -> bool:
    """Whether a probe may begin there now, or wait for its turn where the node takes paid work."""
    if node.state not in PROBED or room.failed is not None:
        return False
    return room.barred is None or room.slots_busy < room.slots


def _is_first(room: Room, trial: Trial) -> bool:
    """Whether nothing of it ever came to nothing, and others that join may wait behind it."""
    return room.measuring and not trial.tried


def _shows_only_one(room: Room) -> bool:
    """Whether its first comparison is done, and its speed beside others never was measured."""
    return room.measuring and not room.speed.knows_shared and _crowd_size(room) > 1


def _crowd_size(room: Room) -> int:
    """Probes at once that fill the slots, or as many as a slow node reads in CROWD_S."""
    rate = room.speed.prefill_tokens_per_s
    most = CROWD_UNKNOWN if rate is None else int(CROWD_S * rate / CROWD_TOKENS)
    return min(room.slots - room.slots_busy, most, CROWD_LIMIT)


def _digest_of(session: Session, room: Room) -> str:
    return next(digest for digest, one in session.node.rooms.items() if one is room)
