"""A paid pool that dies around a commit: `-m mortal_pool POINT K --data DIR ...`.

The real coordinator; only `Store.commit` is wrapped from outside. Commits are counted while the
file DIR/armed is there, and each counted one leaves a line in DIR/units: the names of its
statements. `before` kills the process just as the K-th unit would be handed over, `after` when it
is durable and nobody has been told.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from parhelion.store import Row, Statement, Store
from parhelion.testing import pool

Commit = Callable[[Store, Sequence[Statement]], Awaitable[list[list[Row]]]]


def mortal(commit: Commit, point: str, dies_at: int, data: Path) -> Commit:
    """`commit` that kills this process before or after its K-th armed unit."""
    counted = 0

    def die_if(here: str, unit: int) -> None:
        if (point, dies_at) == (here, unit):
            os.kill(os.getpid(), signal.SIGKILL)

    async def counting(store: Store, unit: Sequence[Statement]) -> list[list[Row]]:
        nonlocal counted
        if not (data / "armed").exists():
            return await commit(store, unit)
        counted += 1
        mine = counted
        with (data / "units").open("a") as lines:
            lines.write(" ".join(statement.name for statement in unit) + "\n")
        die_if("before", mine)
        rows = await commit(store, unit)
        die_if("after", mine)
        return rows

    return counting


if __name__ == "__main__":
    where, number, *rest = sys.argv[1:]
    Store.commit = mortal(Store.commit, where, int(number), Path(rest[rest.index("--data") + 1]))  # type: ignore[method-assign]
    raise SystemExit(pool.main(rest))
