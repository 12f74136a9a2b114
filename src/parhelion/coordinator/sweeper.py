"""Closes the holds of this process that belong to no live request any more (DESIGN 6)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from parhelion.coordinator.recovery import close
from parhelion.ledger import Ledger
from parhelion.payments import Gate
from parhelion.words import Problem

log = logging.getLogger("parhelion.coordinator")

INTERVAL_S = 30.0
"""Only a fault of ours leaves a hold behind: credits that come back within a minute are soon."""

REASON = "abandoned"


class Sweeper:
    """Looks every INTERVAL_S for open holds that no live request settles.

    `live` names the holds that a request may still settle; a request is among them from before
    its hold is taken until after it is closed.
    """

    def __init__(self, ledger: Ledger, gate: Gate, live: Callable[[], set[str]]) -> None:
        self._ledger = ledger
        self._gate = gate
        self._live = live
        self._suspects: set[str] = set()
        self._told: set[str] = set()

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.sweep()
            except Exception:
                # A store that is away now is there at one of the next looks.
                log.exception("holds not swept")

    async def sweep(self) -> None:
        """Close what was abandoned at the last look and still is.

        Two looks, because a request that ends while the first one reads is settled already.
        """
        found = await self._ledger.open_holds()
        # Read before asking who lives: a hold taken in between is a live one's.
        live = self._live()
        abandoned = [left for left in found if left.hold.id not in live]
        due = [left for left in abandoned if left.hold.id in self._suspects]
        self._suspects = {left.hold.id for left in abandoned}
        self._told &= self._suspects
        await close(self._ledger, self._gate, due, REASON, self._told)
        await self._give_back()

    async def _give_back(self) -> None:
        """Holds of other kinds than requests' belong to nobody live: they end by their time."""
        for hold in await self._ledger.run_out():
            try:
                await self._ledger.expire(hold)
            except Problem as problem:
                # Spent or given back by its owner while this looked.
                log.info("hold not expired", extra={"hold": hold, "cause": problem.message})
