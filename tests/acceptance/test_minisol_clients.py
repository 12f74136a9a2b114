"""Stock packages from npm on a minisol: @solana/kit sends, @x402/svm pays and settles."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from parhelion.chain.local.minisol import CAIP2, GENESIS_HASH, USDC_MINT
from parhelion.chain.solana import Standing, read_payment
from parhelion.testing.minisol import MinisolProcess

PROBE_WAIT_S = 60


@pytest.fixture
def minisol(tmp_path: Path) -> Iterator[MinisolProcess]:
    """A chain of the test's own."""
    process = MinisolProcess(tmp_path / "chain")
    yield process
    process.close(kill=True)


@pytest.mark.slow
def test_npm_clients_use_minisol_as_they_use_solana(
    minisol: MinisolProcess, client_library: Callable[[str, str], list[str]]
) -> None:
    command = client_library("node", "minisol.mjs")
    command += [minisol.url, minisol.ready["ws"], USDC_MINT, CAIP2]
    probe = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_WAIT_S)
    assert probe.returncode == 0, probe.stderr
    told = json.loads(probe.stdout)
    assert (told["genesis"], told["lamports"], told["usdc"]) == (GENESIS_HASH, 10**9, "1000000")
    # By its subscriptions: @solana/kit does not poll.
    assert told["seller_lamports"] == 10_000_000 and told["confirm_ms"] < 5_000
    assert told["fee"] == 5_000
    assert told["verified"] and told["settled"] and told["payer_is_buyer"]
    assert "AlreadyProcessed" in told["second"]["invalidMessage"]
    read = read_payment(minisol.acall, told["transaction"], payee=told["seller"], mint=USDC_MINT)
    found = asyncio.run(read)
    assert (found.standing, found.credited) == (Standing.LANDED, 10_000)
