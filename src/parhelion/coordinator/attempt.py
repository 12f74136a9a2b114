"""One attempt at a job on one node: checks what comes, cuts it, and gets its segment signed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from parhelion.coordinator.breaker import Record
from parhelion.coordinator.isolate import CLEARED_IDS, Claim
from parhelion.coordinator.pace import Pace
from parhelion.coordinator.progress import Mark
from parhelion.coordinator.room import Room
from parhelion.coordinator.session import Misbehaved, Session, Stretch
from parhelion.ledger import TREASURY
from parhelion.link import Cut, Open
from parhelion.proof import segment_holds
from parhelion.words import (
    Job,
    Placement,
    Problem,
    ProblemCode,
    Segment,
    StageSegment,
    Step,
)

if TYPE_CHECKING:
    from parhelion.coordinator.relay import Relay

log = logging.getLogger("parhelion.coordinator")

SIGNATURE_WAIT_S = 2.0
"""What a node may take to sign after the end (DESIGN 9); then the receipt says that it did not."""

NATURAL_ENDS = ("eog", "length")

NOT_NOW = (ProblemCode.DRAINING, ProblemCode.OVERLOADED)
"""What a healthy node says of a job that it has no place for: another place is looked for."""

HANDED_BACK = (*NOT_NOW, ProblemCode.CANCELLED)
"""What a healthy node says of a job that it will not run, or not to its end."""

_CODES = frozenset(code.value for code in ProblemCode)


class Attempt:
    """A job open at a node. `over` resolves once: None when it was cut, a Problem when it is lost.

    After `over` the slot is still the node's until it has stopped: `signature` resolves then (to
    the segment, or to the reason why there is none), and frees it.
    """

    __slots__ = (
        "_clear",
        "_free",
        "_opened_s",
        "_pace",
        "_timer",
        "backend",
        "claim",
        "closed",
        "ended_at_ms",
        "handed_back",
        "head",
        "job",
        "key",
        "late_ids",
        "number",
        "over",
        "parts",
        "placement",
        "prefilled",
        "relay",
        "session",
        "signature",
        "start",
        "started_at_ms",
        "to",
    )

    def __init__(
        self,
        relay: Relay,
        job: Job,
        placement: Placement,
        session: Session,
        free: Callable[[], None],
        clear: Callable[[], None] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.relay = relay
        self.job = job
        self.number = job.attempt
        self.key = job.job, job.attempt
        self.session = session
        self.placement = placement
        self.backend = session.node.card.backend
        self.start = self.to = len(relay.ids)
        self.started_at_ms = self.ended_at_ms = relay.clock.now_ms()
        self.prefilled = self.late_ids = 0
        self.closed = self.handed_back = False
        self.head = ""
        # Kept here, because an answer may go on elsewhere for long after this attempt is over.
        self.parts: dict[str, StageSegment] = {}
        # What its node said of a crash; evidence, not a fact.
        self.claim: Claim | None = None
        self.over: asyncio.Future[Problem | None] = loop.create_future()
        self.signature: asyncio.Future[Segment | str] = loop.create_future()
        self._free: Callable[[], None] | None = free
        # Of a job alone at its node: to be called once it is past the place of the crash.
        self._clear = clear
        self._timer: asyncio.TimerHandle | None = None
        self._opened_s = relay.clock.monotonic_s()
        prompt = len(job.prompt_ids) + self.start
        self._pace = Pace(
            session.node, job.digest, prompt, relay.expected_cached, self.start, self._opened_s
        )

    # --- what we do ---------------------------------------------------------------------------

    def open(self) -> None:
        """Send the job to the node."""
        self.session.attempts[self.key] = self
        try:
            self.session.send(Open(job=self.job))
        except Problem as problem:
            self._close()
            self._settle("the job was never sent")
            self._resolve(problem)

    def leave(self) -> None:
        """The client left: cut here."""
        if not self.closed:
            self._cut()

    # --- how far it is ------------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """The model's artefact."""
        return self.job.digest

    @property
    def operator(self) -> str:
        """The account that is paid for what this attempt delivers, or the crew of a pipeline."""
        return TREASURY if self.fallback else self.session.operators

    @property
    def fallback(self) -> bool:
        """Whether it runs on the coordinator's own engine."""
        return self.session.node.fallback

    @property
    def alone(self) -> bool:
        """Whether it has its node to itself, as a suspect that nothing has cleared yet."""
        return self._clear is not None

    @property
    def began(self) -> bool:
        """Whether its first id is there."""
        return len(self.relay.ids) > self.start

    @property
    def mark(self) -> Mark | None:
        """What changes with every step that moves the job; None once it is over.

        A resumed job prefills its earlier output too, and says so in `prefilled`.
        """
        return None if self.closed else (self.number, self.prefilled, len(self.relay.ids))

    @property
    def output(self) -> Sequence[int]:
        """All ids of the output so far, those of earlier attempts too."""
        return self.relay.ids

    @property
    def stretch(self) -> Stretch:
        """What it delivered, once it is over."""
        return Stretch(self.start, self.to, self.head, self.relay.hidden.opening_hash)

    # --- what the node says -------------------------------------------------------------------

    def take(self, step: Step) -> None:
        """A step of the engine; Misbehaved for ids that cannot be. After the cut: nothing."""
        if self.closed:
            self._late(len(step.ids))
            return
        relay = self.relay
        check_prefilled(step, self.job)
        if step.prefilled or step.cached:
            relay.progress(step.cached, seen=self.session.node.own)
        cut = False
        if step.ids:
            self._check(step)
            cut = relay.accept(step.ids)
            # Only what was accepted is speed: anything else a node could make up.
            took = len(relay.ids) - step.start
            self._pace.made(took, relay.last_id_s)
            self.late_ids = len(step.ids) - took
        elif step.prefilled > self.prefilled:
            self.prefilled = step.prefilled
        if cut:
            if step.finish in NATURAL_ENDS and len(relay.ids) == step.start + len(step.ids):
                self._finish()
            else:
                self._cut()
        elif step.finish in NATURAL_ENDS:
            raise Misbehaved(f"an answer ended as {step.finish} before its end")
        elif step.finish is not None:
            self.fail(step.finish, "the engine gave up")
        elif self._clear is not None and len(relay.ids) >= self.start + CLEARED_IDS:
            # Not of an answer that ended with this step: who waits may have it moved.
            clear, self._clear = self._clear, None
            clear()

    def fail(self, code: str, message: str) -> None:
        """The node cannot go on; ids before count, and it still signs for them."""
        if self.closed:
            return
        self._close()
        self.handed_back = code in NOT_NOW
        # Before the slot is free: the next job must not go by what this one has just refuted.
        problem = self._judge(code, message)
        self._release()
        if self.to == self.start:
            self._settle(f"the node failed the job: {code}")
        self._resolve(problem)

    def signed(self, segment: Segment) -> None:
        """The node's signature; one for another index is of before the cut and not the one."""
        if not self.closed or segment.to != self.to:
            return
        fault = self._fault(segment)
        if fault is not None:
            self._settle(fault)
            raise Misbehaved(fault)
        self._settle(segment)

    def stall(self, problem: Problem) -> None:
        """The node does not go on with it: it is told to stop, and the job is lost to it."""
        if self.closed:
            return
        self._close()
        self._blame()
        self.session.send(Cut(job=self.job.job, attempt=self.number, n=self.to))
        self._resolve(problem)

    def move(self) -> None:
        """The node is wanted for something else: the job goes on at another one."""
        if self.closed:
            return
        self._close()
        self.session.send(Cut(job=self.job.job, attempt=self.number, n=self.to))
        self._resolve(_busy(ProblemCode.OVERLOADED, "it is kept for another job"))

    def lost(self, problem: Problem) -> None:
        """The node's session ended."""
        was_closed = self.closed
        self._close()
        if not self.session.may_sign:
            self._settle("the node was lost")
        if not was_closed:
            if not self.session.was_planned:
                self._blame()
            self._resolve(problem)

    # --- the segment --------------------------------------------------------------------------

    def segment(self, signature: Segment | str) -> Segment:
        """The node's signed segment, or ours in its place with the reason why there is none."""
        parts = self.session.parts(self)
        if isinstance(signature, Segment):
            if parts is msgspec.UNSET:
                return signature
            return msgspec.structs.replace(signature, stages=parts)
        return Segment(
            node=self.placement.pipeline[-1],
            job=self.job.job,
            attempt=self.number,
            opening_hash=self.relay.hidden.opening_hash,
            artefact=self.job.digest,
            backend=self.backend,
            start=self.start,
            to=self.to,
            head=self.head,
            ask=self.relay.hidden.ask,
            started_at_ms=self.started_at_ms,
            ended_at_ms=max(self.started_at_ms, self.ended_at_ms),
            signature=None,
            reason=signature,
            stages=parts,
        )

    # --- inside -------------------------------------------------------------------------------

    def _check(self, step: Step) -> None:
        ids, have = step.ids, len(self.relay.ids)
        if step.start != have:
            raise Misbehaved(f"ids from {step.start} on where {have} was next")
        if have + len(ids) > self.job.max_tokens:
            raise Misbehaved(f"more than max_tokens {self.job.max_tokens} ids")
        if min(ids) < 0 or max(ids) >= self.relay.n_vocab:
            raise Misbehaved("an id outside the vocabulary")

    def _late(self, count: int) -> None:
        """Ids after the cut are nobody's; an honest engine makes no more than it was asked for."""
        self.late_ids += count
        if self.to + self.late_ids > self.job.max_tokens:
            raise Misbehaved(f"more than max_tokens {self.job.max_tokens} ids, after the cut")

    def _finish(self) -> None:
        """The node came to the end by itself: its slot is free already."""
        self._close()
        self._served()
        self._release()

    def _cut(self) -> None:
        self._close()
        self.session.send(Cut(job=self.job.job, attempt=self.number, n=self.to))
        if not self.over.done():
            self._served()

    def _served(self) -> None:
        self.session.note_served()
        if self.relay.meter.finish is not None:
            # A whole answer: whatever stood still at this engine before, it works.
            self._room.recover()
            self._record.succeeded(self.relay.clock.monotonic_s())
        self._resolve(None)

    @property
    def _room(self) -> Room:
        return self.session.node.rooms[self.job.digest]

    @property
    def _record(self) -> Record:
        return self._room.record

    def _judge(self, code: str, message: str) -> Problem:
        node, now_s = self.session.node, self.relay.clock.monotonic_s()
        if self.handed_back:
            # Who has said that it leaves is right to; anybody else had a free slot, as we see it.
            if node.leaving is None and self._room.hand_back(now_s):
                self._blame()
            return _busy(code, message)
        problem = _problem(code, message)
        if problem.code is ProblemCode.ENGINE_CRASHED:
            node.history.failed += 1
            record = self._record
            crash = record.crashed(self._opened_s, now_s)
            self.claim = Claim(node, record, crash)
        else:
            self._blame()
        return problem

    def _blame(self) -> None:
        self.session.node.history.failed += 1
        self._record.failed(self._opened_s, self.relay.clock.monotonic_s())

    def _resolve(self, problem: Problem | None) -> None:
        # Who waited may have been cancelled, and the future with it (the process stops).
        if not self.over.done():
            self.over.set_result(problem)

    def _close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._pace.close(self.relay.last_id_s, self.relay.cached_tokens)
        self.to = len(self.relay.ids)
        self.head = self.relay.head()
        self.ended_at_ms = self.relay.clock.now_ms()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(
            SIGNATURE_WAIT_S, self._settle, f"no signature within {SIGNATURE_WAIT_S:.0f} s"
        )

    def _settle(self, signature: Segment | str) -> None:
        if self.signature.done():
            return
        self.signature.set_result(signature)
        if self._timer is not None:
            self._timer.cancel()
        self.session.attempts.pop(self.key, None)
        self._release()

    def _release(self) -> None:
        if self._free is not None:
            free, self._free = self._free, None
            if not self.handed_back:
                self._room.full_until_s = None
            free()

    def _fault(self, segment: Segment) -> str | None:
        """What is wrong with a signed segment, or None."""
        due = self.segment("")
        if (segment.node, segment.artefact) != (due.node, due.artefact):
            return "the segment is of another node or model"
        if (segment.opening_hash, segment.ask) != (due.opening_hash, due.ask):
            return "the segment is of another request"
        if segment.start != due.start or segment.head != due.head:
            return "the segment's chain is not that of the ids it sent"
        if not 0 <= segment.started_at_ms <= segment.ended_at_ms:
            return "the segment ends before it starts"
        if len(segment.backend) > 200 or segment.reason is not None:
            return "the segment is malformed"
        return None if segment_holds(segment) else "the segment's signature does not hold"


def check_prefilled(step: Step, job: Job) -> None:
    """Misbehaved for a prefill of more ids than the job came with."""
    given = len(job.prompt_ids) + len(job.output_ids)
    if step.prefilled > given:
        raise Misbehaved(f"{step.prefilled} ids prefilled of {given}")


def _busy(code: str, message: str) -> Problem:
    return Problem(
        ProblemCode.OVERLOADED,
        f"the node had no place for the job ({code}): {message}",
        hint="all nodes are busy; retry later",
        retry_after_s=1,
    )


def _problem(code: str, message: str) -> Problem:
    """The problem that a node's word for it becomes: never the client's fault.

    We have checked the request against the model's own card; a node that says otherwise is at odds
    with it, and another one may not be.
    """
    known = ProblemCode(code) if code in _CODES else ProblemCode.ENGINE_FAILED
    hint = "retry; what was delivered is billed, the rest is not"
    if known in HANDED_BACK:
        text = f"the node handed the job back ({known}): {message}"
        return Problem(ProblemCode.NODE_LOST, text, hint=hint, retry_after_s=1)
    if known is ProblemCode.ENGINE_CRASHED:
        return Problem(known, f"the node's engine crashed: {message}", hint=hint, retry_after_s=1)
    text = f"the node's engine gave up ({known}): {message}"
    return Problem(ProblemCode.ENGINE_FAILED, text, hint=hint, retry_after_s=1)
