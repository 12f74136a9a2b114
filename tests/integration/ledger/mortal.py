"""A process that holds, journals and posts until it is killed: `mortal.py FILE [POINT K]`.

It prints a line for each unit after it was acknowledged, so that the parent knows what it was
promised. With POINT (`before` or `after`) and K it kills itself around its K-th unit's commit:
`before` just as the unit is handed over, `after` when it is durable and nobody has been told.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from parhelion import ledger as room
from parhelion.ledger import Bill, Ledger, Mark, Shares, Worked, price, split
from parhelion.store import Migration, Row, Statement, Store
from parhelion.words import AssetClass, Grant, Rate

ALSO = Migration(70, "tests", "CREATE TABLE also(id TEXT PRIMARY KEY) STRICT;")
SHARES = Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)
ASSET = "PRLX.local"
RATE = Rate(model="m", asset=ASSET, version=1, prompt_micro=4_000_000, completion_micro=4_000_000)
GRANTED_MICRO = 10**9
HELD_MICRO = 400
CALLERS = 8


class WallClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()


class Mortal(Store):
    """A store that dies around its K-th unit."""

    point = ""
    dies_at = 0
    units = 0

    async def commit(self, unit: Sequence[Statement]) -> list[list[Row]]:
        self.units += 1
        mine = self.units
        if (self.point, self.dies_at) == ("during", mine):
            # The unit is on its way to the writer's thread when the process ends.
            asyncio.get_running_loop().call_soon(self._die_in_a_moment)
        self._die_if("before", mine)
        rows = await super().commit(unit)
        self._die_if("after", mine)
        return rows

    def _die_in_a_moment(self) -> None:
        self._flush()
        time.sleep(0.0003)
        os.kill(os.getpid(), signal.SIGKILL)

    def _die_if(self, point: str, unit: int) -> None:
        if (self.point, self.dies_at) == (point, unit):
            os.kill(os.getpid(), signal.SIGKILL)


def also(id: str) -> list[Statement]:
    return [Statement("also", "INSERT INTO also VALUES (?)", (id,), rows=1)]


def bill(ids: int) -> Bill:
    cost_micro = price(RATE, 10, ids)
    return Bill(
        prompt_tokens=10,
        completion_tokens=ids,
        cost_micro=cost_micro,
        legs=split(cost_micro, SHARES, [Worked(operator="node:n", output_ids=ids)]),
        reason="stop",
    )


async def serve(ledger: Ledger, request: str) -> None:
    """One request's commits, each reported once it was acknowledged."""
    grant = Grant(account="acct_a", key=None, rate=RATE, amount_micro=HELD_MICRO, seed=0)
    hold = await ledger.hold(
        grant, request, prompt_tokens=10, expires_at_ms=2**42, also=also(f"{request} hold")
    )
    print("held", request, flush=True)
    for ids in (20, 45):
        mark = Mark(
            hold=hold.id, attempt=1, accepted_ids=ids, completion_tokens=ids, operator="node:n"
        )
        await ledger.journal([mark])
        print("marked", request, ids, flush=True)
    if request.endswith("7"):
        await ledger.void(hold, "test", also(f"{request} end"))
        print("voided", request, flush=True)
    else:
        await ledger.post(hold, bill(60), also(f"{request} end"))
        print("posted", request, flush=True)


async def main(path: Path, point: str, dies_at: int) -> None:
    clock = WallClock()
    store = await Mortal.open(path, (*room.MIGRATIONS, ALSO), AssetClass.LOCAL, clock)
    assert isinstance(store, Mortal)
    ledger = Ledger(store, clock, SHARES)
    await ledger.open_account("acct_a", "user")
    await ledger.grant("acct_a", ASSET, GRANTED_MICRO, id="grant", reason="test")
    print("granted", flush=True)
    store.units, store.point, store.dies_at = 0, point, dies_at
    requests = iter(range(10**6))

    async def caller() -> None:
        for number in requests:
            await serve(ledger, f"req_{os.getpid()}x{number:06d}")

    callers = 1 if point else CALLERS
    await asyncio.gather(*(caller() for _ in range(callers)))


if __name__ == "__main__":
    which, when = (sys.argv[2], int(sys.argv[3])) if len(sys.argv) > 2 else ("", 0)
    asyncio.run(main(Path(sys.argv[1]), which, when))
