"""What the console shows of the pool: made at most once a second for all who look, and a chart.

While nobody looks, nothing is made but the chart's points.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from parhelion.coordinator.readers import STRANGER, Readers, Seat
from parhelion.coordinator.relay import Relay
from parhelion.coordinator.traffic import STEP_S, Point, Totals, Traffic, Window
from parhelion.coordinator.views import ConsoleView, ModelNodes, StreamView
from parhelion.identity import Caller
from parhelion.words import Clock

log = logging.getLogger("parhelion.coordinator")

LOOK_S = 1.0
"""How often the figures are made, however many read them."""

STREAMS_LIMIT = 64
"""Answers that are shown one by one, the oldest: what a page can show, and a snapshot of 10 kB."""

SPEED_LEAST_S = 0.5
"""An answer that runs for less has no speed yet: its first ids come in one frame."""

SHORT_CHARS = 8


@dataclass(frozen=True, slots=True)
class Sights:
    """Where the console looks: each is asked when it is shown, and holds no state of its own."""

    answers: Callable[[], Sequence[Relay]]
    """Answers between their hold and their end."""
    waiting: Callable[[], int]
    models: Callable[[], tuple[ModelNodes, ...]]
    nodes_tokens_per_s: Callable[[], float | None]
    name_of: Callable[[str], str]


class ConsoleReader(Seat):
    """One reader of the snapshots: `async for snapshot in reader`, inside `with reader`.

    It holds no snapshot: one that is slow gets the newest when it is ready, and never an old one.
    """

    def __init__(self, console: Console, caller: Caller) -> None:
        super().__init__(caller)
        self._console = console
        self._had = 0

    def __enter__(self) -> ConsoleReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._console.leave(self)

    def __aiter__(self) -> ConsoleReader:
        return self

    async def __anext__(self) -> bytes:
        """The next snapshot, when it is made; the end when the coordinator stops."""
        console = self._console
        while not console.closed:
            if console.number > self._had:
                self._had = console.number
                return console.shown
            self.woken.clear()
            await self.woken.wait()
        raise StopAsyncIteration


class Console:
    """Snapshots as JSON, numbered, and the points of the last hour."""

    def __init__(self, traffic: Traffic, sights: Sights, clock: Clock) -> None:
        self.number = 0
        self.shown = b""
        """The snapshot of that number, as JSON."""
        self.closed = False
        self._traffic = traffic
        self._sights = sights
        self._clock = clock
        self._window = Window()
        self._made_s = float("-inf")
        self._readers = Readers("the console", "GET /v1/console")
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Add a point every STEP_S until cancelled."""
        while True:
            try:
                self.step()
            except Exception:
                # A point that is missing is a gap in a chart.
                log.exception("no point was added")
            await asyncio.sleep(STEP_S)

    def step(self) -> None:
        """Add the point of this moment; the first time begins to measure."""
        now_s, answers = self._clock.monotonic_s(), self._sights.answers()
        before_s = self._window.stepped_s
        waits = () if before_s is None else self._waits(before_s, answers)
        self._window.step(
            now_s,
            self._clock.now_ms(),
            self._totals(answers),
            waits,
            queue=self._sights.waiting(),
            running=sum(map(_runs, answers)),
        )

    def points(self, since_ms: int) -> tuple[Point, ...]:
        """The points after that moment, the oldest first."""
        return tuple(point for point in self._window.points if point.at_ms > since_ms)

    def snapshot(self) -> bytes:
        """The pool as it is now, or was less than LOOK_S ago, as JSON."""
        if self._clock.monotonic_s() - self._made_s >= LOOK_S:
            self._make()
        return self.shown

    def follow(self, caller: Caller = STRANGER) -> ConsoleReader:
        """A reader of this snapshot and of each that is made from now on.

        Problem OVERLOADED when too many read already, in all or of this caller.
        """
        self._readers.check(caller)
        self.snapshot()
        reader = ConsoleReader(self, caller)
        self._readers.add(reader)
        self._wind()
        return reader

    def leave(self, reader: ConsoleReader) -> None:
        """It reads no more."""
        self._readers.discard(reader)

    def close(self) -> None:
        """End all readers: the coordinator stops."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._readers.wake()

    def _wind(self, wait_s: float | None = None) -> None:
        if self._timer is None and self._readers and not self.closed:
            due_s = self._made_s + LOOK_S - self._clock.monotonic_s()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, due_s) if wait_s is None else wait_s, self._look)

    def _look(self) -> None:
        """Make the next snapshot for who reads; the clock stops with the last of them."""
        self._timer = None
        if not self._readers:
            return
        try:
            # Somebody may just have asked for one: then those who follow were woken by that.
            self.snapshot()
        except Exception:
            log.exception("no snapshot was made")
            self._wind(LOOK_S)
        self._wind()

    def _make(self) -> None:
        now_s = self._clock.monotonic_s()
        self.shown = msgspec.json.encode(self._view(now_s))
        self._made_s = now_s
        self.number += 1
        self._readers.wake()

    def _view(self, now_s: float) -> ConsoleView:
        sights, answers = self._sights, self._sights.answers()
        since_s = self._window.since_s(now_s)
        waits = () if since_s is None else self._waits(since_s, answers)
        figures = self._window.figures(now_s, self._totals(answers), waits)
        running = [relay for relay in answers if _runs(relay)]
        few = itertools.islice(running, STREAMS_LIMIT)
        return ConsoleView(
            at_ms=self._clock.now_ms(),
            models=sights.models(),
            streaming=tuple(_stream(relay, now_s, sights.name_of) for relay in few),
            requests_per_s=figures.requests_per_s,
            tokens_per_s=figures.tokens_per_s,
            ttft_p50_s=figures.ttft_p50_s,
            ttft_p95_s=figures.ttft_p95_s,
            queue=sights.waiting(),
            running=len(running),
            nodes_tokens_per_s=sights.nodes_tokens_per_s(),
            window_s=round(figures.window_s, 3),
        )

    def _totals(self, answers: Sequence[Relay]) -> Totals:
        """What ended, and what runs: an answer is in one of the two (`Service.answers`)."""
        made = sum(relay.meter.completion_tokens for relay in answers)
        return Totals(self._traffic.requests, self._traffic.tokens + made)

    def _waits(self, since_s: float, answers: Sequence[Relay]) -> list[float]:
        waits = self._traffic.waits_since(since_s)
        for relay in answers:
            if relay.first_id_s is not None and relay.first_id_s > since_s:
                waits.append(relay.first_id_s - relay.order.started_s)
        return waits


def short(request: str) -> str:
    """What an answer is called where anyone may look: its id would open a guest's receipt."""
    return hashlib.sha256(request.encode()).hexdigest()[:SHORT_CHARS]


def _runs(relay: Relay) -> bool:
    """Whether it is at a node, or was and goes on at another."""
    return bool(relay.attempts) and not relay.settling


def _stream(relay: Relay, now_s: float, name_of: Callable[[str], str]) -> StreamView:
    last, tokens = relay.attempts[-1], relay.meter.completion_tokens
    began_s = relay.first_id_s
    speed = None
    if began_s is not None and tokens > 1 and now_s - began_s >= SPEED_LEAST_S:
        speed = (tokens - 1) / (now_s - began_s)
    # Between two nodes it is at none.
    peers = () if last.over.done() else last.placement.pipeline
    return StreamView(
        request=short(relay.order.ask.request),
        model=relay.order.quote.model.id,
        nodes=tuple(name_of(peer) for peer in peers),
        tokens=tokens,
        tokens_per_s=speed,
        age_s=round(now_s - relay.order.started_s, 3),
    )
