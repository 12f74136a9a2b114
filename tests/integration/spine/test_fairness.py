"""One account's five hundred requests do not starve another's one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bench.fairness import key_of, measure
from parhelion.testing.processes import start_echo

CROWD = 500
SLOTS = 8
PACE_PER_S = 50.0
SERVICE_S = 10 / PACE_PER_S


@pytest.mark.slow
def test_one_request_waits_for_one_turn_and_not_for_the_crowd(pools: Any, tmp_path: Path) -> None:
    pool = pools.start()
    where = pool.api.removeprefix("http://")
    node = start_echo(tmp_path / "echo", where, tokens_per_s=PACE_PER_S, slots=SLOTS)
    try:
        greedy, modest = (key_of(pool, pools.admin_key, name) for name in ("greedy", "modest"))
        waits = asyncio.run(measure(pool.api, greedy, modest, CROWD))
        # Its turn is next when a slot comes free: one service of another's, then its own.
        assert waits.behind_s < (2 * SERVICE_S + waits.alone_s) * 5 / 2, waits
        assert waits.crowd_s > CROWD / SLOTS * SERVICE_S * 0.5, "there was a crowd"
        assert waits.refused == 0
    finally:
        node.stop()
        assert node.process.stdout is not None
        node.process.stdout.close()
