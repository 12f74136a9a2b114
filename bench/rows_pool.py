"""DESIGN 12's relay rows with 1, 4 and 16 nodes, beside the same baseline in the same rounds."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path

from bench.load import cpu_s
from bench.rows import Row, median
from bench.rows_relay import ASK, CONCURRENT, ROOMY, baseline, load, spent_s
from bench.signing import signing_s
from parhelion.testing.processes import Running, start, start_pool

NODES = (1, 4, 16)
SLOTS = 256
"""Of all nodes together."""

REQUESTS = 300
STREAMS = 64
STREAM_TOKENS = 101
PACE_PER_S = 50.0
FAST_PER_S = 10_000.0

Pools = dict[int, Running]
"""By how many nodes they have."""


def measure(folder: Path, quick: bool) -> list[Row]:
    """Each row names its figure for 4 and for 16 nodes, and that of one node beside them."""
    rounds = 1 if quick else 3
    rows: list[Row] = []
    with ExitStack() as stack:
        (folder / "fast").mkdir()
        bare = stack.enter_context(baseline(folder / "fast", FAST_PER_S))
        pools = _pools(stack, folder / "fast", FAST_PER_S)
        rows += _cpu_a_request(bare, pools, rounds)
        rows += _first_token(pools, rounds)
    with ExitStack() as stack:
        (folder / "paced").mkdir()
        bare = stack.enter_context(baseline(folder / "paced", PACE_PER_S))
        rows.append(_cpu_a_token(bare, _pools(stack, folder / "paced", PACE_PER_S), rounds))
    with ExitStack() as stack:
        (folder / "slow").mkdir()
        rows.append(_slow_streams(_pools(stack, folder / "slow", 1.0)))
    return rows


def _pools(stack: ExitStack, folder: Path, tokens_per_s: float) -> Pools:
    """A coordinator for each number of nodes; the nodes of one share a process."""
    pools: Pools = {}
    for count in NODES:
        pool = pools[count] = start_pool(folder / f"pool{count}", env=ROOMY)
        stack.callback(pool.stop)
        digest = pool.call("GET", "/v1/models")[2]["data"][0]["digest"]
        where = pool.api.removeprefix("http://")
        pace = ["--slots", str(SLOTS // count), "--tokens-per-s", str(tokens_per_s)]
        arguments = [where, "--nodes", str(count), "--digest", digest, *pace]
        nodes = start(arguments, folder / f"nodes{count}.log", module="bench.nodes")
        stack.callback(nodes.kill)
    return pools


def _cpu_a_request(bare: Running, pools: Pools, rounds: int) -> list[Row]:
    body = {**ASK, "max_tokens": 1}
    own: dict[int, list[float]] = {count: [] for count in pools}
    whole: dict[int, list[float]] = {count: [] for count in pools}
    for server in (bare, *pools.values()):
        load(server, body, requests=200, concurrent=CONCURRENT)
    for _ in range(rounds):
        base_s, _all_s, _seen = spent_s(bare, body, requests=REQUESTS, concurrent=CONCURRENT)
        for count, pool in pools.items():
            own_s, all_s, _seen = spent_s(pool, body, requests=REQUESTS, concurrent=CONCURRENT)
            own[count].append((own_s - signing_s() * REQUESTS) / base_s)
            whole[count].append(all_s / base_s)
    return [
        _row("coordinator CPU a request, without tokenising and signatures", own, "x", 1.5),
        _row("coordinator CPU a request, with them", whole, "x", 3.0),
    ]


def _cpu_a_token(bare: Running, pools: Pools, rounds: int) -> Row:
    servers = {0: bare, **pools}
    ratios: dict[int, list[float]] = {count: [] for count in pools}
    for server in servers.values():
        load(server, {**ASK, "stream": True, "max_tokens": 1}, requests=64, concurrent=CONCURRENT)
    for _ in range(rounds):
        cost_s = {count: _token_s(server) for count, server in servers.items()}
        for count in pools:
            ratios[count].append(cost_s[count] / cost_s[0])
    return _row("coordinator CPU a streamed token", ratios, "x", 1.3)


def _token_s(server: Running) -> float:
    """CPU seconds of one more token of a stream."""
    pids = [server.process.pid]
    spent: list[float] = []
    for tokens in (1, STREAM_TOKENS):
        before_s = cpu_s(pids)
        body = {**ASK, "stream": True, "max_tokens": tokens}
        load(server, body, requests=STREAMS, concurrent=CONCURRENT)
        spent.append(cpu_s(pids) - before_s)
    return (spent[1] - spent[0]) / STREAMS / (STREAM_TOKENS - 1)


def _first_token(pools: Pools, rounds: int) -> list[Row]:
    body = {**ASK, "stream": True, "max_tokens": 4}
    rows: list[Row] = []
    for concurrent, target_ms in ((1, 8.0), (32, 60.0)):
        waits: dict[int, list[float]] = {count: [] for count in pools}
        for _ in range(rounds):
            for count, pool in pools.items():
                seen = load(pool, body, requests=concurrent * 8, concurrent=concurrent)
                waits[count].append(statistics.median(seen.first_token_s) * 1000)
        rows.append(
            _row(f"added time to first token, {concurrent} concurrent", waits, "ms", target_ms)
        )
    return rows


def _slow_streams(pools: Pools) -> Row:
    # From the first token to the end: five more, one a second.
    body = {**ASK, "stream": True, "max_tokens": 6}
    slowest = {
        count: [max(load(pool, body, requests=100, concurrent=100).stream_s)]
        for count, pool in pools.items()
    }
    return _row("100 streams of one token a second for 5 s", slowest, "s", 5.1)


def _row(what: str, seen: dict[int, list[float]], unit: str, target: float) -> Row:
    """Medians over the rounds of each pool; all but the one-node pool must reach the target."""
    more = [count for count in seen if count > 1]
    beside = ", ".join(
        f"{count} nodes {min(seen[count]):.2f} to {max(seen[count]):.2f}" for count in more
    )
    rounds = len(next(iter(seen.values())))
    return Row(
        f"{what}, {' / '.join(map(str, more))} nodes",
        " / ".join(f"{median(seen[count]):.2f}" for count in more) + f" {unit}",
        f"<= {target:g} {unit}",
        all(median(seen[count]) <= target for count in more),
        f"one node {median(seen[1]):.2f} {unit} in the same rounds; {beside} over {rounds}",
    )
