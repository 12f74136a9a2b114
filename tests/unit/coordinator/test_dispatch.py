"""Nodes of speed 1:2:4 in virtual time: what dispatch by measurement is worth (bench.dispatch)."""

from __future__ import annotations

import asyncio

import pytest

from bench.dispatch import Kind, Outcome, simulate
from bench.rows_dispatch import decisions_ms

KINDS = tuple(Kind(rate, slots=4) for rate in (10.0, 20.0, 40.0))
CLIENTS = 3 * sum(kind.slots for kind in KINDS)


def run(policy: str, seed: int) -> Outcome:
    return simulate(policy, KINDS, clients=CLIENTS, requests=500, seed=seed)


@pytest.mark.parametrize("seed", range(5))
def test_work_splits_1_2_4_and_p95_beats_both_balancers_by_15_percent(seed: int) -> None:
    ours = run("estimated finish", seed)
    for share, kind in zip(ours.shares(), KINDS, strict=True):
        assert share == pytest.approx(kind.tokens_per_s / 70, rel=0.1)
    for policy in ("round-robin", "least-connections"):
        assert ours.percentile_s(0.95) <= 0.85 * run(policy, seed).percentile_s(0.95), policy


def test_the_same_seed_gives_the_same_run() -> None:
    assert run("estimated finish", 7) == run("estimated finish", 7)


def test_a_decision_among_5000_nodes_looks_at_few_of_them() -> None:
    small, large = asyncio.run(decisions_ms(200, 9)), asyncio.run(decisions_ms(5000, 9))
    for kind, took_ms in large.items():
        assert took_ms < 6 * small[kind] + 1.0, (kind, small, large)
