"""Stock packages from npm on a minievm: viem reads and sends, @x402/evm pays and settles."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from parhelion.chain.evm import State, read_transaction
from tests.integration.chain.minievm.processes import USDC, minievm

PROBE_WAIT_S = 60


@pytest.mark.slow
def test_npm_clients_use_minievm_as_they_use_base(
    tmp_path: Path, client_library: Callable[[str, str], list[str]]
) -> None:
    command = client_library("node", "minievm.mjs")
    with minievm(tmp_path / "chain") as node:
        probe = subprocess.run(
            [*command, node.rpc], capture_output=True, text=True, timeout=PROBE_WAIT_S
        )
        assert probe.returncode == 0, probe.stderr
        told = json.loads(probe.stdout)
        assert told["verified"] and told["settled"] and told["payer"] == told["buyer"]
        assert told["second"] == "invalid_exact_evm_nonce_already_used"
        assert (told["paid"], told["wei"]) == ("1000", str(10**16))
        assert told["sent"] == ["success", "eip1559", "21000"]
        # viem knows each refusal by its words.
        assert told["refusals"] == [
            "NonceTooLowError",
            "NonceTooHighError",
            "FeeCapTooLowError",
            "InsufficientFundsError",
            "IntrinsicGasTooLowError",
        ]

        async def rpc(method: str, params: list[object]) -> object:
            return await asyncio.to_thread(node.ask, method, *params)

        read = read_transaction(rpc, told["transaction"], USDC, told["seller"])
        reading = asyncio.run(read)
        assert reading.state is State.SUCCEEDED and reading.amount_from(told["buyer"]) == 1_000
