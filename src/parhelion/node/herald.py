"""The herald: tells a coordinator of this node while it loads, so that it is seen joining.

It is for who looks at the pool, and decides nothing: whatever goes wrong with it is noted, and the
loading goes on. A coordinator of an older kind ends the session with its welcome, and that is that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable

from parhelion.hosts import backoff_s
from parhelion.identity import NodeKey
from parhelion.link import (
    Address,
    Alive,
    Bye,
    Carrier,
    FromCoordinator,
    Heartbeat,
    LinkBroken,
    Loading,
    Stay,
)
from parhelion.node.agent import Dial
from parhelion.node.session import SILENT_BEATS, knock, pace_s
from parhelion.words import Clock, LoadPhase, Problem, ProblemCode

AGAIN_LIMIT_S = 30.0
"""Between two tries to be seen; nobody waits for it."""

TELL_EVERY_S = 0.5
"""A percentage changes a hundred times in a second; the pool's pages look twice in one."""

Progress = tuple[LoadPhase | None, int | None]

log = logging.getLogger("parhelion.node")


class Herald:
    """One node's, from its first knock until it registers or gives up; `run` it as a task."""

    def __init__(
        self,
        key: NodeKey,
        name: str,
        version: str,
        *,
        clock: Clock,
        dial: Dial,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._key = key
        self._name = name
        self._version = version
        self._clock = clock
        self._dial = dial
        self._jitter = jitter
        self._now: Progress = (None, None)
        self._last = Bye(code=ProblemCode.DRAINING, message="")
        self._was_kept = False

    def tell(self, phase: LoadPhase, percent: int | None = None) -> None:
        """How far the node is now."""
        self._now = phase, percent

    def fail(self, code: ProblemCode) -> None:
        """The node will not come: what its last word will be when `run` is cancelled."""
        self._last = Bye(code=code, message="")

    async def run(self, address: Address) -> None:
        """Stay at the coordinator until cancelled, or until it lets nobody stay.

        One that is away is looked for again, and so is one that was lost.
        """
        failures = 0
        while True:
            try:
                cause = await self._stay(address)
            except LinkBroken as broken:
                cause = broken.problem()
            except Problem as problem:
                cause = problem
            if not self._is_worth_more(cause):
                log.debug("nobody is told of this node", extra={"cause": cause.message})
                return
            failures += 1
            await asyncio.sleep(min(AGAIN_LIMIT_S, backoff_s(failures, self._jitter())))

    def _is_worth_more(self, cause: Problem) -> bool:
        """Whether to try again: not where nothing of this kind is known, nor where it is refused.

        The registration asks again, and tells a person.
        """
        if self._was_kept:
            return cause.code in (ProblemCode.DRAINING, ProblemCode.LINK_BROKEN)
        return cause.code is ProblemCode.LINK_BROKEN

    async def _stay(self, address: Address) -> Problem:
        """One session: why it ended, by the other side's word."""
        carrier = await self._dial(address, self._key)
        last = Bye(code=ProblemCode.LINK_BROKEN, message="the herald failed")
        try:
            phase, percent = self._now
            stay = Stay(name=self._name, version=self._version, phase=phase, percent=percent)
            answer = await knock(carrier, address.invite, stay)
            if isinstance(answer, Bye):
                return _told(answer)
            return await self._attend(carrier, pace_s(answer.heartbeat_s), (phase, percent))
        except asyncio.CancelledError:
            last = self._last
            raise
        finally:
            # Also after its own end, which is harmless; bounded by the carrier.
            await carrier.close(last)

    async def _attend(
        self, carrier: Carrier[FromCoordinator], beat_s: float, told: Progress
    ) -> Problem:
        beating = asyncio.create_task(self._beat(carrier, beat_s, told), name="herald-heartbeat")
        try:
            while True:
                async with asyncio.timeout(SILENT_BEATS * beat_s):
                    message = await carrier.receive()
                if isinstance(message, Bye):
                    return _told(message)
                self._was_kept = self._was_kept or isinstance(message, Alive)
        except TimeoutError:
            cause = f"silence: nothing from the coordinator for {SILENT_BEATS * beat_s:g} s"
            return Problem(ProblemCode.LINK_BROKEN, cause)
        finally:
            beating.cancel()
            await asyncio.wait([beating])

    async def _beat(self, carrier: Carrier[FromCoordinator], beat_s: float, told: Progress) -> None:
        """Heartbeats, and what is news since the knock told of `told`.

        It ends with the link, which `_attend` notices.
        """
        beat_at_s = self._clock.monotonic_s()
        with contextlib.suppress(LinkBroken):
            while True:
                if self._clock.monotonic_s() >= beat_at_s:
                    beat_at_s = self._clock.monotonic_s() + beat_s
                    beat = Heartbeat(sent_at_ms=self._clock.now_ms(), slots_busy=0, engine="")
                    await carrier.send(beat)
                phase, percent = self._now
                # Not before it is known that this coordinator knows of such news.
                if self._was_kept and phase is not None and told != self._now:
                    told = self._now
                    await carrier.send(Loading(phase=phase, percent=percent))
                await asyncio.sleep(min(beat_s, TELL_EVERY_S))


def _told(bye: Bye) -> Problem:
    """Why the coordinator ended it, in one of our codes: it may say any word."""
    try:
        return Problem(ProblemCode(bye.code), bye.message, hint=bye.hint)
    except ValueError:
        return Problem(ProblemCode.LINK_REFUSED, bye.message)
