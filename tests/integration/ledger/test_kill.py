"""kill -9 at any moment: what was acknowledged is there, nothing is there by halves."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parhelion import ledger as room
from parhelion.ledger import TREASURY, Bill, Ledger, OpenHold, Shares, price, split
from parhelion.store import Migration, Statement, Store
from parhelion.words import AssetClass

Start = Callable[..., "subprocess.Popen[str]"]

ALSO = Migration(70, "tests", "CREATE TABLE also(id TEXT PRIMARY KEY) STRICT;")
SHARES = Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)
ASSET = "PRLX.local"
UNITS_OF_A_REQUEST = 4
GRANTED_MICRO = 10**9


class Clock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()


async def promises_hold(path: Path, lines: list[str]) -> None:
    """Open what the killed left behind, compare it with its promises, recover, audit."""
    store = await Store.open(path, (*room.MIGRATIONS, ALSO), AssetClass.LOCAL, Clock())
    ledger = Ledger(store, Clock(), SHARES)
    assert await ledger.audit() == ()
    assert await store.verify_chain() == ()
    also = {str(row[0]) for row in await store.read("SELECT id FROM also")}
    rows = await store.read("SELECT request, state, accepted_ids, amount_micro, id FROM holds")
    left = {str(row[0]): row for row in rows}
    _nothing_by_halves(left, also)
    _everything_promised(left, lines)
    await _recover(ledger, await ledger.open_holds())
    assert await ledger.open_holds() == ()
    assert await ledger.audit() == ()
    balance = await ledger.balance("acct_a", ASSET)
    spent = [one[0] for one in await store.read("SELECT coalesce(sum(cost_micro), 0) FROM holds")]
    assert balance.held_micro == 0
    assert [GRANTED_MICRO - balance.available_micro] == spent
    await store.close()


def _nothing_by_halves(left: dict[str, Any], also: set[str]) -> None:
    assert {f"{request} hold" for request in left} == {id for id in also if id.endswith("hold")}
    ended = {f"{request} end" for request, row in left.items() if row[1] != "held"}
    assert ended == {id for id in also if id.endswith("end")}


def _everything_promised(left: dict[str, Any], lines: list[str]) -> None:
    for line in lines:
        what, _, rest = line.strip().partition(" ")
        request, _, ids = rest.partition(" ")
        if what == "granted":
            continue
        state, accepted_ids = left[request][1], left[request][2]
        if what == "marked":
            assert accepted_ids >= int(ids)
        elif what != "held":
            assert state == what


async def _recover(ledger: Ledger, open_holds: tuple[OpenHold, ...]) -> None:
    """As the coordinator does: bill what was journalled, never more."""
    for one in open_holds:
        if not one.hold.accepted_ids:
            await ledger.void(one.hold, "crash before the first id", _end(one))
            continue
        cost_micro = price(one.rate, one.prompt_tokens, one.completion_tokens)
        bill = Bill(
            prompt_tokens=one.prompt_tokens,
            completion_tokens=one.completion_tokens,
            cost_micro=cost_micro,
            legs=split(cost_micro, SHARES, one.worked),
            reason="crash",
        )
        returned = await ledger.post(one.hold, bill, _end(one))
        assert returned == one.hold.amount_micro - cost_micro
        explained = await ledger.explain(one.request)
        assert (explained.cost_micro, explained.reason) == (cost_micro, "crash")
        assert TREASURY in {transfer.credit for transfer in explained.transfers}


def _end(one: OpenHold) -> list[Statement]:
    return [Statement("also", "INSERT INTO also VALUES (?)", (f"{one.request} end",), rows=1)]


@pytest.mark.parametrize("point", ["before", "during", "after"])
@pytest.mark.parametrize("unit", range(1, UNITS_OF_A_REQUEST + 2))
async def test_killed_at_every_commit_point_the_books_are_exact(
    mortal: Start, tmp_path: Path, point: str, unit: int
) -> None:
    child = mortal(point, str(unit))
    said, _ = child.communicate(timeout=30)
    assert child.returncode == -9
    assert said.startswith("granted")
    await promises_hold(tmp_path / "l.db", said.splitlines())


async def test_killed_at_random_moments_again_and_again_the_books_are_exact(
    mortal: Start, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    moments = random.Random(seed)
    promised: list[str] = []
    for _ in range(6):
        child = mortal()
        assert child.stdout is not None
        assert child.stdout.readline() == "granted\n"
        time.sleep(moments.uniform(0.0, 0.25))  # noqa: ASYNC251 - nothing else runs in this loop
        child.kill()
        said, _ = child.communicate(timeout=10)
        # A kill may cut the last line short; what was not said in full was not promised.
        promised += [line for line in said.splitlines(keepends=True) if line.endswith("\n")]
        await promises_hold(tmp_path / "l.db", promised)
    assert len(promised) > 50
