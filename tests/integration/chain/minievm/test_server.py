"""JSON-RPC as a node of the field speaks it, and the limits that keep the process alive."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.integration.chain.minievm.processes import USDC, Evm, minievm

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evm]:
    with minievm(tmp_path_factory.mktemp("server")) as made:
        yield made


def call(method: str = "eth_chainId", *params: Any, **fields: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": list(params), **fields}


def error(node: Evm, body: bytes) -> tuple[int, Any]:
    answer = json.loads(node.post(body))
    return answer["error"]["code"], answer["id"]


@pytest.mark.parametrize(
    ("body", "code", "call_id"),
    [
        (b"", -32700, None),
        (b"{", -32700, None),
        (b"[" * 50_000, -32600, None),
        (b"[" * 2_000, -32700, None),
        (b"[]", -32600, None),
        (b"5", -32600, None),
        (b'"x"', -32600, None),
        (b"{}", -32600, None),
        (json.dumps(call(jsonrpc="1.0")).encode(), -32600, 7),
        (json.dumps(call(id={"a": 1})).encode(), -32600, None),
        (json.dumps(call(id=True)).encode(), -32600, None),
        (json.dumps(call(method=5)).encode(), -32600, 7),
        (json.dumps(call("eth_nothing")).encode(), -32601, 7),
        (json.dumps(call(params={"a": 1})).encode(), -32602, 7),
        (json.dumps(call("eth_getBalance", "0x1")).encode(), -32602, 7),
        (json.dumps(call("eth_sendRawTransaction", "0x01")).encode(), -32000, 7),
        (json.dumps(call("eth_call", {"to": USDC, "data": "0x"})).encode(), 3, 7),
        (json.dumps([call()] * 101).encode(), -32600, None),
    ],
    ids=range(18),
)
def test_a_bad_body_has_its_code(node: Evm, body: bytes, code: int, call_id: Any) -> None:
    assert error(node, body) == (code, call_id)


def test_a_batch_is_answered_item_by_item(node: Evm) -> None:
    silent = call()
    del silent["id"]
    batch = [call(id="a"), call("eth_nothing", id=2), 5, silent, call("net_version", id=None)]
    answers = json.loads(node.post(json.dumps(batch).encode()))
    assert [answer["id"] for answer in answers] == ["a", 2, None, None]
    assert answers[0]["result"] == "0x14a34" and answers[1]["error"]["code"] == -32601
    assert node.post(json.dumps([silent]).encode()) == b""


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:1"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Host": "localhost:8545", "Origin": "http://localhost:3002"}, 200),
    ],
    ids=str,
)
def test_a_strangers_page_gets_nothing(node: Evm, headers: dict[str, str], status: int) -> None:
    connection = http.client.HTTPConnection(urlsplit(node.rpc).netloc, timeout=10)
    fields = {"Content-Type": "application/json", **headers}
    connection.request("POST", "/", json.dumps(call()), fields)
    assert connection.getresponse().status == status
    connection.close()


def test_a_large_body_is_refused_and_the_node_lives(node: Evm) -> None:
    with pytest.raises((urllib.error.HTTPError, ConnectionError, urllib.error.URLError)) as caught:
        node.post(b"[" + b" " * (2 * 1024 * 1024) + b"]")
    if isinstance(caught.value, urllib.error.HTTPError):
        assert caught.value.code == 413
    assert node.ask("eth_chainId") == "0x14a34"


def test_it_listens_on_this_machine_only(node: Evm) -> None:
    import psutil

    process = psutil.Process(node.process.pid)
    listening = [item for item in process.net_connections("inet") if item.status == "LISTEN"]
    assert [item.laddr.ip for item in listening] == ["127.0.0.1"]


def test_its_files_are_ours_alone_and_a_parent_that_dies_takes_it_along(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "parhelion.chain.local.minievm", "--data", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--json", "--end-with-stdin"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None and process.stdout is not None
        assert json.loads(process.stdout.readline())["local"] is True
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
        process.stdin.close()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
