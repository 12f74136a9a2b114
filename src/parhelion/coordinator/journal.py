"""Notes in the ledger how far running answers came, for all of them together."""

from __future__ import annotations

import asyncio
import logging

from parhelion.coordinator.relay import Relay
from parhelion.identity import operator_account
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
        marks = [mark(relay) for relay in self._dirty if relay.hold is not None]
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


def mark(relay: Relay) -> Mark:
    """The journal line of an answer: what was delivered and who works on it."""
    assert relay.hold is not None
    accepted_ids, billable_tokens = relay.acknowledged
    attempt = relay.attempts[-1]
    return Mark(
        hold=relay.hold.id,
        attempt=attempt.number,
        accepted_ids=accepted_ids,
        completion_tokens=billable_tokens,
        operator=operator_account(attempt.placement.pipeline[-1]),
    )
