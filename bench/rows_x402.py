"""What being paid by x402 costs: settling, 402 answers, paid requests, a stock buyer, memory.

Our coordinator and the stock seller (`bench.x402_stock`) stand on the same two local chains. Chains
take their time, the same for both: a slot of minisol is 400 ms, and what landed is confirmed with
the next one.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.load import resident_mb
from bench.rows import Row, median
from bench.x402_facilitators import Chain, Evm, Measured, Solana, Times
from bench.x402_facilitators import measure as measure_facilitators
from bench.x402_load import (
    BODY,
    EVM,
    PATH,
    RAW,
    SOLANA,
    Sellers,
    Shot,
    Shots,
    Wallet,
    cpu_s_of,
    fire,
    keyed,
    network_named,
    open_sellers,
    signed,
    volley,
)
from bench.x402_stock import FREE, HINTED
from parhelion.testing.processes import Running

SETTLE_TARGET_MS = 3
BUYER_TARGET = 1.5
MEMORY_TARGET_MB = 190

TOPUP = "/v1/credits/topup?usd=1"
CROWD = 8
STOCK_CROWD_SHOTS = 24
"""The stock facilitator looks for a confirmation once a second."""

LOADED_REQUESTS = 500
LOADED_CROWD = 64

NODE_CLIENTS = Path(__file__).parents[1] / "tests/acceptance/clients/node"
BUYER = Path(__file__).with_name("x402_buyer.mjs")
BUYER_WAIT_S = 120


def measure(folder: Path, quick: bool) -> list[Row]:
    """All rows of x402; some four minutes."""
    loads = [os.getloadavg()[0]]
    rows = _facilitators(folder, 6 if quick else 20)
    loads.append(os.getloadavg()[0])
    with ExitStack() as stack:
        sellers = open_sellers(folder / "sellers", stack)
        idle_mb = resident_mb(sellers.pool.process.pid)
        rows += _refusals(sellers, 2 if quick else 5)
        loads.append(os.getloadavg()[0])
        for network in (SOLANA, EVM):
            rows += _paid(sellers, network, 10 if quick else 40)
            loads.append(os.getloadavg()[0])
        rows += _stock_buyer(sellers, 8 if quick else 30)
        rows.append(_memory(sellers, idle_mb))
        loads.append(os.getloadavg()[0])
    told = " / ".join(f"{load:.1f}" for load in loads)
    return [
        *rows,
        Row("load average beside these rows", told, "-", None, f"{os.cpu_count()} cores"),
    ]


def _facilitators(folder: Path, rounds: int) -> list[Row]:
    rows: list[Row] = []
    with ExitStack() as stack:
        chains: list[tuple[str, Chain]] = [
            ("minisol, slots of 400 ms", Solana(folder / "sol", stack)),
            ("minisol, slots of 10 ms", Solana(folder / "fast", stack, "--slot-ms", "10")),
            ("minievm", Evm(folder / "evm", stack)),
        ]
        for name, chain in chains:
            found = asyncio.run(measure_facilitators(chain, rounds))
            if chain is not chains[1][1]:
                rows.append(_own_row(name.split(",")[0], found))
            rows.append(_chain_row(name, found))
    return rows


def _own_row(name: str, found: Measured) -> Row:
    settle_ms = median(found.own.settle_s) * 1000
    return Row(
        f"settle in-process, {name}, the chain's answers at once",
        f"{settle_ms:.1f} ms",
        f"<= {SETTLE_TARGET_MS} ms",
        settle_ms <= SETTLE_TARGET_MS,
        f"p95 {_p95_ms(found.own.settle_s):.1f}; verify {_both(found.own.verify_s)}",
    )


def _chain_row(name: str, found: Measured) -> Row:
    def told(times: Times) -> str:
        return f"verify {_both(times.verify_s)}, settle {_both(times.settle_s)}"

    verify_ms, settle_ms = (median(each) * 1000 for each in found.ours)
    return Row(
        f"verify / settle with the chain, {name}",
        f"{verify_ms:.1f} / {settle_ms:.0f} ms",
        "-",
        None,
        f"{told(found.ours)}; stock {told(found.stock)}; {len(found.ours.settle_s)} each",
    )


def _refusals(sellers: Sellers, rounds: int) -> list[Row]:
    """402 answers a second, of both sellers in turn."""
    kinds: dict[str, tuple[Running, str, bytes]] = {
        "ours, a top-up": (sellers.pool, TOPUP, b"{}"),
        "ours, a prompt": (sellers.pool, PATH, RAW),
        "stock": (sellers.stock, PATH, RAW),
        "stock with a blockhash": (sellers.stock, HINTED, RAW),
    }
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    spent_us: dict[str, list[float]] = {name: [] for name in kinds}
    count = 400
    for _ in range(rounds):
        for name, (server, path, body) in kinds.items():
            fire(server.api, [Shot(path, {})] * 40, concurrent=CROWD, status=402, body=body)
            before_s = cpu_s_of(server)
            shots = [Shot(path, {})] * count
            seen = fire(server.api, shots, concurrent=CROWD, status=402, body=body)
            spent_us[name].append((cpu_s_of(server) - before_s) / count * 1e6)
            rates[name].append(seen.per_s)

    def told(name: str) -> str:
        return f"{median(rates[name]):.0f} ({median(spent_us[name]):.0f} us of CPU)"

    plain, hinted = told("stock"), told("stock with a blockhash")
    rows: list[Row] = []
    for name, words in (
        ("ours, a top-up", "a fixed price"),
        ("ours, a prompt", "a tokenised prompt"),
    ):
        rows.append(
            Row(
                f"402 answers/s, {words}",
                f"{median(rates[name]):.0f}",
                "-",
                None,
                f"{median(spent_us[name]):.0f} us of CPU, {CROWD} clients; stock, a fixed price, "
                f"{plain}, with a blockhash in its offer as ours {hinted}",
            )
        )
    return rows


def _paid(sellers: Sellers, network: str, count: int) -> list[Row]:
    """Paid requests beside keyed ones, one client and a crowd; the stock seller the same."""
    wallet = Wallet(sellers.pool, network)
    name = network_named(network)
    fire(sellers.pool.api, signed(wallet, sellers.pool, 2), concurrent=1)
    rows: list[Row] = []
    for crowd, shots in ((1, count), (CROWD, count * 3)):
        key = fire(sellers.pool.api, keyed(sellers, shots), concurrent=crowd)
        paid = fire(sellers.pool.api, signed(wallet, sellers.pool, shots), concurrent=crowd)
        settling_ms = statistics.median(sellers.settling_ms(network, shots))
        free = fire(sellers.stock.api, [Shot(FREE, {})] * shots, concurrent=crowd)
        stock = _stock_paid(sellers, wallet, network, crowd, shots)
        added_ms = (median(paid.each_s) - median(key.each_s)) * 1000
        rows.append(
            Row(
                f"added by a payment on {name}, {crowd} at once",
                f"{added_ms:.0f} ms",
                "-",
                None,
                f"paid {_spread(paid)}, keyed {_spread(key)}; of it settling {settling_ms:.0f} ms; "
                f"stock: paid {_spread(stock)}{_refused(stock)}, free {_spread(free)}",
            )
        )
        if crowd > 1:
            rows.append(_rate_row(sellers, wallet, network, paid, stock))
    return rows


def _rate_row(sellers: Sellers, wallet: Wallet, network: str, paid: Shots, stock: Shots) -> Row:
    count = LOADED_CROWD * 3
    shots = signed(wallet, sellers.pool, count)
    before_s = cpu_s_of(sellers.pool)
    many = fire(sellers.pool.api, shots, concurrent=LOADED_CROWD)
    cpu_ms = (cpu_s_of(sellers.pool) - before_s) / count * 1000
    return Row(
        f"paid requests/s on {network_named(network)}, {LOADED_CROWD} clients",
        f"{many.per_s:.0f}",
        "-",
        None,
        f"{cpu_ms:.1f} ms of the coordinator's CPU each; {CROWD} clients {paid.per_s:.0f}, the "
        f"stock seller {stock.per_s:.1f}",
    )


def _stock_paid(sellers: Sellers, wallet: Wallet, network: str, crowd: int, shots: int) -> Shots:
    """The stock seller's paid requests; those that it refuses are counted."""
    count = min(shots, STOCK_CROWD_SHOTS if crowd > 1 else STOCK_CROWD_SHOTS // 2)
    volley(sellers.stock.api, signed(wallet, sellers.stock, 1), concurrent=1)
    return volley(sellers.stock.api, signed(wallet, sellers.stock, count), concurrent=crowd)


def _stock_buyer(sellers: Sellers, count: int) -> list[Row]:
    """The stock TypeScript buyer, warm: its paid call against its keyed one and the settlement."""
    node = shutil.which("node")
    if node is None or not (NODE_CLIENTS / "node_modules").is_dir():
        missing = "no Node.js, or `make test-all` has not installed the client packages"
        return [Row("stock TypeScript buyer", "not measured", "-", None, missing)]
    rows: list[Row] = []
    for network in (SOLANA, EVM):
        wallet = Wallet(sellers.pool, network)
        ask: dict[str, Any] = {
            "url": sellers.pool.api + PATH,
            "body": json.dumps(BODY),
            "key": sellers.pool.key,
            "count": count,
            "rpc": sellers.chains.networks[network]["rpc"],
            ("solanaKey" if network == SOLANA else "evmKey"): wallet.secret,
        }
        run = subprocess.run(
            [node, "--input-type=module", "-"],
            input=BUYER.read_text(),
            cwd=NODE_CLIENTS,
            env={**os.environ, "BUYER": json.dumps(ask)},
            capture_output=True,
            text=True,
            timeout=BUYER_WAIT_S,
        )
        if run.returncode != 0:
            raise RuntimeError(run.stderr[-2000:])
        rows.append(_buyer_row(sellers, network, json.loads(run.stdout)))
    return rows


def _buyer_row(sellers: Sellers, network: str, times: dict[str, list[float]]) -> Row:
    paid_ms, keyed_ms = median(times["paid"]), median(times["keyed"])
    settling_ms = statistics.median(sellers.settling_ms(network, len(times["paid"])))
    checking_ms = statistics.median(sellers.checking_ms(network, len(times["paid"])))
    ratio = paid_ms / (keyed_ms + settling_ms)
    return Row(
        f"warm stock TypeScript buyer, paid call on {network_named(network)}",
        f"{ratio:.2f} x",
        f"<= {BUYER_TARGET} x",
        ratio <= BUYER_TARGET,
        f"paid {paid_ms:.0f} ms against keyed {keyed_ms:.1f} + settlement {settling_ms:.0f} ms "
        f"(from the claim to the booking; with the {checking_ms:.0f} ms of checking before it "
        f"{paid_ms / (keyed_ms + settling_ms + checking_ms):.2f} x); "
        f"{len(times['paid'])} calls each",
    )


def _memory(sellers: Sellers, idle_mb: float) -> Row:
    wallet = Wallet(sellers.pool, SOLANA)
    for _ in range(2):
        shots = signed(wallet, sellers.pool, LOADED_REQUESTS // 2)
        fire(sellers.pool.api, shots, concurrent=LOADED_CROWD)
    loaded_mb = resident_mb(sellers.pool.process.pid)
    return Row(
        "resident memory of the coordinator with x402",
        f"{loaded_mb:.0f} MB",
        f"<= {MEMORY_TARGET_MB} MB",
        loaded_mb <= MEMORY_TARGET_MB,
        f"after all this and {LOADED_REQUESTS} paid requests more; idle {idle_mb:.0f} MB",
    )


def _spread(shots: Shots) -> str:
    return _both(shots.each_s) if shots.each_s else "none"


def _refused(shots: Shots) -> str:
    asked = len(shots.each_s) + shots.failed
    return f", {shots.failed} of {asked} refused" if shots.failed else ""


def _both(times_s: Sequence[float]) -> str:
    return f"{median(times_s) * 1000:.1f} (p95 {_p95_ms(times_s):.1f}) ms"


def _p95_ms(times_s: Sequence[float]) -> float:
    return sorted(times_s)[max(0, -(-len(times_s) * 95 // 100) - 1)] * 1000
