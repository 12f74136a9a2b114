"""`parhelion serve` is `up` on another port: a client that changes the port notices nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parhelion.testing.buyer import EVM, SOLANA, Wallet
from parhelion.testing.processes import UNTIMED, WITH_CHAINS, Running, start, start_up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

CHAT = {"messages": [{"role": "user", "content": "Say hi"}], "max_tokens": 4, "temperature": 0}
TEXT = {"prompt": "Say hi", "max_tokens": 4, "temperature": 0}
"""Greedily: an answer that ended early by chance would be of another shape than the other's."""
LONG = {"prompt": "word " * 9000}
BAD_KEY = {"authorization": "Bearer sk-prl-" + "A" * 43}
BAD_SESSION = {"x-parhelion-session": "ses-prl-" + "A" * 43}
PAGE = {"accept": "text/html"}
TIERS = ("basic", "standard", "premium")

Request = tuple[str, str, Any, dict[str, str]]

UNPAID: tuple[Request, ...] = (
    ("POST", "/v1/chat/completions", CHAT, {}),
    ("POST", "/v1/chat/completions", {**CHAT, "stream": True}, {}),
    ("POST", "/v1/completions", TEXT, {}),
    ("POST", "/v1/inference", TEXT, {}),
    *(("POST", f"/v1/inference?tier={tier}", TEXT, {}) for tier in TIERS),
    *(("POST", f"/{tier}/v1/chat/completions", CHAT, {}) for tier in TIERS),
    *(("GET", f"/content/{tier}", None, {}) for tier in TIERS),
    *(("GET", f"/{tier}/v1/models", None, {}) for tier in TIERS),
    ("GET", "/content/basic", None, PAGE),
    ("HEAD", "/content/basic", None, {}),
    ("GET", "/content/gold", None, {}),
    ("POST", "/gold/v1/chat/completions", CHAT, {}),
    ("POST", "/v1/inference?tier=gold", TEXT, {}),
    ("POST", "/v1/chat/completions?x=1", CHAT, {}),
    ("POST", "/v1/completions", LONG, {}),
    ("POST", "/basic/v1/completions", {"prompt": "word " * 1500}, {}),
    ("POST", "/v1/chat/completions", {**CHAT, "model": "gpt-4o"}, {}),
    ("POST", "/v1/chat/completions", {**CHAT, "max_tokens": 0}, {}),
    ("POST", "/v1/chat/completions", b"{", {}),
    ("POST", "/v1/chat/completions", CHAT, BAD_KEY),
    ("POST", "/v1/chat/completions", CHAT, BAD_SESSION),
    ("POST", "/v1/chat/completions", CHAT, {"payment-signature": "e30="}),
    ("POST", "/v1/chat/completions", CHAT, {"payment-signature": "?"}),
    ("POST", "/v1/chat/completions", CHAT, {"x-payment": "e30="}),
    ("POST", "/v1/credits/topup", None, {}),
    ("POST", "/v1/credits/topup?usd=3", None, {}),
    ("POST", "/v1/credits/withdraw", {}, {}),
    ("GET", "/v1/credits/balance", None, {}),
    ("GET", "/v1/credits/balance", None, BAD_KEY),
    ("GET", "/v1/chat/completions", None, {}),
    ("PATCH", "/v1/chat/completions", CHAT, {}),
    ("OPTIONS", "/v1/chat/completions", None, {}),
    ("GET", "/v1/models", None, {}),
    ("GET", "/v1/nodes", None, {}),
    ("GET", "/v1/chain", None, {}),
    ("GET", "/.well-known/x402", None, {}),
    ("GET", "/v1/session", None, {}),
    ("GET", "/health", None, {}),
    ("GET", "/ready", None, {}),
    ("GET", "/schema", None, {}),
    ("GET", "/nothing/here", None, {}),
)

PAID: tuple[Request, ...] = (
    ("POST", "/v1/chat/completions", CHAT, {}),
    ("POST", "/v1/chat/completions", {**CHAT, "stream": True}, {}),
    ("POST", "/basic/v1/completions", TEXT, {}),
    ("POST", "/v1/inference?tier=standard", TEXT, {}),
    ("GET", "/content/basic", None, {}),
    ("GET", "/content/basic", None, PAGE),
    ("POST", "/v1/credits/topup?usd=0.25", None, {}),
)


@pytest.fixture(scope="module")
def both(
    tmp_path_factory: pytest.TempPathFactory, smollm2: Path
) -> Iterator[tuple[Running, Running]]:
    env = {**WITH_CHAINS, **UNTIMED}
    up = start_up(tmp_path_factory.mktemp("up") / "data", env=env)
    data = tmp_path_factory.mktemp("serve") / "data"
    data.mkdir()
    ports = ["--api-port", "0", "--web-port", "0"]
    serve = start(["serve", "--json", "--data", str(data), *ports], data / "test.log", env=env)
    yield up, serve
    for running in (up, serve):
        assert running.stop() == 0


def shape(body: Any) -> Any:
    """What of a body a program goes by: names and types, at any depth."""
    if isinstance(body, dict):
        return {name: shape(value) for name, value in sorted(body.items())}
    if isinstance(body, list):
        return [shape(value) for value in body]
    return type(body).__name__


def seen(answer: tuple[int, dict[str, str], Any]) -> tuple[int, list[str], str, Any, Any]:
    """What a client sees of an answer that is not by chance."""
    status, headers, body = answer
    code = body["error"]["code"] if isinstance(body, dict) and "error" in body else None
    return status, sorted(headers), headers.get("content-type", ""), code, shape(body)


@pytest.mark.parametrize("question", UNPAID, ids=lambda each: f"{each[0]} {each[1]}")
def test_the_same_question_has_the_same_answer(
    question: Request, both: tuple[Running, Running]
) -> None:
    method, path, body, headers = question
    up, serve = (seen(each.call(method, path, body, key="", headers=headers)) for each in both)
    assert up == serve
    assert up[0] < 500


@pytest.mark.parametrize("network", [SOLANA, EVM], ids=["solana", "evm"])
def test_the_same_payment_buys_the_same(network: str, both: tuple[Running, Running]) -> None:
    up, serve = (Wallet(each, network) for each in both)
    for method, path, body, headers in PAID:
        answers = [each.pay(method, path, body, headers=headers) for each in (up, serve)]
        if isinstance(body, dict) and body.get("stream"):
            answers = [(*answer[:2], answer[2].count(b'"usage"')) for answer in answers]
        first, second = (seen(answer) for answer in answers)
        assert first == second, path
        assert first[0] == 200
    assert up.holds() == serve.holds()


def test_serve_has_the_ports_that_the_guide_names(tmp_path: Path, smollm2: Path) -> None:
    for port in (4001, 4002):
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                free.bind(("127.0.0.1", port))
            except OSError:
                pytest.skip(f"port {port} is another program's")
    running = start(["serve", "--json", "--data", str(tmp_path)], tmp_path / "log", env=UNTIMED)
    try:
        pages = running.ready["web"]
        assert (running.api, pages) == ("http://127.0.0.1:4001", "http://127.0.0.1:4002")
    finally:
        running.kill()
