"""A coordinator that is paid on its two local chains: start after start, and kills between."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from parhelion.testing.processes import WITH_CHAINS, Running, start_pool

WAIT_S = 30.0


def chains_of(data: Path) -> list[dict[str, Any]]:
    return json.loads((data / "api.json").read_text())["chains"]


def call(url: str, method: str, *params: Any) -> Any:
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=5)
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    try:
        connection.request("POST", "/", body, {"content-type": "application/json"})
        return json.loads(connection.getresponse().read())["result"]
    finally:
        connection.close()


def pids(data: Path) -> set[int]:
    """The chain processes of a data folder."""
    listed = subprocess.run(
        ["ps", "-Aww", "-o", "pid=,stat=,args="], capture_output=True, text=True
    )
    lines = [line.split(None, 2) for line in listed.stdout.splitlines()]
    mine = f"--data {data}/chains/"
    return {int(pid) for pid, stat, args in lines if mine in args and stat[0] != "Z"}


def wait_for(true: Any) -> None:
    until_s = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < until_s
        time.sleep(0.05)


@pytest.fixture
def begun() -> Iterator[list[Running]]:
    mine: list[Running] = []
    yield mine
    for running in mine:
        running.kill()


@pytest.mark.slow
def test_chains_live_as_long_as_their_coordinator_and_keep_address_and_seller(
    tmp_path: Path, begun: list[Running], smollm2: Path
) -> None:
    data = tmp_path / "pool"
    begun.append(start_pool(data, env=WITH_CHAINS))
    first = chains_of(data)
    assert [chain["local"] for chain in first] == [True, True]
    assert [chain["network"].partition(":")[0] for chain in first] == ["solana", "eip155"]
    keys = {path.name: path.read_bytes() for path in (data / "x402").iterdir()}
    before = pids(data)
    assert len(before) == 2

    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(pids(data)) == 2 and not pids(data) & before)
    wait_for(lambda: _answers(first[1]["rpc"]))
    assert begun[0].call("GET", "/ready")[0] == 200

    begun[0].kill()
    # At once: what the killed one left ends by itself, and is waited for.
    begun.append(start_pool(data, env=WITH_CHAINS))
    assert chains_of(data) == first
    assert {path.name: path.read_bytes() for path in (data / "x402").iterdir()} == keys
    assert len(pids(data)) == 2

    assert begun[1].stop(signal.SIGTERM) == 0
    assert pids(data) == set()


def _answers(url: str) -> bool:
    try:
        return call(url, "eth_chainId") == hex(84532)
    except OSError:
        return False


@pytest.mark.slow
def test_rates_are_set_in_the_asset_of_payments_too(
    tmp_path: Path, begun: list[Running], smollm2: Path
) -> None:
    env = {**WITH_CHAINS, "PARHELION_X402_PROMPT_RATE_MICRO": "1000000"}
    begun.append(start_pool(tmp_path / "pool", env=env))
    _, _, models = begun[0].call("GET", "/v1/models")
    rates = {rate["asset"]: rate for rate in models["data"][0]["rates"]}
    assert rates["PRLX.local"]["prompt"] == "4000000"
    assert (rates["USDC.local"]["prompt"], rates["USDC.local"]["completion"]) == (
        "1000000",
        "4000000",
    )


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (
            {"PARHELION_API_HOST": "0.0.0.0", "PARHELION_X402_LOCAL_CHAINS": "always"},
            "takes LOCAL play money, and is to be bound to 0.0.0.0.*--play-money-on-lan",
        ),
        (
            {"NEXT_PUBLIC_RECEIVER_ADDRESS": "4Nd1mYxkoFaUUWa5mLQ6FAWEpnF7ZJ6jBKVKqCCeLMQv"},
            "a local folder cannot be paid on solana-devnet.*money.asset_class test or main",
        ),
    ],
)
def test_what_cannot_be_sold_is_refused_at_the_start(
    tmp_path: Path, smollm2: Path, env: dict[str, str], words: str
) -> None:
    with pytest.raises(AssertionError) as refused:
        start_pool(tmp_path / "pool", env=env)
    assert re.search(words, str(refused.value), re.DOTALL), str(refused.value)
