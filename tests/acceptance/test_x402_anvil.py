"""A stock buyer pays a pool on foundry's EVM node: nothing of ours carries the chain's rules.

anvil has our token's code at the address of Base Sepolia's USDC; a folder of class local takes it
as the chain of this machine.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount

from parhelion.testing.processes import Running, start_up
from tests.integration.chain.minievm.processes import LIKE_BASE, Anvil, anvil

NETWORK = "eip155:84532"
GIFT_MICRO = 1_000_000
BUYER_WAIT_S = 120

SETTINGS = """
[[x402.networks]]
id = "base-sepolia"
pay_to = "{seller}"
rpc_url = "{rpc}"
fee_payer_key_file = "{fees}"
pay_to_key_file = "{own}"
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(BUYER_WAIT_S + 120)]


@pytest.fixture(scope="module")
def node() -> Iterator[Anvil]:
    with anvil(*LIKE_BASE) as made:
        yield made


@pytest.fixture(scope="module")
def pool(node: Anvil, tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Running]:
    data = tmp_path_factory.mktemp("anvil") / "data"
    data.mkdir()
    seller, fee_payer = Account.create(), Account.create()
    node.fund(fee_payer.address, wei=10**18)
    files = {"own": seller, "fees": fee_payer}
    paths: dict[str, Path] = {}
    for name, account in files.items():
        paths[name] = data / f"{name}.key"
        paths[name].write_text("0x" + bytes(account.key).hex())
        paths[name].chmod(0o600)
    settings = SETTINGS.format(seller=seller.address, rpc=node.rpc, **paths)
    (data / "config.toml").write_text(settings)
    running = start_up(data, env={"PARHELION_X402_LOCAL_CHAINS": "auto"})
    yield running
    assert running.stop() == 0


def totals(pool: Running, data: Path) -> Any:
    key = (data / "admin.key").read_text().strip()
    status, _, told = pool.call("GET", "/v1/x402/totals", key=key)
    assert status == 200, told
    return told


@pytest.mark.parametrize(
    ("environment", "program"), [("x402", "buy_httpx.py"), ("node", "buy_fetch.mjs")]
)
def test_a_stock_buyer_pays_on_anvil_and_the_books_agree_with_it(
    environment: str,
    program: str,
    node: Anvil,
    pool: Running,
    client_library: Callable[[str, str], list[str]],
) -> None:
    command = client_library(environment, program)
    buyer: LocalAccount = Account.create()
    node.fund(buyer.address, usdc=GIFT_MICRO)
    environ = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environ |= {"EVM_KEY": "0x" + bytes(buyer.key).hex(), "PARHELION_URL": pool.api}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=BUYER_WAIT_S, env=environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    price_micro = int(told["usage"]["cost"]) + int(told["usage"]["credited"])
    assert told["text"].strip() and price_micro > 0
    assert node.usdc(buyer.address) == GIFT_MICRO - price_micro
    if told.get("transaction"):
        assert node.receipt(told["transaction"])["status"] == "0x1"

    [payee] = totals(pool, pool.log.parent)["payees"]
    assert payee["network"] == NETWORK and payee["onchain"] == payee["mirror"]
