"""The task that tells a pool of a node while it loads, begun as soon as it can be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from parhelion import __version__
from parhelion.bootstrap.ready import Ready, SystemClock
from parhelion.identity import NodeKey
from parhelion.words import LoadPhase, ProblemCode

if TYPE_CHECKING:
    from parhelion.link import Address
    from parhelion.node import Dial, Herald

log = logging.getLogger("parhelion.bootstrap")


class Heralding:
    """One node's herald and its task, from the start of its loading until it has registered.

    What is told before it begins is told when it does.
    """

    def __init__(
        self,
        key: NodeKey,
        name: str,
        address: Address | asyncio.Future[Address],
        dial: Dial | None,
    ) -> None:
        self._key = key
        self._name = name
        self._address = address
        self._dial = dial
        self._now: tuple[LoadPhase, int | None] = ("checking", None)
        self._herald: Herald | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_over = False

    def begin(self) -> None:
        """Tell the pool from now on; the agent's room is imported already."""
        if self._is_over:
            return  # What it would tell of has failed meanwhile.
        from parhelion.link import connect
        from parhelion.node import Herald

        self._herald = Herald(
            self._key, self._name, __version__, clock=SystemClock(), dial=self._dial or connect
        )
        self._herald.tell(*self._now)
        self._task = asyncio.create_task(self._run(self._herald), name="herald")

    def tell(self, phase: LoadPhase, percent: int | None) -> None:
        """How far the node is."""
        self._now = phase, percent
        if self._herald is not None:
            self._herald.tell(phase, percent)

    def fail(self, code: ProblemCode) -> None:
        """The node cannot load: the pool is told at the end."""
        if self._herald is not None:
            self._herald.fail(code)

    def until(self, on_ready: Callable[[Ready], None]) -> Callable[[Ready], None]:
        """The same, and from then on the node speaks for itself."""

        def ready(told: Ready) -> None:
            self._cancel()
            on_ready(told)

        return ready

    async def end(self) -> None:
        """Say the last word, if there is anybody to say it to."""
        self._is_over = True
        self._cancel()
        if self._task is not None:
            # Bounded by the carrier's goodbye.
            await asyncio.wait([self._task])

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self, herald: Herald) -> None:
        try:
            where = self._address
            if isinstance(where, asyncio.Future):
                # Shielded: the node itself waits for it too.
                where = await asyncio.shield(where)
            await herald.run(where)
        except Exception:
            # It serves only the eyes: a fault of it must not keep the node from its work.
            log.exception("the pool is not told that this node loads")
