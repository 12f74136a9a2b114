"""The two chains beside a coordinator: kept running at one address, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from parhelion.bootstrap import SystemClock
from parhelion.bootstrap.local_chains import AGAIN_S, LocalChain, local_chains
from parhelion.bootstrap.payment_networks import Lines, open_network
from parhelion.bootstrap.seller import GIFT_LAMPORTS, local_networks
from parhelion.chain.rpc import JsonRpc, RpcUnavailable
from parhelion.payments.x402 import payees
from parhelion.words import AssetClass, Problem

WAIT_S = 30.0

OWNER = """
import asyncio, sys
from pathlib import Path
from parhelion.bootstrap.local_chains import LocalChain

async def main():
    chain = LocalChain("minisol", Path(sys.argv[1]))
    chain.start()
    await chain.card()
    print(chain.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def gone(pid: int) -> bool:
    """Ended, whether or not anybody has collected it: an orphan's new parent may not."""
    asked = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return asked.stdout.strip()[:1] in ("", "Z")


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def answer(session: aiohttp.ClientSession, url: str, method: str, *params: Any) -> Any:
    """What a chain says, asked again while it is being started again."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                return await JsonRpc(session, url)(method, params)
            except RpcUnavailable:
                await asyncio.sleep(0.05)


@pytest.fixture
async def minisol(tmp_path: Path) -> AsyncIterator[LocalChain]:
    chain = LocalChain("minisol", tmp_path)
    chain.start()
    yield chain
    await chain.stop()


async def test_a_chain_that_is_killed_is_back_at_its_address_with_all_that_landed(
    minisol: LocalChain, session: aiohttp.ClientSession
) -> None:
    card = await minisol.card()
    wallet = "4Nd1mYxkoFaUUWa5mLQ6FAWEpnF7ZJ6jBKVKqCCeLMQv"
    await answer(session, card.rpc, "minisol_fund", wallet, {"lamports": 12345678})
    for _ in range(2):
        pid = minisol.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda dead=pid: minisol.pid not in (None, dead))
        how = {"commitment": "processed"}
        told = await answer(session, card.rpc, "getBalance", wallet, how)
        assert told["value"] == 12345678
    assert await minisol.card() == card


@pytest.mark.slow
async def test_a_chain_keeps_its_port_over_starts_unless_another_took_it(tmp_path: Path) -> None:
    async def start() -> int:
        chain = LocalChain("minisol", tmp_path)
        chain.start()
        try:
            return int((await chain.card()).rpc.rpartition(":")[2])
        finally:
            await chain.stop()

    port = await start()
    assert await start() == port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        other = await start()
        assert other != port
    assert await start() == other


async def test_a_chain_ends_with_its_owner_however_that_ends(tmp_path: Path) -> None:
    owner = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    pid = int(await asyncio.to_thread(owner.stdout.readline))
    assert not gone(pid)
    port = (tmp_path / "minisol.port").read_text()
    owner.kill()
    # The next coordinator's chain, begun at once: it waits until the old one has let go.
    chain = LocalChain("minisol", tmp_path)
    chain.start()
    try:
        assert (await chain.card()).rpc.endswith(f":{port}")
        assert gone(pid)
    finally:
        await chain.stop()
        owner.wait()
        owner.stdout.close()


@pytest.mark.slow
async def test_a_chain_that_cannot_start_says_why_in_the_end(tmp_path: Path) -> None:
    (tmp_path / "minisol").mkdir()
    (tmp_path / "minisol" / "faucet.key").write_text("nothing")
    (tmp_path / "minisol" / "faucet.key").chmod(0o600)
    chain = LocalChain("minisol", tmp_path)
    began_s = time.monotonic()
    chain.start()
    with pytest.raises(
        Problem, match=r"minisol cannot be started.*does not hold a Solana key"
    ) as it:
        await chain.card()
    assert time.monotonic() - began_s > AGAIN_S
    assert 'x402.local_chains = "never"' in it.value.hint
    await chain.stop()


@pytest.mark.slow
async def test_the_seller_of_both_chains_is_made_once_and_supplied_again(tmp_path: Path) -> None:
    clock, lines = SystemClock(), Lines()
    async with local_chains(tmp_path) as chains:
        cards = [await chain.card() for chain in chains]
        settings = local_networks(tmp_path, cards, os.urandom)
        assert settings == local_networks(tmp_path, cards, os.urandom), "keys are made once"
        found = payees(settings, AssetClass.LOCAL)
        opened = [await open_network(payee, lines, clock) for payee in found]
        again = [await open_network(payee, lines, clock) for payee in found]
        assert [each.fee_payer for each in opened] == [each.fee_payer for each in again]
        assert [each.payee for each in opened] == [each.payee for each in again]
        solana, evm = opened
        how = {"commitment": "processed"}
        lamports = (await solana.rpc("getBalance", [solana.fee_payer, how]))["value"]
        # Given once, and the seller's account and its fee were paid from it.
        assert GIFT_LAMPORTS - 10_000_000 < lamports < GIFT_LAMPORTS
        of = {"mint": solana.payee.network.token}
        owned = [solana.payee.pay_to, of, {"encoding": "jsonParsed", **how}]
        (held,) = (await solana.rpc("getTokenAccountsByOwner", owned))["value"]
        assert held["account"]["data"]["parsed"]["info"]["tokenAmount"]["amount"] == "0"
        assert int(await evm.rpc("eth_getBalance", [evm.fee_payer, "latest"]), 16) == 10**18
    await lines.close()
    keys = sorted((tmp_path / "x402").iterdir())
    assert [key.name for key in keys] == [
        "evm-fee-payer.key",
        "evm-seller.key",
        "solana-fee-payer.key",
        "solana-seller.key",
    ]
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
