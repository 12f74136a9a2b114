"""Probes of nodes (DESIGN 5, L1 of DESIGN 9): at join and when idle, timed, and compared.

A probe is a fresh prompt, answered greedily. Its ids are compared with what the pool's own engine
says after the same ids; who serves another model, a cut context or noise gets no paid work. The
own engine is the fallback's or the local node's; a pool without one proves nothing, sends no
probes, and learns speed from service alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from parhelion.coordinator.compare import Tally, Verdict, agree, tolerance
from parhelion.coordinator.probe import Probe
from parhelion.coordinator.registry import Node, Registry, Room
from parhelion.coordinator.route import Need
from parhelion.coordinator.session import Session
from parhelion.identity import Entropy
from parhelion.link import Standing
from parhelion.models import Catalogue, Model
from parhelion.words import (
    Ask,
    Clock,
    Job,
    Message,
    Problem,
    ProblemCode,
    SamplerParams,
    kin,
    mint,
)

log = logging.getLogger("parhelion.coordinator")

PROBE_IDS = 24
"""Two or three probes decide, and each is half a second of a small machine."""

PROBED = ("ready", "measuring", "refused")
"""States of nodes that are there and would answer."""

PROBE_LINE = "probe"
"""Whose turn a probe takes at the tokeniser host: an account of its own; none has this name."""

PROBES_AT_ONCE = 4
"""Each takes one slot of the own engine for a moment; a hundred nodes that join take a minute."""

DEADLINE_S = 30.0
"""For one probe: a node that takes longer for a hundred tokens and 24 ids is not of use."""

AGAIN_S = 600.0
"""Between probes of a node that passed; random by half, so that none can be waited for."""

RETRY_S = 15.0
"""After a probe that came to nothing: the node was busy, or one of the two engines failed."""

LOOK_S = 1.0
"""Who is due is looked for so often; who joins is at once."""

FAILURES_LIMIT = 3
"""Probes in a row without an answer: then the node gets no paid work until one has."""

SHORT_SENTENCES, LONG_SENTENCES = 4, 40
"""Every third prompt is long: an engine that keeps only the end of its context answers otherwise.
"""

_WORDS = (
    "river lamp garden winter engine letter market bridge violin copper harbour pencil orchard "
    "window thunder carpet needle island mirror candle saddle barley tunnel feather anchor meadow "
    "hammer blanket lantern kettle marble compass willow basket chimney ladder cabin pepper shadow "
    "silver canvas falcon pillow granite ribbon cellar turnip wagon beacon cobbler"
)
WORDS = tuple(_WORDS.split())
"""Drawn anew for every probe: fifty words in four places a sentence are not learned by heart."""


class Tokeniser(Protocol):
    """What a probe needs of the tokeniser host."""

    async def prepare(self, model: Model, ask: Ask, line: str) -> tuple[int, ...]: ...


@dataclass(slots=True)
class Trial:
    """How far one node is proven for one model."""

    tally: Tally
    due_s: float
    probes: int = 0
    failures: int = 0


class Prober:
    """Probes members that are due, PROBES_AT_ONCE at a time; `own` are the pool's own peers."""

    def __init__(
        self,
        *,
        registry: Registry,
        catalogue: Catalogue,
        tokeniser: Tokeniser,
        clock: Clock,
        entropy: Entropy,
        own: Collection[str],
        changed: Callable[[Node], None],
    ) -> None:
        self._registry = registry
        self._catalogue = catalogue
        self._tokeniser = tokeniser
        self._clock = clock
        self._entropy = entropy
        self._own = own
        self._changed = changed
        self._trials: dict[tuple[str, str], Trial] = {}
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._joined = asyncio.Event()

    def meet(self, node: Node) -> None:
        """A node has joined: a stranger gets no paid work before its first comparison."""
        self.forget(node)
        for digest, room in node.rooms.items():
            if node.peer not in self._own and self._own_session(digest) is not None:
                room.barred = "its ids are being compared"
                room.measuring = True
        self._joined.set()

    def forget(self, node: Node) -> None:
        """A node left: when it comes back it is a stranger again."""
        for digest in node.rooms:
            self._trials.pop((node.peer, digest), None)

    async def run(self) -> None:
        """Probe until cancelled."""
        try:
            while True:
                self._start_due()
                self._joined.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._joined.wait()
        finally:
            for task in self._running.values():
                task.cancel()
            if self._running:
                await asyncio.wait(self._running.values())

    def _start_due(self) -> None:
        now_s = self._clock.monotonic_s()
        for member in self._registry.members():
            if not isinstance(member, Session) or member.node.peer in self._own:
                continue
            for digest, room in member.node.rooms.items():
                key = member.node.peer, digest
                if len(self._running) >= PROBES_AT_ONCE:
                    return
                if self._own_session(digest) is None:
                    continue
                due_s = self._trials[key].due_s if key in self._trials else 0.0
                if key not in self._running and due_s <= now_s:
                    self._start(member, digest, room, key)

    def _start(self, session: Session, digest: str, room: Room, key: tuple[str, str]) -> None:
        if session.node.state not in PROBED or room.slots_busy >= room.slots:
            return
        if not room.measuring and session.node.slots_busy:
            return  # Due, and busy: its users come first.
        task = asyncio.create_task(self._test(session, digest, room, key), name="probe")
        self._running[key] = task
        task.add_done_callback(partial(self._ended, key))

    def _ended(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        self._running.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("probe failed", exc_info=error)
            if key in self._trials:
                self._trials[key].due_s = self._clock.monotonic_s() + RETRY_S

    async def _test(self, session: Session, digest: str, room: Room, key: tuple[str, str]) -> None:
        """One probe and its comparison; what it says of the node is in force when this returns."""
        model = self._catalogue.by_digest(digest)
        if model is None:
            return
        trial = self._trials.get(key)
        if trial is None:
            trial = self._trials[key] = Trial(Tally(tolerance("", "")), 0.0)
        trial.probes += 1
        try:
            long = trial.probes % 3 == 0
            prompt_ids = await self._prompt(model, LONG_SENTENCES if long else SHORT_SENTENCES)
            if long and len(prompt_ids) + PROBE_IDS > self._room_tokens(room, digest):
                prompt_ids = await self._prompt(model, SHORT_SENTENCES)
            job = self._job(digest, prompt_ids, ())
            theirs = await self._ids_of(session, job, room)
        except Problem as problem:
            self._failed(session, room, trial, problem)
            return
        trial.failures = 0
        await self._judge(session, room, trial, job, theirs)

    async def _judge(
        self, session: Session, room: Room, trial: Trial, job: Job, theirs: tuple[int, ...]
    ) -> None:
        own = self._own_session(job.digest)
        now_s = self._clock.monotonic_s()
        if own is None:
            # Nothing to compare with: measured, and not proven.
            self._admit(session, room, trial)
            return
        trial.tally.tolerance = tolerance(session.node.card.backend, own.node.card.backend)
        try:
            await self._compare(own, job, theirs, trial.tally)
        except Problem as problem:
            log.warning("own engine did not answer a probe", extra={"cause": str(problem)})
            trial.due_s = now_s + RETRY_S
            return
        match trial.tally.verdict:
            case Verdict.OPEN:
                trial.due_s = 0.0
                self._joined.set()
            case Verdict.SAME:
                self._admit(session, room, trial)
            case Verdict.FOREIGN:
                self._refuse(session, room, trial, trial.tally.words)

    async def _compare(self, own: Session, job: Job, theirs: tuple[int, ...], tally: Tally) -> None:
        """Our engine after the same ids, from each difference on anew."""
        at = 0
        while at < len(theirs) and tally.verdict is not Verdict.FOREIGN:
            asked = self._job(job.digest, job.prompt_ids, theirs[:at])
            room = own.node.rooms[job.digest]
            ours = await self._ids_of(own, asked, room)
            same = agree(theirs[at:], ours)
            ended_alike = at + same == len(theirs)
            tally.add(same + (not ended_alike), int(not ended_alike))
            at += same + 1

    async def _ids_of(self, session: Session, job: Job, room: Room) -> tuple[int, ...]:
        """Run a job at a node and time it; Problem when it does not answer in time."""
        need = Need(job.digest, len(job.prompt_ids), job.max_tokens)
        node = session.node
        alone = node.slots_busy == 0
        node.reserve(need, self._clock.monotonic_s())
        free = partial(self._release, node, need)
        probe = Probe(session, job, self._clock, free)
        probe.open()
        try:
            async with asyncio.timeout(DEADLINE_S):
                fault = await probe.over
        except TimeoutError:
            raise _late() from None
        finally:
            probe.give_up()
        if fault is not None:
            raise fault
        if alone and probe.first_id_s is not None and not job.output_ids:
            room.speed.probed(
                prompt_tokens=len(job.prompt_ids),
                first_id_s=probe.first_id_s - probe.opened_s,
                ids=len(probe.ids) - 1,
                rest_s=probe.last_id_s - probe.first_id_s,
                streams=1,
            )
        return tuple(probe.ids)

    def _release(self, node: Node, need: Need) -> None:
        node.release(need, self._clock.monotonic_s())
        self._changed(node)

    def _failed(self, session: Session, room: Room, trial: Trial, problem: Problem) -> None:
        trial.failures += 1
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
        if trial.tally.verdict is not Verdict.OPEN:
            trial.tally = Tally(trial.tally.tolerance)
        if was_barred is not None:
            self._tell(session, None)
            self._changed(session.node)

    def _refuse(self, session: Session, room: Room, trial: Trial, reason: str) -> None:
        log.warning("node gets no paid work", extra={"node": session.node.peer, "reason": reason})
        room.barred, room.measuring = reason, False
        trial.due_s = self._clock.monotonic_s() + AGAIN_S
        trial.tally = Tally(trial.tally.tolerance)
        self._tell(session, reason)
        self._changed(session.node)

    def _tell(self, session: Session, reason: str | None) -> None:
        """Its operator reads why it earns nothing, or that it does again."""
        session.send(Standing(paid_work=reason is None, reason=reason))

    def _own_session(self, digest: str) -> Session | None:
        for member in self._registry.members():
            node = member.node
            if node.peer in self._own and node.state == "ready" and digest in node.rooms:
                return member if isinstance(member, Session) else None
        return None

    def _room_tokens(self, room: Room, digest: str) -> int:
        """Tokens of the largest probe that both engines can hold."""
        own = self._own_session(digest)
        limit = room.largest_tokens
        return limit if own is None else min(limit, own.node.rooms[digest].largest_tokens)

    async def _prompt(self, model: Model, sentences: int) -> tuple[int, ...]:
        words = [WORDS[byte % len(WORDS)] for byte in self._entropy(4 * sentences)]
        lines = [
            f"The {a} stood by the {b}, and nobody moved the {c} from the {d}."
            for a, b, c, d in zip(*[iter(words)] * 4, strict=True)
        ]
        text = " ".join([*lines, "Continue this story in your own words."])
        request = mint("req", self._clock.now_ms(), self._entropy(10))
        messages = (Message(role="user", content=text),)
        return await self._tokeniser.prepare(
            model,
            Ask(request=request, dialect="chat", model=model.card.id, messages=messages),
            PROBE_LINE,
        )

    def _job(self, digest: str, prompt_ids: tuple[int, ...], output_ids: tuple[int, ...]) -> Job:
        request = mint("req", self._clock.now_ms(), self._entropy(10))
        return Job(
            job=kin("job", request),
            attempt=1,
            digest=digest,
            cache_scope=self._entropy(16).hex(),
            prompt_ids=prompt_ids,
            output_ids=output_ids,
            params=SamplerParams(temperature=0.0),
            seed=int.from_bytes(self._entropy(8), "big"),
            max_tokens=PROBE_IDS,
            opening=self._entropy(32),
        )


def _late() -> Problem:
    return Problem(ProblemCode.DEADLINE_EXCEEDED, f"no answer within {DEADLINE_S:.0f} s")
