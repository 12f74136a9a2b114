"""A running answer: the ids it accepted, the text that may go out, and how it ended; no I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from parhelion.coordinator.attempt import Attempt
from parhelion.coordinator.meter import Meter, Pieces
from parhelion.proof import Hidden
from parhelion.words import (
    Ask,
    Chunk,
    Clock,
    Grant,
    Hold,
    Job,
    Problem,
    ProblemCode,
    Quote,
)

CHAIN_BLOCK_IDS = 256
"""The id chain grows by blocks: cheaper than id by id, and no long pause at the end."""


class Order(NamedTuple):
    """All that is settled about a request before a node is looked for."""

    ask: Ask
    quote: Quote
    grant: Grant
    opening: bytes
    started_s: float
    address: str


@dataclass(frozen=True, slots=True)
class End:
    """How an answer ended: cut by the meter, left by the client, or lost with a problem."""

    kind: Literal["finished", "left", "lost"]
    problem: Problem | None = None


LEFT = End("left")
FINISHED = End("finished")


class Relay:
    """One request's stream between node and client.

    The node's side calls `accept`; `texts` and `ids` are the only buffer and hold at most
    `max_tokens` ids, so a slow client slows nobody. The client's side takes texts and, when
    `last` is there, the last chunk or the problem. `acknowledged` is (ids, billable tokens) whose
    bytes went out.
    """

    __slots__ = (
        "_chain",
        "_quiet",
        "_taken_counts",
        "_wake",
        "acknowledged",
        "attempts",
        "cached_tokens",
        "clock",
        "expected_cached",
        "first_id_s",
        "hidden",
        "hold",
        "ids",
        "interruption",
        "job",
        "last",
        "last_id_s",
        "leave_queue",
        "left",
        "meter",
        "n_vocab",
        "on_acknowledged",
        "order",
        "prefilled",
        "settling",
        "taken",
        "texts",
    )

    def __init__(self, order: Order, job: Job, vocabulary: Pieces, clock: Clock) -> None:
        self.order = order
        self.job = job
        self.meter = Meter(
            vocabulary, order.ask.stop, job.max_tokens, order.grant.unbilled_from or 0
        )
        self.n_vocab = len(vocabulary.pieces)
        self.clock = clock
        self.hold: Hold | None = None
        self.ids: list[int] = []
        self.texts: list[str] = []
        self.taken = 0
        self._taken_counts = self.acknowledged = (0, 0)
        self.on_acknowledged: Callable[[Relay], None] | None = None
        self.attempts: list[Attempt] = []
        self.leave_queue: Callable[[], None] | None = None
        self.interruption: Problem | None = None
        self.settling = False
        self.prefilled = False
        self.cached_tokens = 0
        # What the node of the present attempt holds of the prompt, as far as we know.
        self.expected_cached = 0
        self.left = False
        self.last: Chunk | Problem | None = None
        self.first_id_s: float | None = None
        self.last_id_s = 0.0
        self.hidden = Hidden(job)
        self._chain = self.hidden.chain()
        self._wake: asyncio.Future[None] | None = None
        # Who waits for the end alone is not woken by every text before it.
        self._quiet = False

    @property
    def nodes(self) -> tuple[str, ...]:
        """Who makes it now, in order of the route; none while it is at no node."""
        if not self.attempts:
            return ()
        last = self.attempts[-1]
        # One that is over without an id made nothing: the next place is still looked for.
        return () if last.over.done() and not last.began else last.placement.pipeline

    @property
    def who(self) -> dict[str, str | None]:
        """What a log line says of it."""
        return {
            "request": self.order.ask.request,
            "account": self.order.grant.account,
            "hold": self.hold.id if self.hold else None,
        }

    def check_wanted(self) -> None:
        """Problem when the client left, or we stop."""
        if self.interruption is not None:
            raise self.interruption
        if self.left:
            raise Problem(ProblemCode.CANCELLED, "the client left")

    # --- the node's side ----------------------------------------------------------------------

    def accept(self, ids: tuple[int, ...]) -> bool:
        """Take the node's next ids; True when the answer is cut here."""
        meter = self.meter
        before = meter.accepted
        text = meter.accept(ids)
        took = meter.accepted - before
        self.ids.extend(ids if took == len(ids) else ids[:took])
        self.last_id_s = self.clock.monotonic_s()
        if self.first_id_s is None:
            self.first_id_s = self.last_id_s
        if len(self.ids) - self._chain.length >= CHAIN_BLOCK_IDS:
            self.head()
        if text:
            self.texts.append(text)
            if not self._quiet:
                self.wake()
        return meter.finish is not None

    def progress(self, cached: int, seen: bool) -> None:
        """Prefill has begun, says the node.

        Where we see that ourselves (an engine of our own), a client that leaves owes the prompt
        from here on; on a stranger's word it owes nothing, and the first id is the proof.
        """
        self.prefilled = self.prefilled or seen
        if cached > self.cached_tokens:
            self.cached_tokens = min(cached, len(self.job.prompt_ids))

    def head(self) -> str:
        """The id chain's head over all accepted ids, hex."""
        self._chain.extend(self.ids[self._chain.length :])
        return self._chain.head.hex()

    # --- the client's side --------------------------------------------------------------------

    def disconnect(self) -> None:
        """The client left: the node is told to stop, what was accepted until now counts."""
        if self.last is None and not self.left:
            self.left = True
            self._stop()

    def interrupt(self, problem: Problem) -> None:
        """We cannot go on (the coordinator stops): cut here, and the client gets the problem."""
        if self.last is None and self.interruption is None:
            self.interruption = problem
            self._stop()

    def take(self) -> str:
        """All text that has not been taken yet, or "": its bytes go out now."""
        ready = len(self.texts)
        if self.taken == ready:
            return ""
        self._taken_counts = self.meter.let_out
        text = self.texts[self.taken] if ready - self.taken == 1 else "".join(self._untaken())
        self.taken = ready
        return text

    def acknowledge(self) -> None:
        """What was taken before went out: it may be journalled."""
        counts = self._taken_counts
        if counts is not self.acknowledged and self.on_acknowledged is not None:
            self.acknowledged = counts
            self.on_acknowledged(self)

    async def more(self) -> None:
        """Return when there is text to take or the end is there; one waiter at a time."""
        if self.taken < len(self.texts) or self.last is not None:
            return
        if self._wake is None or self._wake.done():
            self._wake = asyncio.get_running_loop().create_future()
        await self._wake

    async def over(self) -> Chunk | Problem:
        """What the client gets last, once it is there; nothing counts as taken by this wait."""
        self._quiet = True
        while self.last is None:
            if self._wake is None or self._wake.done():
                self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        return self.last

    def wake(self) -> None:
        """Let the waiting client's side look."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def end(self, last: Chunk | Problem) -> None:
        """The answer is settled: this is the last that the client gets."""
        if self.last is None:
            self.last = last
            self.wake()

    def flush(self) -> None:
        """Let out what the meter held back, at the end."""
        if rest := self.meter.flush():
            self.texts.append(rest)
            self.wake()

    @property
    def text(self) -> str:
        """The whole text so far."""
        return "".join(self.texts)

    def _stop(self) -> None:
        if self.leave_queue is not None:
            self.leave_queue()
        if self.attempts:
            self.attempts[-1].leave()

    def _untaken(self) -> list[str]:
        return self.texts[self.taken :]
