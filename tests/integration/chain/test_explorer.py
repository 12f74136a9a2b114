"""The explorer over real chains: payments as they landed or failed, and a chain that is killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from parhelion.api.chain import look_at_chain
from parhelion.api.chain_shapes import shown
from parhelion.chain.local.minisol import USDC_MINT
from parhelion.chain.rpc import JsonRpc
from parhelion.chain.transaction import Standing, Transaction
from parhelion.config import X402Network
from parhelion.payments.x402 import Payee, payees
from parhelion.testing.minisol import MinisolProcess
from parhelion.words import AssetClass, Problem, ProblemCode
from tests.integration.chain.minievm.processes import USDC, Evm, minievm
from tests.integration.chain.minisol.payments import Market

CONFIRMED_WAIT_S = 10.0


@pytest.fixture(scope="module")
def minisol(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinisolProcess]:
    process = MinisolProcess(tmp_path_factory.mktemp("minisol"), "--slot-ms", "40")
    yield process
    process.close(kill=True)


def payee(network: str, pay_to: str, rpc_url: str) -> Payee:
    setting = X402Network(id=network, pay_to=pay_to, fee_payer_key_file="k", rpc_url=rpc_url)
    return payees((setting,), AssetClass.LOCAL)[0]


def look(where: Payee, id: str) -> Transaction | None:
    async def looked() -> Transaction | None:
        async with aiohttp.ClientSession() as session:
            return await look_at_chain(where.network, JsonRpc(session, where.rpc_url), id)

    return asyncio.run(looked())


def found(where: Payee, id: str) -> Transaction:
    """The transaction as soon as it is sure."""
    ends_at_s = time.monotonic() + CONFIRMED_WAIT_S
    while time.monotonic() < ends_at_s:
        told = look(where, id)
        if told is not None and told.standing is not Standing.PENDING:
            return told
        time.sleep(0.02)
    raise AssertionError(f"{id} is not sure")


def send(market: Market, amount_micro: int) -> str:
    how = {"encoding": "base64", "skipPreflight": True}
    payment = market.pay(market.offer(amount_micro))
    return market.minisol.call("sendTransaction", market.signed(payment), how)


def test_a_payment_and_a_failed_one_on_minisol_are_told_apart(minisol: MinisolProcess) -> None:
    market = Market(minisol).open(10_000)
    where = payee("solana-testnet", str(market.seller.pubkey()), minisol.url)
    landed, failed = (found(where, send(market, amount)) for amount in (4_000, 400_000))
    body = shown(where.network, landed)
    assert (body.status, body.error, body.fee_payer) == (
        "landed",
        None,
        str(market.fee_payer.pubkey()),
    )
    moved = {change.owner: (change.symbol, change.amount) for change in body.changes}
    assert moved == {
        str(market.buyer.pubkey()): ("USDC", "-4000"),
        str(market.seller.pubkey()): ("USDC", "4000"),
    }
    assert {change.asset for change in landed.changes} == {USDC_MINT}
    assert landed.at_s is not None and abs(landed.at_s - time.time()) < 60
    assert landed.block is not None and landed.fee is not None and landed.fee >= 10_000
    body = shown(where.network, failed)
    assert (body.status, body.changes) == ("failed", ())
    assert body.error is not None and "InstructionError" in body.error
    assert look(where, "5" * 87) is None


@pytest.mark.slow
def test_a_chain_that_is_killed_is_503_and_comes_back_with_all_it_had(tmp_path: Path) -> None:
    with minievm(tmp_path / "chain") as node:
        where, id = _funded(node)
        landed = found(where, id)
        node.kill()
        with pytest.raises(Problem) as caught:
            look(where, id)
        assert caught.value.code is ProblemCode.PAYMENT_UNAVAILABLE
    body = shown(where.network, landed)
    assert (body.status, body.fee_unit) == ("landed", "wei")
    moved = {change.owner: (change.symbol, change.amount) for change in body.changes}
    assert moved[where.pay_to.lower()] == ("USDC", "5000")
    assert landed.at_s is not None and abs(landed.at_s - time.time()) < 60
    with minievm(tmp_path / "chain") as again:
        assert found(payee("base-sepolia", where.pay_to, again.rpc), id) == landed


def _funded(node: Evm) -> tuple[Payee, str]:
    where = payee("base-sepolia", "0x" + "Ab" * 20, node.rpc)
    assert look(where, "0x" + "00" * 32) is None
    told: Any = node.ask("parhelion_fund", where.pay_to, {"usdc": "5000"})
    hashes = list(told.values()) if isinstance(told, dict) else list(told)
    assert USDC.lower() == where.network.token.lower()
    return where, str(hashes[0])
