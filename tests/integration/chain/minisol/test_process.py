"""The process: its line, its door for this machine only, its end, a second on its folder."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from parhelion.chain.local.minisol import CAIP2, GENESIS_HASH, USDC_MINT
from parhelion.chain.local.minisol.app import BODY_LIMIT_BYTES
from parhelion.testing.minisol import MinisolProcess
from tests.integration.chain.minisol.conftest import Start

pytestmark = pytest.mark.slow

HEALTH = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "getHealth"}).encode()
JSON = {"content-type": "application/json"}


def test_the_ready_line_says_what_a_client_needs(minisol: MinisolProcess) -> None:
    ready = minisol.ready
    assert (ready["caip2"], ready["genesis_hash"], ready["mint"]) == (
        CAIP2,
        GENESIS_HASH,
        USDC_MINT,
    )
    assert ready["local"] is True and ready["rpc"].startswith("http://127.0.0.1:")
    assert minisol.call("getHealth") == "ok"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (JSON, 200),
        (JSON | {"content-type": "application/json; charset=utf-8"}, 200),
        ({"content-type": "text/plain"}, 415),
        ({}, 415),
        (JSON | {"origin": "http://localhost:3002"}, 403),
        (JSON | {"origin": "null"}, 403),
        (JSON | {"host": "rebound.example:80"}, 403),
        (JSON | {"host": "localhost:9"}, 200),
        (JSON | {"host": "[::1]:9"}, 200),
    ],
)
def test_web_pages_are_kept_out(
    minisol: MinisolProcess, headers: dict[str, str], status: int
) -> None:
    assert minisol.post(HEALTH, headers)[0] == status


def test_a_body_has_a_limit(minisol: MinisolProcess) -> None:
    status, answer = minisol.post(b" " * (BODY_LIMIT_BYTES + 1))
    assert status == 413
    assert json.loads(answer)["error"]["code"] == -32600
    assert minisol.post(b" " * (BODY_LIMIT_BYTES - len(HEALTH)) + HEALTH)[0] == 200


def test_only_this_machine_is_listened_to(minisol: MinisolProcess) -> None:
    outside = socket.gethostbyname(socket.gethostname())
    if outside.startswith("127."):
        pytest.skip("this machine has no other address")
    with pytest.raises(OSError):
        socket.create_connection((outside, minisol.port), timeout=2).close()


@pytest.mark.slow
def test_a_second_process_on_the_folder_is_refused(minisol: MinisolProcess) -> None:
    command = [sys.executable, "-m", "parhelion.chain.local.minisol", "--data", str(minisol.folder)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert second.returncode == 1
    assert "in use by another process" in second.stderr and "hint:" in second.stderr
    assert second.stdout == ""


@pytest.mark.slow
def test_a_taken_port_is_named(minisol: MinisolProcess, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "parhelion.chain.local.minisol", "--data", str(tmp_path)]
    command += ["--port", str(minisol.port)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert second.returncode == 1 and f"port {minisol.port}" in second.stderr


def test_a_kind_end_leaves_one_file(start: Start) -> None:
    minisol = start()
    minisol.fund("8SrBb3k9KAECjJN5zuFihw8E8xsnixj6bXZinoPjNEv8", usdc_micro=5)
    assert minisol.close() == 0
    left = {path.name for path in minisol.folder.iterdir()}
    assert left == {"minisol.db", "minisol.db.lock", "faucet.key"}
    assert (minisol.folder / "faucet.key").stat().st_mode & 0o777 == 0o600
    assert (minisol.folder / "minisol.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_it_ends_with_the_parent_that_it_was_tied_to(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "parhelion.chain.local.minisol", "--data", str(tmp_path)]
    child = subprocess.Popen(
        [*command, "--json", "--end-with-stdin"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None and child.stdout is not None
    assert child.stdout.readline()
    child.stdin.close()
    assert child.wait(timeout=10) == 0
    child.stdout.close()


async def test_a_websocket_tells_of_a_transaction_and_of_slots(minisol: MinisolProcess) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(minisol.ready["ws"]) as line:
        await line.send_json({"jsonrpc": "2.0", "id": 1, "method": "slotSubscribe"})
        slots = (await line.receive_json(timeout=5))["result"]
        first = (await line.receive_json(timeout=5))["params"]
        assert first["subscription"] == slots and first["result"]["slot"] > 0
        signature = await minisol.acall(
            "requestAirdrop", ["8SrBb3k9KAECjJN5zuFihw8E8xsnixj6bXZinoPjNEv8", 10**9]
        )
        await line.send_json(
            {"jsonrpc": "2.0", "id": 2, "method": "slotUnsubscribe", "params": [slots]}
        )
        how = [signature, {"commitment": "confirmed"}]
        await line.send_json(
            {"jsonrpc": "2.0", "id": 3, "method": "signatureSubscribe", "params": how}
        )
        told = [await line.receive_json(timeout=5)]
        while told[-1].get("method") != "signatureNotification":
            told.append(await line.receive_json(timeout=5))
        assert told[-1]["params"]["result"]["value"] == {"err": None}
        assert [each.get("result") for each in told if each.get("id") == 2] == [True]


async def test_a_websocket_from_a_page_is_refused(minisol: MinisolProcess) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(minisol.ready["ws"], headers={"origin": "http://localhost"})
