"""Times idle nodes that no probe compares: the pool's own, and all where there is no own engine.

A stranger beside an own engine is timed by its probes. Everyone else is asked one question after
joining and another whenever it has long been idle, so that a first guess at its speed is measured
and not assumed. Speed beside others, and any that changes, shows in service.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from parhelion.coordinator.asking import Asker
from parhelion.coordinator.own import OwnEngines
from parhelion.coordinator.registry import Node, Registry
from parhelion.coordinator.session import Session
from parhelion.models import Catalogue, Model
from parhelion.words import Clock, Problem

log = logging.getLogger("parhelion.coordinator")

AFTER_JOIN_S = 2.0
"""Who waited for this node goes first."""

AGAIN_S = 600.0
"""Between two questions to an idle node: a second of its work in ten minutes."""

BUSY_AGAIN_S = 60.0
"""A node at work is measured by its work; whether it is idle is looked at again after this."""

TIMED_AT_ONCE = 2
"""A thousand nodes that join are timed within ten minutes, and what runs beside notices nothing."""

SLOTS_LEAST = 4
"""Of fewer a question would take a noticeable part from users."""

SENTENCES = 6
"""Some hundred tokens: enough to time prefill."""


class Timing:
    """Asks who is due; `start_due` is called every second or so, `stop` once."""

    def __init__(
        self,
        registry: Registry,
        catalogue: Catalogue,
        asker: Asker,
        own: OwnEngines,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._catalogue = catalogue
        self._asker = asker
        self._own = own
        self._clock = clock
        self._due: dict[tuple[str, str], float] = {}
        """When, by peer and digest; who was put off stands at the end."""
        self._running: set[asyncio.Task[None]] = set()

    def meet(self, node: Node, digests: Collection[str]) -> None:
        """These models of a node are new to the pool."""
        for digest in digests:
            self._put_off((node.peer, digest), AFTER_JOIN_S)

    def forget(self, node: Node) -> None:
        """A node left."""
        for digest in node.rooms:
            self._due.pop((node.peer, digest), None)

    def start_due(self) -> None:
        """Ask idle nodes whose time has come, TIMED_AT_ONCE at a time."""
        free = TIMED_AT_ONCE - len(self._running)
        if free <= 0:
            return
        now_s = self._clock.monotonic_s()
        for key in [key for key, due_s in self._due.items() if due_s <= now_s]:
            if free <= 0:
                break
            free -= self._start(key)

    async def stop(self) -> None:
        """Give up what is under way."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    def _start(self, key: tuple[str, str]) -> bool:
        """Whether a question went out."""
        peer, digest = key
        member = self._registry.member(peer)
        model = self._catalogue.by_digest(digest)
        if not isinstance(member, Session) or model is None:
            self._put_off(key, AGAIN_S)
            return False
        if self._own.compares(digest) and peer not in self._own:
            self._put_off(key, AGAIN_S)
            return False
        if not _is_idle(member.node, digest):
            self._put_off(key, BUSY_AGAIN_S)
            return False
        self._put_off(key, AGAIN_S)
        task = asyncio.create_task(self._time(member, model), name="timing")
        self._running.add(task)
        task.add_done_callback(self._ended)
        return True

    def _put_off(self, key: tuple[str, str], pause_s: float) -> None:
        self._due.pop(key, None)
        self._due[key] = self._clock.monotonic_s() + pause_s

    async def _time(self, session: Session, model: Model) -> None:
        room = session.node.rooms[model.card.digest]
        try:
            question, job = await self._asker.draw(model, room.largest_tokens, SENTENCES)
            await self._asker.ids_of(session, job, question.ids)
        except Problem as problem:
            log.info("not timed", extra={"node": session.node.peer, "cause": str(problem)})

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("timing failed", exc_info=error)


def _is_idle(node: Node, digest: str) -> bool:
    room = node.rooms[digest]
    able = node.state == "ready" and room.failed is None and room.barred is None
    return able and node.slots_busy == 0 and room.slots >= SLOTS_LEAST
