"""Real EVM nodes as a test starts them: our own, and anvil set up to look the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from parhelion.chain import contracts

READY_DEADLINE_S = 60.0
ANSWER_DEADLINE_S = 30.0
USDC = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
MULTICALL3 = "0xcA11bde05977b3631167028862bE2a173976CA11"
ANVIL = Path(__file__).parents[1] / "anvil/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil"
MINT_SELECTOR = "0x40c10f19"
BALANCE_SELECTOR = "0x70a08231"
GWEI = 10**9
BASE_FEE_WEI = 10**6
LIKE_BASE = ("--base-fee", str(BASE_FEE_WEI), "--no-priority-fee")
"""anvil with fees as low as Base's; by itself it proposes a tip of one gwei."""

KINDS = ["minievm", pytest.param("anvil", marks=pytest.mark.slow)]
"""For a fixture's `params`: `started(request.param, folder)` is a node of that kind."""


class Refused(Exception):
    """A JSON-RPC error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]


@dataclass
class Evm:
    """A running node."""

    rpc: str
    process: subprocess.Popen[str]

    def ask(self, method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        answer = json.loads(self.post(json.dumps(body).encode()))
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]

    def post(self, body: bytes, **headers: str) -> bytes:
        request = urllib.request.Request(
            self.rpc, body, {"Content-Type": "application/json", **headers}
        )
        with urllib.request.urlopen(request, timeout=ANSWER_DEADLINE_S) as response:
            return response.read()

    def receipt(self, tx_hash: str) -> Any:
        """The receipt, waited for: not every node has mined what it has taken."""
        ends_at_s = time.monotonic() + ANSWER_DEADLINE_S
        while time.monotonic() < ends_at_s:
            found = self.ask("eth_getTransactionReceipt", tx_hash)
            if found is not None:
                return found
            time.sleep(0.02)
        raise AssertionError(f"{tx_hash} was not mined")

    def fund(self, address: str, usdc: int = 0, wei: int = 0) -> None:
        self.ask("parhelion_fund", address, {"usdc": str(usdc), "wei": str(wei)})

    def usdc(self, address: str) -> int:
        """What an address holds of our token."""
        call = {"to": USDC, "data": BALANCE_SELECTOR + address[2:].rjust(64, "0")}
        return int(self.ask("eth_call", call, "latest"), 16)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(READY_DEADLINE_S)


class Anvil(Evm):
    """foundry's node with our contracts at Base Sepolia's addresses."""

    minter = ""

    def dress(self) -> None:
        usdc = contracts.load("usdc")
        self.minter = self.ask("eth_accounts")[0]
        self.ask("anvil_setCode", USDC, usdc.runtime)
        self.ask("anvil_setCode", MULTICALL3, contracts.load("multicall").runtime)
        slot = "0x" + usdc.storage["minter"].to_bytes(32, "big").hex()
        self.ask("anvil_setStorageAt", USDC, slot, "0x" + self.minter[2:].rjust(64, "0"))

    def fund(self, address: str, usdc: int = 0, wei: int = 0) -> None:
        if wei:
            self.ask("anvil_setBalance", address, hex(wei))
        if usdc:
            call = MINT_SELECTOR + address[2:].rjust(64, "0") + usdc.to_bytes(32, "big").hex()
            fields = {"from": self.minter, "to": USDC, "data": call}
            fields |= {"maxFeePerGas": hex(3 * GWEI), "maxPriorityFeePerGas": hex(GWEI)}
            self.receipt(self.ask("eth_sendTransaction", fields))


@contextmanager
def minievm(folder: Path, *options: str) -> Generator[Evm]:
    """Our node over this folder."""
    command = [sys.executable, "-m", "parhelion.chain.local.minievm", "--data", str(folder)]
    with _started([*command, "--json", *options]) as process:
        ready = json.loads(_line_with(process, "{"))
        yield Evm(ready["rpc"], process)


@contextmanager
def started(kind: str, folder: Path) -> Generator[Evm]:
    """A node of one of KINDS, with fees like Base's."""
    if kind == "minievm":
        with minievm(folder) as node:
            yield node
        return
    with anvil(*LIKE_BASE) as node:
        yield node


@contextmanager
def anvil(*options: str) -> Generator[Anvil]:
    """foundry's node; the test is skipped where it is not installed."""
    if not ANVIL.exists():
        pytest.skip("anvil is not installed: make test-all does it on Linux x64 with npm")
    command = [str(ANVIL), "--chain-id", "84532", "--port", "0", *options]
    with _started(command) as process:
        where = _line_with(process, "Listening on").rpartition(" ")[2].strip()
        node = Anvil(f"http://{where}", process)
        node.dress()
        yield node


@contextmanager
def _started(command: list[str]) -> Generator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"}
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _line_with(process: subprocess.Popen[str], words: str) -> str:
    assert process.stdout is not None
    # Killed at the deadline, so that reading ends; select cannot see lines that wait in a buffer.
    watchdog = threading.Timer(READY_DEADLINE_S, process.kill)
    watchdog.start()
    try:
        for line in process.stdout:
            if words in line:
                return line
    finally:
        watchdog.cancel()
    raise AssertionError(f"{process.args} did not get ready")
