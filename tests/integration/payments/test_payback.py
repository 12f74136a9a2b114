"""kill -9 of who sends back, and of the chains: each wallet is paid once for each withdrawal."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from parhelion.chain.solana import associated_account
from parhelion.testing.minisol import MinisolProcess
from tests.integration.chain.minievm.processes import USDC, Evm, minievm

CHILD = Path(__file__).with_name("payback.py")
DEPOSIT_MICRO = 3_000_000
STEPS_LIMIT = 14
"""Far more steps than one withdrawal has: a loop that gets here does not end."""

STORMS = 8
DEAF = (1, 5)
"""Storms in which nothing that is sent arrives."""

EXPIRED_S = 9.0
"""150 slots and the 32 to the final one."""

WALLETS = 5
SLOT_MS = 40
"""A tenth of the real one: a blockhash lives for 6 s."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    children: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, str(CHILD), str(tmp_path), *map(str, arguments)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        children.append(child)
        return child

    yield start
    for child in children:
        if child.poll() is None:
            child.kill()
            child.communicate(timeout=10)


def ended(child: subprocess.Popen[str]) -> Any:
    said, complained = child.communicate(timeout=120)
    assert child.returncode == 0, complained[-4000:]
    told = json.loads(said.splitlines()[-1])
    assert told["audit"] == [] and told["held"] == 0
    return told


@pytest.mark.parametrize("point", ["before", "after"])
def test_killed_at_every_step_of_a_withdrawal_the_wallet_is_paid_once(
    tmp_path: Path, start: Start, point: str
) -> None:
    steps: list[str] = []
    for number in range(1, STEPS_LIMIT + 1):
        for file in tmp_path.iterdir():
            file.unlink()
        child = start("once", point, number)
        said, complained = child.communicate(timeout=60)
        steps = [line for line in complained.splitlines() if line.startswith("step")]
        if child.returncode == 0:
            assert said == "confirmed\n"
            break
        assert (child.returncode, said) == (-9, ""), complained
        told = ended(start("end-once"))
        assert told["state"] == "confirmed"
        assert [int(amount) for _, _, amount in told["chain"]] == [DEPOSIT_MICRO]
        assert list(told["mirrors"].values()) == [0], "what lies on the chain now"
        assert len(told["withdrawals"]) == 1
    else:
        raise AssertionError("a withdrawal does not end")
    names = " ".join(steps)
    for name in ("hold withdrawal.request", "sign", "withdrawal.payout", "chain", "post"):
        assert name in names, steps


class Chains:
    """A minisol and a minievm on ports that they keep, with a seller and its customers."""

    def __init__(self, folder: Path) -> None:
        from eth_account import Account
        from solders.keypair import Keypair

        self.folder = folder
        self._sol_port, self._evm_port = free_port(), free_port()
        self.seller, fee_payer = Keypair(), Keypair()
        self.evm_seller, evm_fee_payer = Account.create(), Account.create()
        self.wallets = [str(Keypair().pubkey()) for _ in range(WALLETS)]
        self.evm_wallets = [Account.create().address.lower() for _ in range(WALLETS)]
        self.sol = MinisolProcess(
            folder / "sol", "--port", str(self._sol_port), "--slot-ms", str(SLOT_MS)
        )
        self.start_evm()
        self.sol.fund(str(self.seller.pubkey()), usdc_micro=WALLETS * DEPOSIT_MICRO)
        self.sol.fund(str(fee_payer.pubkey()), lamports=10**10)
        # One wallet has closed its account: it is opened for it, once.
        for wallet in self.wallets[1:]:
            self.sol.fund(wallet, usdc_micro=1)
        self.evm.fund(self.evm_seller.address, usdc=WALLETS * DEPOSIT_MICRO)
        self.evm.fund(evm_fee_payer.address, wei=10**18)
        world = {
            "solana": self.sol.url,
            "evm": self.evm.rpc,
            "solana_keys": [str(self.seller), str(fee_payer)],
            "evm_keys": [self.evm_seller.key.hex(), evm_fee_payer.key.hex()],
            "solana_wallets": self.wallets,
            "evm_wallets": self.evm_wallets,
        }
        (folder / "world.json").write_text(json.dumps(world))

    def start_evm(self) -> None:
        self._open = minievm(self.folder / "evm", "--port", str(self._evm_port))
        self.evm: Evm = self._open.__enter__()

    def kill_sol(self) -> None:
        self.sol.restart()

    def kill_evm(self) -> None:
        self.evm.kill()
        self._open.__exit__(None, None, None)
        self.start_evm()

    def close(self) -> None:
        self.sol.close(kill=True)
        self._open.__exit__(None, None, None)

    def has(self, wallet: str) -> int:
        """What a wallet has on its chain."""
        if wallet.startswith("0x"):
            call = {"to": USDC, "data": "0x70a08231" + wallet[2:].rjust(64, "0")}
            return int(self.evm.ask("eth_call", call, "latest"), 16)
        account = associated_account(wallet, self.sol.ready["mint"])
        wanted = {"encoding": "jsonParsed", "commitment": "processed"}
        found = self.sol.call("getAccountInfo", account, wanted)["value"]
        if found is None:
            return 0
        return int(found["data"]["parsed"]["info"]["tokenAmount"]["amount"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def chains(tmp_path: Path) -> Iterator[Chains]:
    made = Chains(tmp_path)
    yield made
    made.close()


def test_a_storm_with_kills_pays_each_wallet_once_and_the_books_are_the_chains(
    chains: Chains, start: Start
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    dice = random.Random(seed)
    confirmed: set[str] = set()
    for number in range(STORMS):
        child = start("storm", dice.randrange(2**31), 100 if number in DEAF else 20)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(dice.uniform(0.5, 2.0))
        if number % 3 == 0:
            dice.choice([chains.kill_sol, chains.kill_evm])()
            time.sleep(dice.uniform(0.0, 1.0))
        child.kill()
        if number in DEAF:
            # What was signed is too old when it is looked at next.
            time.sleep(EXPIRED_S)
        said, _complained = child.communicate(timeout=10)
        for line in said.splitlines(keepends=True):
            if line.endswith(" confirmed\n"):
                confirmed.add(line.split()[0])
    told = ended(start("end"))
    rows = told["withdrawals"]
    assert {row[3] for row in rows} <= {"confirmed", "returned"}
    ended_as = {row[0]: row[3] for row in rows}
    assert all(ended_as[id] == "confirmed" for id in confirmed)
    paid: Counter[str] = Counter()
    for _, _, wallet, state, amount, _ in rows:
        paid[wallet] += amount if state == "confirmed" else 0
    for wallet in (*chains.wallets, *chains.evm_wallets):
        had = 1 if wallet in chains.wallets[1:] else 0
        assert chains.has(wallet) == paid[wallet] + had, wallet
    sellers = {str(chains.seller.pubkey()), chains.evm_seller.address.lower()}
    assert {name.rpartition(":")[2] for name in told["mirrors"]} == sellers
    for name, lies_micro in told["mirrors"].items():
        assert chains.has(name.rpartition(":")[2]) == lies_micro, "to the unit"
    counted = Counter((row[1].partition(":")[0], row[3]) for row in rows)
    print(counted, "attempts", Counter(row[5] for row in rows))
    assert counted["solana", "confirmed"] > 10 and counted["eip155", "confirmed"] > 10
    assert any(row[5] > 1 for row in rows), "some were signed more than once"
