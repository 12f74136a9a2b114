"""A plan looked at again once its nodes are timed for the first time.

A first plan takes nodes that nobody timed for equally quick. Where what they take deals layers
otherwise, that is followed at once, and not minutes later: but only if several timings say so,
each by itself, because one may be of what else runs on a machine for a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from parhelion.coordinator.layer_times import BELIEVED_TIMINGS
from parhelion.coordinator.pipeline_node import emptied, unless_taken
from parhelion.coordinator.planner import Measured, Plan, Pool, repair
from parhelion.coordinator.registry import Node

QUICK_LOAD_S = 3.0
"""Layers that were fetched and loaded within this are so again: then they move before anybody is
served. Others serve where they are while those that are to move are fetched."""


TRIES_LIMIT = 8
"""A pipeline is left alone whose users come back before it was timed, so many times in a row."""


@dataclass(frozen=True, slots=True)
class Timed:
    """One timing of stages of a ring, by their peers."""

    layer_ms: dict[str, float]
    """What one layer took, by this timing alone."""
    new: tuple[str, ...] = ()
    """Who was timed with this model for the first time."""


MovesBy = Callable[[str, Timed], Awaitable[bool]]
"""Whether a pipeline's layers are dealt otherwise by a timing, and by all that is known."""


async def is_sure(
    id: str, timed: Timed, moves: MovesBy, again: Callable[[], Awaitable[Timed | None]]
) -> bool:
    """Whether this timing of a pipeline and the next ones, had by `again`, each move its layers.

    They are had only as long as all say so: where nodes are alike one is enough. None of `again`:
    it could not be had.
    """
    for _ in range(BELIEVED_TIMINGS - 1):
        if not await moves(id, timed):
            return False
        next_one = await again()
        if next_one is None:
            return False
        timed = next_one
    return await moves(id, timed)


async def when_idle(node: Node, time: Callable[[], Coroutine[Any, Any, Timed]]) -> Timed | None:
    """A timing of a pipeline at work, as soon as nobody uses it: who comes does not wait for it.

    None where somebody came each time.
    """
    for _ in range(TRIES_LIMIT):
        while node.slots_busy:
            await emptied(node, asyncio.Event())
        timed = await unless_taken(node, time)
        if timed is not None:
            return timed
    return None


def would_move(plan: Plan, pools: Sequence[Pool], id: str, peers: Collection[str]) -> bool:
    """Whether this pipeline is another one after its peers were measured, in each of these; pure.

    The pools differ in what is taken for a node's time.
    """
    before = {one.id: one for one in plan.pipelines}.get(id)

    def after(pool: Pool) -> Plan:
        made = plan
        for peer in sorted(peers):
            made = repair(made, Measured(peer=peer), pool)
        return made

    return before is not None and all(before not in after(pool).pipelines for pool in pools)
