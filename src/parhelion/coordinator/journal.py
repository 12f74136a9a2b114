"""Notes in the ledger how far running answers came, for all of them together."""

from __future__ import annotations

import asyncio
import logging

from parhelion.coordinator.relay import Relay
from parhelion.ledger import Ledger, Mark
from parhelion.store import Refused
from parhelion.words import Problem

log = logging.getLogger("parhelion.coordinator")

INTERVAL_S = 0.25
"""What a crash may cost the treasury: a quarter of a second of ids, for one commit a quarter."""


PAUSE_S = 1.0
"""After a commit that raised what nobody foresaw; meanwhile the marks only grow older."""


class Journal:
    """One task, one commit per interval; it sleeps while nothing is delivered."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._dirty: set[Relay] = set()
        self._work = asyncio.Event()
        self.marks_written = 0

    def note(self, relay: Relay) -> None:
        """Bytes of this answer went out; once it is being settled that is of no use any more."""
        if relay.settling or relay in self._dirty:
            return
        self._dirty.add(relay)
        self._work.set()

    def forget(self, relay: Relay) -> None:
        """The answer is being settled: a mark would come too late."""
        self._dirty.discard(relay)

    async def run(self) -> None:
        """Write marks until cancelled."""
        while True:
            await self._work.wait()
            await asyncio.sleep(INTERVAL_S)
            self._work.clear()
            try:
                await self.write()
            except Exception:
                # Without its journal every answer would be the treasury's loss at a crash.
                log.exception("journal not written")
                await asyncio.sleep(PAUSE_S)

    async def write(self) -> None:
        """One commit for all answers that moved since the last."""
        marks = [mark for relay in self._dirty for mark in marks_of(relay)]
        self._dirty.clear()
        if not marks:
            return
        try:
            await self._ledger.journal(marks)
        except (Problem, Refused) as problem:
            # The next interval tries again with newer counts; a gap is the treasury's loss.
            log.warning("journal not written", extra={"cause": str(problem), "marks": len(marks)})
        else:
            self.marks_written += len(marks)


def marks_of(relay: Relay) -> list[Mark]:
    """The journal lines of an answer: what was delivered, and by whom.

    One line an attempt that delivered, in order: the ledger keeps the earlier ones' counts.
    """
    accepted_ids, billable_tokens = relay.acknowledged
    return [
        Mark(
            hold=relay.hold.id,
            attempt=attempt.number,
            accepted_ids=min(accepted_ids, attempt.to) if attempt.closed else accepted_ids,
            completion_tokens=billable_tokens,
            operator=attempt.operator,
        )
        for attempt in relay.attempts
        if relay.hold is not None and accepted_ids > attempt.start
    ]
