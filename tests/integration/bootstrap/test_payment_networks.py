"""What a start refuses of a payment network, against a node and a facilitator that a test makes."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from parhelion.bootstrap import SystemClock
from parhelion.bootstrap.payment_networks import Lines, examined, open_network
from parhelion.bootstrap.payments import _window
from parhelion.config import X402Network
from parhelion.payments.facilitator.offers import TOKEN_PROGRAM
from parhelion.payments.x402 import Payee
from parhelion.payments.x402.networks import known, payee
from parhelion.words import AssetClass, Problem, ProblemCode

SELLER = "4Nd1mYxkoFaUUWa5mLQ6FAWEpnF7ZJ6jBKVKqCCeLMQv"
EVM_SELLER = "0x" + "ab" * 20
ANVIL = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
MINT = {
    "data": [base64.b64encode(bytes(44) + b"\x06\x01" + bytes(36)).decode(), "base64"],
    "owner": TOKEN_PROGRAM,
}
DEVNET: dict[str, Any] = {
    "getGenesisHash": "EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG",
    "getMultipleAccounts": {"value": [MINT, None]},
    "getAccountInfo": {"value": MINT},
    "getBalance": {"value": 1},
}
BASE: dict[str, Any] = {
    "eth_chainId": "0x2105",
    "eth_call": "0x" + "6".zfill(64),
    "eth_getBalance": "0x0",
}


@asynccontextmanager
async def node(
    told: dict[str, Any], kinds: list[dict[str, Any]] | None = None
) -> AsyncIterator[str]:
    """A JSON-RPC node that tells this, and a facilitator that supports these kinds."""
    seen: list[str | None] = []

    async def call(request: web.Request) -> web.Response:
        asked = await request.json()
        if asked["method"] not in told:
            error = {"code": -32601, "message": "Method not found"}
            return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "error": error})
        body = {"jsonrpc": "2.0", "id": asked["id"], "result": told[asked["method"]]}
        return web.json_response(body)

    async def supported(request: web.Request) -> web.Response:
        seen.append(request.headers.get("authorization"))
        if kinds is None or request.headers.get("authorization") != "Bearer ours":
            return web.Response(status=401)
        return web.json_response({"kinds": kinds})

    app = web.Application()
    app.router.add_post("/", call)
    app.router.add_get("/supported", supported)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def key_file(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / f"{os.urandom(4).hex()}.key"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def solana_text() -> str:
    from solders.keypair import Keypair

    return str(Keypair())


def devnet(url: str, folder: Path, **more: Any) -> Payee:
    fields = {"fee_payer_key_file": key_file(folder, solana_text()), **more}
    setting = X402Network(id="solana-devnet", pay_to=SELLER, rpc_url=url, **fields)
    return payee(setting, AssetClass.TEST)


def base(url: str, folder: Path, key: str, mode: int = 0o600, **more: Any) -> Payee:
    fields = {"pay_to": EVM_SELLER, "fee_payer_key_file": key_file(folder, key, mode), **more}
    return payee(X402Network(id="base", rpc_url=url, **fields), AssetClass.MAIN)


async def refused(paid: Payee) -> Problem:
    lines = Lines()
    try:
        with pytest.raises(Problem) as told:
            await open_network(paid, lines, SystemClock())
    finally:
        await lines.close()
    assert told.value.hint
    return told.value


async def test_a_network_that_is_what_it_should_be_is_opened(tmp_path: Path) -> None:
    lines = Lines()
    async with node(DEVNET) as url:
        opened = await open_network(devnet(url, tmp_path), lines, SystemClock())
        assert opened.payee.network.token_program == TOKEN_PROGRAM
        carrier = opened.facilitator._networks[opened.payee.network.id]
        assert (carrier._rpc, carrier._trying) == (opened.rpc, opened.strangers)
        assert opened.rpc._session is not opened.strangers._session
        window = _window(opened)
        assert (window.reader._rpc, window.is_embedded) == (opened.rpc, True)
        assert window.balance.__self__._rpc is opened.strangers
        found = await examined(devnet(url, tmp_path), SystemClock(), 5.0)
        assert found.fee_units == 1
    await lines.close()


async def test_a_fee_payer_without_anything_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = Lines()
    async with node(BASE) as url:
        await open_network(base(url, tmp_path, os.urandom(32).hex()), lines, SystemClock())
    await lines.close()
    assert "nothing to pay fees with" in caplog.text


async def test_the_node_of_another_chain_is_refused(tmp_path: Path) -> None:
    mainnet = {**DEVNET, "getGenesisHash": "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d"}
    async with node(mainnet) as url:
        assert "another chain" in (await refused(devnet(url, tmp_path))).message
    async with node({**BASE, "eth_chainId": "0x1"}) as url:
        told = await refused(base(url, tmp_path, os.urandom(32).hex()))
        assert "chain id is 1, not 8453" in told.message


async def test_a_node_of_another_kind_is_refused_at_once(tmp_path: Path) -> None:
    async with node(BASE) as url:
        assert "no node of solana-devnet" in (await refused(devnet(url, tmp_path))).message


async def test_a_seller_without_an_account_is_refused_with_the_way_to_one(tmp_path: Path) -> None:
    async with node({**DEVNET, "getAccountInfo": {"value": None}}) as url:
        told = await refused(devnet(url, tmp_path))
    assert "no USDC account" in told.message and "create-account" in told.hint


async def test_a_node_that_is_away_is_waited_for_so_long_and_its_key_not_told(
    tmp_path: Path,
) -> None:
    away = devnet("http://127.0.0.1:9/v2/SECRET?api-key=SECRET", tmp_path)
    with pytest.raises(Problem, match="does not answer") as told:
        await examined(away, SystemClock(), 0.3)
    assert told.value.code is ProblemCode.PAYMENT_UNAVAILABLE
    assert "SECRET" not in told.value.message + told.value.hint


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (ANVIL, 0o600, "test key"),
        ("01" * 32, 0o600, "guessed"),
        (f"LOCAL:0x{'9f3c' * 16}", 0o600, "LOCAL"),
        (os.urandom(32).hex(), 0o640, "others on this machine can read it"),
        ("0x1234", 0o600, "does not hold a key"),
    ],
)
async def test_a_key_that_is_not_secret_is_refused_on_a_main_network(
    tmp_path: Path, text: str, mode: int, words: str
) -> None:
    async with node(BASE) as url:
        told = await refused(base(url, tmp_path, text, mode))
    assert words in told.message
    assert text not in told.message + told.hint


async def test_nor_is_anything_paid_to_the_address_of_such_a_key(tmp_path: Path) -> None:
    anvils = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
    async with node(BASE) as url:
        told = await refused(base(url, tmp_path, os.urandom(32).hex(), pay_to=anvils))
    assert "test key" in told.message


async def test_the_payees_key_must_be_the_payees(tmp_path: Path) -> None:
    async with node(DEVNET) as url:
        paid = devnet(url, tmp_path, pay_to_key_file=key_file(tmp_path, solana_text()))
        assert "not of pay_to" in (await refused(paid)).message


def remote(url: str, folder: Path, facilitator: str, network: str = "solana-devnet") -> Payee:
    auth = key_file(folder, "Bearer ours")
    is_solana = network.startswith("solana")
    setting = X402Network(
        id=network,
        pay_to=SELLER if is_solana else EVM_SELLER,
        rpc_url=url,
        facilitator=facilitator,
        facilitator_auth_file=auth,
    )
    return payee(setting, known(network).asset_class)


def kind(network: str, **extra: str) -> dict[str, Any]:
    return {"x402Version": 2, "scheme": "exact", "network": network, "extra": extra}


async def test_a_remote_facilitator_names_the_fee_payer_of_our_offers(tmp_path: Path) -> None:
    lines = Lines()
    kinds = [kind("eip155:1"), kind(known("solana-devnet").id, feePayer=SELLER)]
    async with node(DEVNET, kinds) as url:
        opened = await open_network(remote(url, tmp_path, url), lines, SystemClock())
        assert opened.fee_payer == SELLER
    await lines.close()


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        ([kind("eip155:8453")], "does not settle 'exact'"),
        ([{**kind(known("solana-devnet").id), "x402Version": 1}], "does not settle"),
        ([kind(known("solana-devnet").id)], "names no fee payer"),
        ([kind(known("solana-devnet").id, feePayer="nobody")], "no address"),
        (None, "does not answer"),
    ],
)
async def test_a_facilitator_that_would_not_settle_our_offers_is_refused(
    tmp_path: Path, kinds: list[dict[str, Any]] | None, words: str
) -> None:
    async with node(DEVNET, kinds) as url:
        assert words in (await refused(remote(url, tmp_path, url))).message
