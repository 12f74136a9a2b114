"""A pool that sells on its two local chains, the stock seller on the same ones, and their load."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import aiohttp
import psutil

from bench.rows_relay import ROOMY, SLOTS
from bench.x402_facilitators import rpc_call
from bench.x402_stock import Settings
from parhelion.testing.buyer import EVM, SOLANA, Chains, Offers, Wallet, offers_of
from parhelion.testing.processes import WITH_CHAINS, Running, start, start_echo, start_pool
from parhelion.words import minted_ms

PACE_TOKENS_PER_S = 10_000
PATH = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 1}
RAW = json.dumps(BODY).encode()
ANSWER_S = 60.0

SETTLED = """
SELECT request, claimed_at_ms, ended_at_ms FROM x402_claims
WHERE state = 'settled' AND network = ? ORDER BY ended_at_ms DESC LIMIT ?
"""


class Shot(NamedTuple):
    """One request: where to, and with which headers."""

    path: str
    headers: Mapping[str, str]


class Shots(NamedTuple):
    """What a volley saw."""

    wall_s: float
    each_s: list[float]
    failed: int = 0

    @property
    def per_s(self) -> float:
        return len(self.each_s) / self.wall_s


@dataclass
class Sellers:
    """Both sellers, running, on the same two chains."""

    pool: Running
    stock: Running
    chains: Chains
    data: Path

    def settling_ms(self, network: str, count: int) -> list[int]:
        """From each of the last claims to its booking, by the books' own times."""
        return [ended - claimed for _, claimed, ended in self._settled(network, count)]

    def checking_ms(self, network: str, count: int) -> list[int]:
        """From the paid request's arrival to the claim: the prompt read, the payment checked."""
        return [claimed - minted_ms(id) for id, claimed, _ in self._settled(network, count)]

    def _settled(self, network: str, count: int) -> list[tuple[str, int, int]]:
        with sqlite3.connect(f"file:{self.data / 'parhelion.db'}?mode=ro", uri=True) as books:
            return books.execute(SETTLED, (network, count)).fetchall()


def open_sellers(folder: Path, stack: ExitStack) -> Sellers:
    """Start everything; `stack` ends it."""
    folder.mkdir()
    data = folder / "pool"
    pool = start_pool(data, env={**ROOMY, **WITH_CHAINS})
    stack.callback(pool.stop)
    where = pool.api.removeprefix("http://")
    node = start_echo(folder / "echo", where, tokens_per_s=PACE_TOKENS_PER_S, slots=SLOTS)
    stack.callback(node.stop)
    upstream = start([str(PACE_TOKENS_PER_S)], folder / "up.log", module="bench.upstream")
    stack.callback(upstream.kill)
    chains = Chains(pool)
    settings = folder / "stock.json"
    settings.write_text(json.dumps(_stock_settings(chains, upstream.api)))
    stock = start([str(settings)], folder / "stock.log", module="bench.x402_stock")
    stack.callback(stock.kill)
    _until_served(pool)
    return Sellers(pool, stock, chains, data)


def _stock_settings(chains: Chains, upstream: str) -> dict[str, str]:
    from eth_account import Account
    from solders.keypair import Keypair

    fee_payer, seller, gas = Keypair(), Keypair(), Account.create()
    rpc = {network: chains.networks[network]["rpc"] for network in (SOLANA, EVM)}
    rpc_call(rpc[SOLANA], "minisol_fund", str(fee_payer.pubkey()), {"lamports": 10**10})
    # One base unit: it opens the seller's account.
    rpc_call(rpc[SOLANA], "minisol_fund", str(seller.pubkey()), {"usdc": "1"})
    rpc_call(rpc[EVM], "parhelion_fund", gas.address, {"wei": str(10**18)})
    settings = Settings(
        upstream=upstream,
        solana_rpc=rpc[SOLANA],
        evm_rpc=rpc[EVM],
        solana_seller=str(seller.pubkey()),
        evm_seller=Account.create().address,
        solana_key=str(fee_payer),
        evm_key="0x" + bytes(gas.key).hex(),
    )
    return {name: getattr(settings, name) for name in settings.__struct_fields__}


def _until_served(pool: Running) -> None:
    ends_at_s = time.monotonic() + 30
    while pool.call("POST", PATH, BODY)[0] != 200:
        if time.monotonic() > ends_at_s:
            raise RuntimeError("the echo node does not serve")
        time.sleep(0.05)


def signed(wallet: Wallet, seller: Running, count: int) -> list[Shot]:
    """So many paid requests, each signed for an offer of its own."""
    shots: list[Shot] = []
    for _ in range(count):
        status, told, said = seller.call("POST", PATH, BODY, key="")
        if status != 402:
            raise RuntimeError(f"an offer was asked for, and {status} answered: {said}")
        offers: Offers = offers_of(told)
        shots.append(Shot(PATH, {"payment-signature": wallet.sign(offers)}))
    return shots


def keyed(seller: Sellers, count: int) -> list[Shot]:
    """The same requests with the first key."""
    return [Shot(PATH, {"authorization": f"Bearer {seller.pool.key}"})] * count


def fire(
    api: str, shots: Sequence[Shot], *, concurrent: int, status: int = 200, body: bytes = RAW
) -> Shots:
    """Send all of them; every answer must have this status."""
    seen, refusal = asyncio.run(_fire(api, shots, concurrent, status, body))
    if refusal is not None:
        raise RuntimeError(f"{seen.failed} of {len(shots)} were not answered {status}: {refusal}")
    return seen


def volley(api: str, shots: Sequence[Shot], *, concurrent: int) -> Shots:
    """Send all of them; what is not answered 200 is counted, and has no time."""
    return asyncio.run(_fire(api, shots, concurrent, 200, RAW))[0]


async def _fire(
    api: str, shots: Sequence[Shot], concurrent: int, status: int, body: bytes
) -> tuple[Shots, str | None]:
    left = iter(shots)
    each_s: list[float] = []
    refusals: list[str] = []
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)

    async def worker(session: aiohttp.ClientSession) -> None:
        for shot in left:
            began_s = time.perf_counter()
            headers = {"content-type": "application/json", **shot.headers}
            async with session.post(api + shot.path, data=body, headers=headers) as answer:
                said = await answer.read()
            if answer.status == status:
                each_s.append(time.perf_counter() - began_s)
            else:
                refusals.append(f"{answer.status} {said[:300]!r}")

    async with aiohttp.ClientSession(timeout=timeout) as session:
        began_s = time.perf_counter()
        await asyncio.gather(*(worker(session) for _ in range(concurrent)))
        seen = Shots(time.perf_counter() - began_s, each_s, len(refusals))
    return seen, refusals[0] if refusals else None


def cpu_s_of(server: Running) -> float:
    """What the server's own process has spent, and its tokeniser host; not its chains."""
    own = psutil.Process(server.process.pid)
    found = [own, *(child for child in own.children() if not _is_chain(child))]
    return sum(each.cpu_times().user + each.cpu_times().system for each in found)


def _is_chain(process: psutil.Process) -> bool:
    return any("parhelion.chain.local" in word for word in process.cmdline())


def network_named(network: str) -> str:
    """How rows call it."""
    return {SOLANA: "minisol", EVM: "minievm"}[network]
