"""Nodes of speed 1:2:4 in virtual time: what dispatch by measurement is worth (bench.dispatch)."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from bench.balancers import LeastConnections, RoundRobin
from bench.dispatch import Kind, Outcome, simulate
from bench.rows_dispatch import decisions_ms
from bench.rows_finish import RATES_PER_S, Answer

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


def test_the_balancers_choose_as_reverse_proxies_do() -> None:
    turns, fewest = RoundRobin([4, 4, 4]), LeastConnections([4, 4, 8])
    with turns.connection() as first, turns.connection() as second, turns.connection() as third:
        assert (first, second, third) == (0, 1, 2)
    with ExitStack() as open_ones:
        taken = [open_ones.enter_context(fewest.connection()) for _ in range(8)]
        assert [taken.count(node) for node in range(3)] == [2, 2, 4], "by their slots"
        with fewest.connection() as busy:
            pass
        assert fewest.connection().__enter__() != busy, "of equals the next in turn"


def test_an_answers_tokens_count_where_its_node_made_them_and_not_where_it_waited() -> None:
    rate = RATES_PER_S[0]
    answer = Answer(asked_s=0.0, ended_s=10.0, node=0, tokens=round(2 * rate))
    assert answer.made_within(0.0, 8.0) == 0.0, "it waited for a slot"
    assert answer.made_within(0.0, 9.0) == pytest.approx(rate)
    assert answer.made_within(9.0, 20.0) == pytest.approx(rate)
    assert answer.made_within(0.0, 20.0) == pytest.approx(2 * rate)
    assert answer.made_within(11.0, 20.0) == 0.0


def test_a_decision_among_5000_nodes_looks_at_few_of_them() -> None:
    small, large = asyncio.run(decisions_ms(200, 9)), asyncio.run(decisions_ms(5000, 9))
    for kind, took_ms in large.items():
        assert took_ms < 6 * small[kind] + 1.0, (kind, small, large)
