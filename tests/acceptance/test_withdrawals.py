"""What a wallet paid in comes back to it by one request, on both chains, and once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parhelion.testing.processes import WITH_CHAINS, start_up
from tests.acceptance.test_x402_buyers import EVM, GIFT_MICRO, SOLANA, Buyer, Shop

USD = 1_000_000
JSON = {"content-type": "application/json"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Shop]:
    data = tmp_path_factory.mktemp("shop") / "data"
    running = start_up(data, env=WITH_CHAINS)
    yield Shop(running, data)
    assert running.stop() == 0


def top_up(buyer: Buyer) -> str:
    """Buy credits with a stock client; the key that comes with them."""
    from eth_account import Account
    from x402 import x402ClientSync
    from x402.http.clients import x402_requests
    from x402.mechanisms.evm.exact import register_exact_evm_client
    from x402.mechanisms.svm import KeypairSigner
    from x402.mechanisms.svm.exact import register_exact_svm_client

    client = x402ClientSync()
    if buyer.network == SOLANA:
        signer = KeypairSigner.from_base58(buyer.environ["SOLANA_KEY"])
        register_exact_svm_client(client, signer, rpc_url=buyer.environ["SOLANA_RPC_URL"])
    else:
        register_exact_evm_client(client, Account.from_key(buyer.environ["EVM_KEY"]))
    with x402_requests(client) as http:
        http.trust_env = False
        answer = http.post(f"{buyer.shop.pool.api}/v1/credits/topup?usd=1", timeout=60)
    answer.raise_for_status()
    return str(answer.json()["key"])


@pytest.mark.parametrize("network", [SOLANA, EVM], ids=["solana", "evm"])
def test_a_top_up_is_withdrawn_to_the_wallet_that_paid_it_in_one_answer(
    shop: Shop, network: str
) -> None:
    buyer = Buyer(shop, network)
    key = top_up(buyer)
    assert buyer.holds() == GIFT_MICRO - USD

    def withdraw(body: dict[str, Any], name: str) -> tuple[int, Any]:
        headers = {**JSON, "idempotency-key": name}
        status, _, said = shop.pool.call(
            "POST", "/v1/credits/withdraw", body, key=key, headers=headers
        )
        return status, said

    status, said = withdraw({"amount": "400000", "network": network}, "one")
    assert (status, said["state"], said["to"]) == (200, "confirmed", buyer.address), said
    assert "custodial" in said["custody"]
    assert buyer.holds() == GIFT_MICRO - USD + 400_000
    assert withdraw({"amount": "400000", "network": network}, "one") == (200, said)
    assert withdraw({"amount": "300000"}, "one")[0] == 422
    status, all_of_it = withdraw({}, "two")
    assert (status, all_of_it["amount"]) == (200, "600000")
    assert buyer.holds() == GIFT_MICRO
    status, nothing = withdraw({}, "three")
    assert (status, nothing["error"]["code"]) == (400, "invalid_request")
    _, _, found = shop.pool.call("GET", f"/v1/credits/withdrawals/{said['id']}", key=key)
    assert found == said
    _, _, history = shop.pool.call("GET", "/v1/credits/history", key=key)
    kinds = [entry["kind"] for entry in history["data"]]
    assert kinds == ["withdrawal", "hold", "withdrawal", "hold", "deposit"]
    assert sum(int(entry["available"]) for entry in history["data"]) == 0
    assert sum(int(entry["held"]) for entry in history["data"]) == 0


def test_the_first_keys_play_money_is_not_sent_anywhere(shop: Shop) -> None:
    status, _, said = shop.pool.call("POST", "/v1/credits/withdraw", {}, headers=JSON)
    assert (status, said["error"]["code"]) == (403, "forbidden")
    status, _, said = shop.pool.call("POST", "/v1/credits/withdraw", {}, key="sk-prl-no")
    assert status == 401
