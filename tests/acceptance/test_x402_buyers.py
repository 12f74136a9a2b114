"""Stock x402 buyers, unmodified, against a running `up`: each pays once on each chain, is answered
and credited, and chain and books agree to the unit."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from solders.keypair import Keypair

from parhelion.testing.processes import WITH_CHAINS, Running, start_up

BUYER_WAIT_S = 120
FUNDED_WAIT_S = 20
GIFT_MICRO = 1_000_000
SOLANA, EVM = "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z", "eip155:84532"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(BUYER_WAIT_S + 120)]

HELD = """
SELECT credits_posted - debits_posted - debits_pending FROM balances
WHERE asset = 'USDC.local' AND account = (SELECT account FROM wallets WHERE wallet = ?)
"""


@dataclass
class Shop:
    """A pool that is paid on two local chains, and what its admin sees of them."""

    pool: Running
    data: Path

    def __post_init__(self) -> None:
        _, _, told = self.pool.call("GET", "/v1/chain")
        self.networks = {each["network"]: each for each in told["data"]}

    def rpc(self, network: str, method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        request = urllib.request.Request(
            self.networks[network]["rpc"],
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())["result"]

    def settled(self, network: str) -> tuple[int, int]:
        """Payments on a network that are settled: how many, and what they brought."""
        totals = self._totals()
        rows = [row for row in totals["claims"] if row["network"] == network]
        assert {row["state"] for row in rows} <= {"settled"}
        for payee in totals["payees"]:
            assert payee["onchain"] == payee["mirror"], "the chain and the books differ"
        return sum(row["claims"] for row in rows), sum(int(row["landed"]) for row in rows)

    def credited(self, wallet: str) -> int:
        """What the books have for a wallet, by CAIP-10."""
        with sqlite3.connect(f"file:{self.data / 'parhelion.db'}?mode=ro", uri=True) as books:
            return int(books.execute(HELD, (wallet,)).fetchone()[0])

    def _totals(self) -> Any:
        key = (self.data / "admin.key").read_text().strip()
        status, _, totals = self.pool.call("GET", "/v1/x402/totals", key=key)
        assert status == 200, totals
        return totals


@dataclass
class Buyer:
    """A wallet of a test's own on one chain."""

    shop: Shop
    network: str

    def __post_init__(self) -> None:
        self.environ = {"PARHELION_URL": self.shop.pool.api}
        if self.network == SOLANA:
            key = Keypair()
            self.address = str(key.pubkey())
            rpc_url = self.shop.networks[SOLANA]["rpc"]
            self.environ |= {"SOLANA_KEY": str(key), "SOLANA_RPC_URL": rpc_url}
            self.shop.rpc(SOLANA, "minisol_fund", self.address, {"usdc": str(GIFT_MICRO)})
        else:
            account = Account.create()
            self.address = account.address.lower()
            self.environ |= {"EVM_KEY": "0x" + bytes(account.key).hex()}
            self.shop.rpc(EVM, "parhelion_fund", self.address, {"usdc": str(GIFT_MICRO)})
        ends_at_s = time.monotonic() + FUNDED_WAIT_S
        while self.holds() != GIFT_MICRO:
            assert time.monotonic() < ends_at_s, "the gift does not arrive"
            time.sleep(0.05)

    def holds(self) -> int:
        """USDC on the chain, in base units."""
        if self.network == SOLANA:
            of = {"mint": self.shop.networks[SOLANA]["token"]}
            how = {"encoding": "jsonParsed", "commitment": "confirmed"}
            rows = self.shop.rpc(SOLANA, "getTokenAccountsByOwner", self.address, of, how)["value"]
            parsed = [row["account"]["data"]["parsed"]["info"] for row in rows]
            return sum(int(each["tokenAmount"]["amount"]) for each in parsed)
        data = "0x70a08231" + self.address[2:].rjust(64, "0")
        call = {"to": self.shop.networks[EVM]["token"], "data": data}
        return int(self.shop.rpc(EVM, "eth_call", call, "latest"), 16)

    def run(self, command: list[str], **more: str) -> Any:
        """What the buyer's program printed."""
        environ = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=BUYER_WAIT_S,
            env={**environ, **self.environ, **more},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Shop]:
    data = tmp_path_factory.mktemp("shop") / "data"
    running = start_up(data, env=WITH_CHAINS)
    yield Shop(running, data)
    assert running.stop() == 0


@pytest.mark.parametrize("network", [SOLANA, EVM], ids=["solana", "evm"])
@pytest.mark.parametrize(
    ("environment", "program"),
    [
        ("x402", "buy_httpx.py"),
        ("x402", "buy_requests.py"),
        ("x402", "buy_openai.py"),
        ("node", "buy_fetch.mjs"),
        ("node", "buy_openai.mjs"),
    ],
)
def test_a_stock_buyer_pays_once_is_answered_and_credited(
    environment: str,
    program: str,
    network: str,
    shop: Shop,
    client_library: Callable[[str, str], list[str]],
) -> None:
    command = client_library(environment, program)
    buyer = Buyer(shop, network)
    before = shop.settled(network)
    told = buyer.run(command)
    assert told["text"].strip()
    check_paid_once(shop, buyer, before, told["usage"], told.get("transaction"))


@pytest.mark.parametrize("network", [SOLANA, EVM], ids=["solana", "evm"])
def test_curl_pays_with_a_signature_made_beside_it(
    network: str, shop: Shop, client_library: Callable[[str, str], list[str]]
) -> None:
    python, script = client_library("x402", "buy_curl.sh")
    if shutil.which("curl") is None:
        pytest.skip("no curl on the PATH")
    buyer = Buyer(shop, network)
    before = shop.settled(network)
    told = buyer.run(["sh", script], PYTHON=python)
    assert told["choices"][0]["message"]["content"].strip()
    check_paid_once(shop, buyer, before, told["usage"], None)


def check_paid_once(
    shop: Shop, buyer: Buyer, before: tuple[int, int], usage: Any, transaction: str | None
) -> None:
    """One payment left the wallet, is settled, and what was not used stands in the books."""
    price_micro = int(usage["cost"]) + int(usage["credited"])
    assert (usage["asset"], int(usage["credited"]) > 0) == ("USDC.local", True)
    assert usage["completion_tokens"] <= 24
    assert buyer.holds() == GIFT_MICRO - price_micro
    payments, landed_micro = shop.settled(buyer.network)
    assert (payments, landed_micro) == (before[0] + 1, before[1] + price_micro)
    assert shop.credited(f"{buyer.network}:{buyer.address}") == int(usage["credited"])
    if transaction is None:
        return
    path = f"/v1/chain/{buyer.network}/tx/{transaction}"
    status, _, seen = shop.pool.call("GET", path)
    assert (status, seen["status"], seen["label"]) == (200, "landed", "LOCAL")
    pay_to = shop.networks[buyer.network]["pay_to"]
    payee = pay_to if buyer.network == SOLANA else pay_to.lower()
    moved = {each["owner"]: (each["symbol"], int(each["amount"])) for each in seen["changes"]}
    assert moved == {buyer.address: ("USDC", -price_micro), payee: ("USDC", price_micro)}


def test_a_buyer_without_money_is_refused_and_nothing_happens(
    shop: Shop, client_library: Callable[[str, str], list[str]]
) -> None:
    command = client_library("node", "buy_fetch.mjs")
    before = shop.settled(EVM)
    poor = "0x" + bytes(Account.create().key).hex()
    environ = {**os.environ, "PARHELION_URL": shop.pool.api, "EVM_KEY": poor}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=BUYER_WAIT_S, env=environ
    )
    assert done.returncode != 0
    assert "refused" in done.stderr
    assert shop.settled(EVM) == before
