"""kill -9 at any moment: what was acknowledged is there, and nothing happens twice."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount

from tests.integration.chain.minievm.processes import Evm, Refused, minievm

GWEI = 10**9
PAY_WEI = 1_000
SEED = random.SystemRandom().getrandbits(32)


def transfer(account: LocalAccount, to: str, nonce: int) -> str:
    signed = account.sign_transaction(
        {
            "chainId": 84532,
            "nonce": nonce,
            "gas": 21_000,
            "maxFeePerGas": GWEI,
            "maxPriorityFeePerGas": 1,
            "to": to,
            "value": PAY_WEI,
        }
    )
    return "0x" + bytes(signed.raw_transaction).hex()


def send_until_it_dies(node: Evm, raws: list[str], acknowledged: list[str]) -> None:
    for raw in raws:
        try:
            acknowledged.append(node.ask("eth_sendRawTransaction", raw))
        except Refused:
            raise
        except OSError:
            return


def storm(tmp_path: Path, rounds: int, *options: str) -> None:
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    account: LocalAccount = Account.create()
    payee: str = Account.create().address
    acknowledged: list[str] = []
    raws = [transfer(account, payee, nonce) for nonce in range(rounds * 60)]
    for round_number in range(rounds):
        with minievm(tmp_path, *options) as node:
            if round_number == 0:
                node.fund(account.address, wei=10**17)
                while int(node.ask("eth_getBalance", account.address, "latest"), 16) == 0:
                    time.sleep(0.02)
            # The one in flight at the kill may be there without having been acknowledged.
            first = int(node.ask("eth_getTransactionCount", account.address, "pending"), 16)
            assert len(acknowledged) <= first <= len(acknowledged) + round_number
            missing = [
                tx for tx in acknowledged if node.ask("eth_getTransactionByHash", tx) is None
            ]
            assert missing == []
            for raw in raws[max(0, first - 5) : first]:
                with pytest.raises(Refused, match=r"nonce too low|already known|underpriced"):
                    node.ask("eth_sendRawTransaction", raw)
            killer = threading.Timer(chance.uniform(0.0, 0.35), node.kill)
            killer.start()
            send_until_it_dies(node, raws[first:], acknowledged)
            killer.join()
    with minievm(tmp_path) as node:
        deadline_s = time.monotonic() + 10
        while node.ask("eth_getTransactionReceipt", acknowledged[-1]) is None:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        for tx in acknowledged:
            assert node.ask("eth_getTransactionReceipt", tx)["status"] == "0x1"
        paid = int(node.ask("eth_getBalance", payee, "latest"), 16)
        count = int(node.ask("eth_getTransactionCount", account.address, "latest"), 16)
    assert paid == PAY_WEI * count and count >= len(acknowledged) > 0


@pytest.mark.slow
def test_a_storm_of_kills_loses_and_repeats_nothing(tmp_path: Path) -> None:
    storm(tmp_path, rounds=10)


@pytest.mark.slow
def test_a_storm_of_kills_loses_nothing_that_waits_for_a_block(tmp_path: Path) -> None:
    storm(tmp_path, 8, "--block-ms", "60")
