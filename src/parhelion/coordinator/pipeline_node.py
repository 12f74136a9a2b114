"""A pipeline as a node: what router, queue and prober see of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from parhelion import __version__
from parhelion.coordinator.pipeline import Seat
from parhelion.coordinator.registry import Node
from parhelion.coordinator.room import Room
from parhelion.words import Clock, NodeCard, ServedModel, StageSpec

T = TypeVar("T")

BACKENDS = "llama.cpp stages"

DEVICE_LIMIT_CHARS = 200


def node_of(name: str, spec: StageSpec, seats: Sequence[Seat], clock: Clock) -> Node:
    """The pipeline as a place for jobs; `spec` is any of its stages'."""
    served = ServedModel(
        digest=spec.digest, context=spec.context, slots=spec.slots, kv_tokens=spec.kv_tokens
    )
    devices = ", ".join(sorted({device for seat in seats if (device := seat.session.node.device)}))
    return Node(
        card=NodeCard(
            peer=name,
            name=name,
            version=__version__,
            device=devices[:DEVICE_LIMIT_CHARS],
            backend=BACKENDS,
            slots=spec.slots,
            kv_tokens=spec.kv_tokens,
            models=(served,),
        ),
        rooms={spec.digest: Room(spec.context, spec.slots, spec.kv_tokens)},
        connected_at_ms=clock.now_ms(),
        heard_s=clock.monotonic_s(),
        idle_since_s=clock.monotonic_s(),
        stages=tuple(seat.peer for seat in seats),
        operators=frozenset(
            seat.session.node.operator for seat in seats if not seat.session.node.own
        ),
        own=all(seat.session.node.own for seat in seats),
    )


async def emptied(node: Node, empty: asyncio.Event) -> None:
    """Return when the last slot of a pipeline is free, or somebody else says so."""
    await _until(node, lambda: node.slots_busy == 0, empty)


async def unless_taken(node: Node, work: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
    """Do it while nobody uses a pipeline; None where it was given up for somebody who came."""
    working = asyncio.create_task(work())
    came = asyncio.create_task(_until(node, lambda: node.slots_busy > 0, asyncio.Event()))
    try:
        await asyncio.wait({working, came}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in (working, came):
            one.cancel()
        await asyncio.wait({working, came})
        if not working.cancelled():
            working.exception()  # Whoever is cancelled here does not want to know.
    return None if working.cancelled() else working.result()


async def _until(node: Node, is_so: Callable[[], bool], event: asyncio.Event) -> None:
    told = node.on_slots

    def look(node: Node) -> None:
        if told is not None:
            told(node)
        if is_so():
            event.set()

    if not is_so():
        node.on_slots = look
        try:
            await event.wait()
        finally:
            if node.on_slots is look:
                node.on_slots = told
