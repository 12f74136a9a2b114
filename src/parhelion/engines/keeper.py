"""Keeps a child process that holds a model: starts it, watches it, brings it back when it fails.

What it serves, and who waits for it, is the business of the classes built on this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import msgspec

from parhelion.engines.protocol import EngineEvent
from parhelion.engines.steps import Liveness
from parhelion.hosts import Child, ChildGone, Pulse, backoff_s
from parhelion.words import Problem, ProblemCode

LOAD_DEADLINE_S = 600.0
"""Tens of gigabytes from a slow disk; after that a start has failed."""

READY_WAIT_S = 20.0
"""How long a job waits for a host that is restarting before it is given up."""

WATCH_S = 0.5
"""How often silence is measured; the shortest silence that counts is 6 s."""

CHILD_ENV = {"GOMP_SPINCOUNT": "1000", "GGML_NO_BACKTRACE": "1"}
"""No long spinning beside busy neighbours; no debugger forked on an abort."""

log = logging.getLogger("parhelion.engines")


class Keeper(ABC):
    """The parent's side of one host process; `ping` is asked of it while it is idle."""

    module: ClassVar[str]
    """What the child runs; a bench has another, to compare builds."""

    name: ClassVar[str] = "engine"

    def __init__(
        self,
        on_event: Callable[[EngineEvent], None],
        decoder: msgspec.msgpack.Decoder[Any],
        ping: msgspec.Struct,
    ) -> None:
        self._on_event = on_event
        self._decoder = decoder
        self._ping = ping
        self._child: Child | None = None
        self._ready = asyncio.Event()
        self._gone: asyncio.Event = asyncio.Event()
        self._liveness = Liveness()
        self._pulse = Pulse()
        self._last_words = ""
        self._hung = ""
        self._failures = 0
        self._keeper: asyncio.Task[None] | None = None

    @abstractmethod
    def _arguments(self) -> tuple[str, ...]:
        """Of the child's command line."""

    @abstractmethod
    def _take(self, message: Any) -> None:
        """The host said this."""

    @abstractmethod
    def _is_busy(self) -> bool:
        """The host owes progress, not only signs of life."""

    @abstractmethod
    def _fail_waiting(self, problem: Problem) -> None:
        """Whoever waits for this host is told."""

    async def _begin(self) -> Self:
        """Load the model in a new host; Problem ENGINE_FAILED with its last words if it cannot."""
        try:
            await self._launch()
        except BaseException:
            await self.stop()
            raise
        self._keeper = asyncio.create_task(self._keep(), name=f"{self.name}-keeper")
        self._on_event(EngineEvent(kind="ready", reason="the model is loaded"))
        return self

    @property
    def pid(self) -> int:
        """The child's process id; 0 while there is none."""
        return self._child.pid if self._child is not None else 0

    async def stop(self) -> None:
        """End the host; jobs in flight fail with ENGINE_FAILED."""
        if self._keeper is not None:
            self._keeper.cancel()
            # Not awaited by itself: however it ends, the child is ended too.
            await asyncio.wait([self._keeper])
        if self._child is not None:
            await self._child.stop()

    # --- what the host says -------------------------------------------------------------------

    def _on_frame(self, body: bytes) -> None:
        message = self._decoder.decode(body)
        self._liveness.heard(time.monotonic())
        self._pulse.heard()
        self._take(message)

    def _on_exit(self, gone: ChildGone) -> None:
        self._last_words = gone.last_words.splitlines()[-1] if gone.last_words else ""
        # Killed for standing still is no crash: nothing says that a job brought it about.
        code = ProblemCode.ENGINE_FAILED if self._hung else ProblemCode.ENGINE_CRASHED
        self._fail_all(code, f"the engine host ended with {gone.returncode}")
        self._gone.set()

    def _fail_all(self, code: ProblemCode, message: str) -> None:
        """Whoever waits for this host is told; whoever comes now waits for the next one."""
        self._ready.clear()
        hint = "the node restarts it; `parhelion doctor` tests the build"
        self._fail_waiting(Problem(code, message, hint=hint))

    # --- keeping it alive ---------------------------------------------------------------------

    async def _launch(self) -> None:
        self._gone.clear()
        self._child = await Child.start(
            self.name,
            self.module,
            self._arguments(),
            on_frame=self._on_frame,
            on_exit=self._on_exit,
            env=CHILD_ENV,
        )
        waits = [asyncio.ensure_future(event.wait()) for event in (self._ready, self._gone)]
        try:
            await asyncio.wait(waits, timeout=LOAD_DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not self._ready.is_set():
            self._child.kill()
            # It tells of its end in seconds, come what may; told later, it would be the next one's.
            await self._gone.wait()
            raise Problem(
                ProblemCode.ENGINE_FAILED,
                f"the engine host did not start: {self._last_words or 'it said nothing'}",
                hint="`parhelion doctor` tests the build and the model file",
            )

    async def _keep(self) -> None:
        """Watch the host, and bring it back whenever it ends."""
        while True:
            await self._bring_back(await self._watch())
            self._tell("ready", "the model is loaded again")

    async def _bring_back(self, reason: str) -> None:
        while True:
            self._failures += 1
            wait_s = backoff_s(self._failures - 1, random.random())
            self._tell("restarting", f"{reason}; next try in {wait_s:.1f} s")
            await asyncio.sleep(wait_s)
            try:
                return await self._launch()
            except Problem as problem:
                reason = problem.message
            except Exception as error:
                # A machine without memory or descriptors gets them back; a keeper that ended does
                # not come back, and the node would look well without its engine.
                log.exception("the engine host cannot be started")
                reason = f"it cannot be started: {error}"

    async def _watch(self) -> str:
        """Until the host has ended; one that is silent while it owes something is killed."""
        self._hung = ""
        while not self._gone.is_set():
            self._look(time.monotonic())
            with contextlib.suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it swallows a cancellation that comes together
                # with the event, and a keeper that cannot be cancelled keeps for ever.
                async with asyncio.timeout(WATCH_S):
                    await self._gone.wait()
        self._liveness, self._pulse = Liveness(), Pulse()
        if not self._hung:
            self._tell("crashed", self._last_words or "the host process ended")
        return self._hung or "the host process ended"

    def _look(self, now_s: float) -> None:
        """Ask an idle host for a sign of life; end one that stands still, at work or idle."""
        if self._hung:
            return
        busy = self._is_busy()
        limit_s = self._liveness.limit_s()
        silent_s = self._liveness.look(now_s, busy)
        # A job whose reader left may keep it busy for one more of its usual steps.
        need = self._pulse.look(now_s, not busy, limit_s)
        if silent_s > limit_s:
            self._end_hung(f"no progress for {silent_s:.1f} s")
        elif need == "dead":
            self._end_hung(f"idle, and no sign of life for {self._pulse.silent_s:.1f} s")
        elif need == "ask":
            self._send(self._ping)

    def _end_hung(self, reason: str) -> None:
        self._hung = reason
        self._tell("hung", reason)
        self._fail_all(ProblemCode.ENGINE_FAILED, f"the engine host was ended: {reason}")
        if self._child is not None:
            self._child.kill()

    def _tell(self, kind: str, reason: str) -> None:
        log.warning("%s %s", self.name, kind, extra={"reason": reason, "pid": self.pid})
        self._on_event(msgspec.convert({"kind": kind, "reason": reason}, EngineEvent))

    async def _await_ready(self) -> None:
        try:
            async with asyncio.timeout(READY_WAIT_S):
                # It may have ended again by the time that a waiter is woken.
                while not self._ready.is_set():
                    await self._ready.wait()
        except TimeoutError:
            raise Problem(ProblemCode.ENGINE_FAILED, "the engine is restarting") from None

    def _ask(self, message: msgspec.Struct) -> None:
        """Send what is answered; Problem when the host has just died, and nobody would."""
        assert self._child is not None
        try:
            self._child.send(msgspec.msgpack.encode(message))
        except ChildGone as gone:
            # No crash of this job's: the host has never seen it.
            code = ProblemCode.ENGINE_FAILED
            raise Problem(code, f"the engine host had ended with {gone.returncode}") from gone

    def _send(self, message: msgspec.Struct) -> None:
        assert self._child is not None
        # Of a host that has just died, its exit tells everyone who waits.
        with contextlib.suppress(ChildGone):
            self._child.send(msgspec.msgpack.encode(message))
