"""No way to an engine but through the gate: every route of every port of a running seller, without
credentials and with a payment in hand; and no offer for what could not be served."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from parhelion.testing.buyer import EVM, SOLANA, Chains, Wallet, offers_of
from parhelion.testing.processes import (
    UNTIMED,
    WITH_CHAINS,
    Running,
    start,
    start_echo,
    start_pool,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
TIERS = ("basic", "standard", "premium")
MANY = {"PARHELION_LIMITS_BURST": "1000000"}

CHAT = {"messages": [{"role": "user", "content": "Say hi"}], "max_tokens": 4}
TEXT = {"prompt": "Say hi", "max_tokens": 4}
BODIES: tuple[Any, ...] = (None, {}, CHAT, TEXT, {**CHAT, "stream": True}, {**TEXT, "stream": True})

DIALECTS = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": TEXT,
    "/v1/inference": TEXT,
}
PROMPTS = {
    **DIALECTS,
    **{f"/v1/inference?tier={tier}": TEXT for tier in TIERS},
    **{f"/{tier}{path}": body for tier in TIERS for path, body in DIALECTS.items()},
}
"""Every path that reaches an engine, with a good body."""

FILLED = {
    "id": "x",
    "peer": "x",
    "network": SOLANA,
    "account": "x",
    "key": "x",
    "digest": "a" * 64,
    "layers": "0-1",
}


class Seller:
    """A running pool, seen on one of its ports, and what its engines were asked to do."""

    def __init__(self, pool: Running, data: Path, nodes_log: Path | None = None) -> None:
        self.pool = pool
        self.data = data
        self._nodes_log = nodes_log

    def work(self) -> tuple[float, int]:
        """Requests that were settled by the metrics, and jobs that the node itself saw."""
        key = (self.data / "admin.key").read_text().strip()
        status, _, text = self.pool.call("GET", "/metrics", key=key)
        assert status == 200
        names = ("parhelion_requests_total", "gen_ai_client_token_usage_count")
        lines = [line for line in text.decode().splitlines() if line.startswith(names)]
        seen = 0 if self._nodes_log is None else self._nodes_log.read_text().count('"event":"job"')
        return sum(float(line.split()[-1]) for line in lines), seen

    def paths(self) -> Iterator[str]:
        """Every path of the schema, and every tier's."""
        schema = self.pool.call("GET", "/schema")[2]
        for path in schema["paths"]:
            tiers = TIERS if "{tier}" in path else ("",)
            for tier in tiers:
                filled = path.replace("{tier}", tier)
                for name, value in FILLED.items():
                    filled = filled.replace(f"{{{name}}}", value)
                assert "{" not in filled, f"{path}: say what stands there"
                if filled not in ("/v1/nodes/stream", "/v1/console/stream"):  # They never end.
                    yield filled
        yield from (f"/v1/inference?tier={tier}" for tier in TIERS)


def on_port(pool: Running, name: str) -> Running:
    return Running(pool.process, {**pool.ready, "api": pool.ready[name]}, pool.log)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Seller]:
    """A seller whose node counts what it is asked."""
    folder = tmp_path_factory.mktemp("door")
    running = start_pool(folder / "pool", env={**WITH_CHAINS, **UNTIMED, **MANY})
    debug = ("--log-level", "debug")
    node = start_echo(
        folder / "node", running.api.removeprefix("http://"), *debug, tokens_per_s=0, slots=8
    )
    yield Seller(running, folder / "pool", folder / "node" / "test.log")
    node.stop()
    assert running.stop() == 0


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Seller]:
    """`parhelion serve` with its real engine."""
    data = tmp_path_factory.mktemp("provider") / "data"
    running = serve(data)
    yield Seller(running, data)
    assert running.stop() == 0


def serve(data: Path) -> Running:
    data.mkdir(parents=True, exist_ok=True)
    ports = ["--api-port", "0", "--web-port", "0"]
    return start(
        ["serve", "--json", "--data", str(data), *ports],
        data / "test.log",
        env={**WITH_CHAINS, **UNTIMED, **MANY},
    )


@pytest.fixture(params=["api", "web", "serve"])
def seller(request: pytest.FixtureRequest) -> Seller:
    """The API's port, the pages' port, and `serve`."""
    if request.param == "serve":
        return request.getfixturevalue("provider")
    sold: Seller = request.getfixturevalue("pool")
    return Seller(on_port(sold.pool, request.param), sold.data, sold._nodes_log)


def test_no_route_works_an_engine_for_nothing(seller: Seller) -> None:
    before = seller.work()
    answers: dict[str, set[int]] = {}
    for path, method in itertools.product(list(seller.paths()), METHODS):
        for body in BODIES if method in ("POST", "PUT", "PATCH") else (None,):
            status, headers, said = seller.pool.call(method, path, body, key="")
            answers.setdefault(f"{method} {path}", set()).add(status)
            assert status < 500, (method, path, body, said)
            # 405 is a framework's, and must not be a way around the shape of our errors either.
            assert method in ("HEAD", "OPTIONS") or status < 400 or "hint" in said["error"], path
            assert "payment-response" not in headers
    assert seller.work() == before
    for path in PROMPTS:
        assert answers[f"POST {path}"] == {400, 402, 415}, path
        assert answers[f"PUT {path}"] == {405}, path


def test_every_route_that_answers_prompts_is_among_those_that_are_tried(pool: Seller) -> None:
    schema = pool.pool.call("GET", "/schema")[2]
    told = [
        path
        for path, operations in schema["paths"].items()
        if "text/event-stream" in json.dumps(operations.get("post", {}))
    ]
    assert {path.replace("{tier}", "basic") for path in told} == {
        path for path in PROMPTS if "?" not in path and path.split("/")[1] in ("v1", "basic")
    }


@pytest.mark.parametrize("path", PROMPTS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_prompt_without_payment_is_402_in_both_shapes(
    path: str, stream: bool, pool: Seller
) -> None:
    status, headers, body = pool.pool.call(
        "POST", path, {**PROMPTS[path], "stream": stream}, key=""
    )
    assert (status, headers["content-type"]) == (402, "application/json")
    document = offers_of(headers).document
    assert [each["network"] for each in document["accepts"]] == [SOLANA, EVM]
    assert {each["extra"]["label"] for each in document["accepts"]} == {"LOCAL"}
    assert document["x402Version"] == 2
    assert document["resource"]["url"] == pool.pool.api + path
    assert body["error"]["code"] == "payment_required"
    assert set(body["error"]) == {"message", "type", "code", "param", "hint"}
    assert body["accepts"] == document["accepts"]
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("network", [SOLANA, EVM], ids=["solana", "evm"])
def test_only_a_get_of_content_settles(network: str, pool: Seller) -> None:
    wallet = Wallet(pool.pool, network)
    page = wallet.sign(wallet.offered("GET", "/content/basic"))
    prompt = wallet.sign(wallet.offered("POST", "/v1/chat/completions", CHAT))
    before, had, work = wallet.chains.taken(), wallet.holds(), pool.work()
    for path, method in itertools.product(list(pool.paths()), ("GET", "HEAD", "OPTIONS")):
        for signed in (page, prompt):
            if (method, path) == ("GET", "/content/basic") and signed == page:
                continue
            _, headers, _ = wallet.sent(signed, method, path)
            assert "payment-response" not in headers, (method, path)
            assert "set-cookie" not in headers or "Max-Age=0" in headers["set-cookie"]
    assert (wallet.chains.taken(), wallet.holds(), pool.work()) == (before, had, work)
    # They were good payments all along.
    assert wallet.sent(page, "GET", "/content/basic")[0] == 200
    assert wallet.sent(prompt, "POST", "/v1/chat/completions", CHAT)[0] == 200
    assert wallet.holds() == had - 10_000 - 1000


# --- before an offer ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/basic/v1/chat/completions"])
def test_what_cannot_be_served_is_never_offered(path: str, pool: Seller) -> None:
    def asked(**changed: Any) -> tuple[int, str]:
        status, headers, said = pool.pool.call("POST", path, {**CHAT, **changed}, key="")
        assert ("payment-required" in headers) == (status == 402)
        return status, said["error"]["code"]

    assert asked(model="none/such") == (404, "model_not_found")
    long = [{"role": "user", "content": "word " * 9000}]
    assert asked(messages=long) == (400, "context_length_exceeded")
    assert asked(messages=[]) == (400, "invalid_request")
    assert asked(max_tokens=0) == (400, "invalid_request")
    assert asked(n=2)[0] == 400
    assert asked() == (402, "payment_required")


def test_a_tier_says_which_prompts_are_too_long_before_it_asks_for_money(pool: Seller) -> None:
    body = {"prompt": "word " * 1100, "max_tokens": 4}
    status, _, said = pool.pool.call("POST", "/basic/v1/completions", body, key="")
    assert (status, said["error"]["code"]) == (400, "context_length_exceeded")
    assert "basic takes 1,000 tokens" in said["error"]["message"]
    assert pool.pool.call("POST", "/standard/v1/completions", body, key="")[0] == 402


def test_the_same_body_has_the_same_price_whatever_else_runs(pool: Seller) -> None:
    def price(body: Any, path: str = "/v1/completions") -> int:
        return offers_of(pool.pool.call("POST", path, body, key="")[1]).amount_micro

    body = {"prompt": "one two three", "max_tokens": 2000}
    first = price(body)
    assert first > 1000, "above the smallest charge, else it says nothing"
    streams = [pool.pool.stream("/v1/completions", body) for _ in range(6)]
    for stream in streams:
        next(stream)
    assert {price(body) for _ in range(5)} == {first}
    assert {price(body, "/v1/inference") for _ in range(2)} == {first}
    for stream in streams:
        stream.close()
    assert price({**body, "temperature": 0.3, "seed": 7}) == first
    assert price({**body, "max_tokens": 2001}) > first


def test_above_a_dollar_the_offer_names_what_a_stock_client_pays(pool: Seller) -> None:
    key = (pool.data / "admin.key").read_text().strip()
    model = pool.pool.call("GET", "/v1/models")[2]["data"][0]
    rates = next(each for each in model["rates"] if each["asset"] == "USDC.local")
    path = f"/v1/models/{model['id']}/rates"
    a_cent_each = {"asset": "USDC.local", "prompt": "10000000000", "completion": "10000000000"}
    assert pool.pool.call("PUT", path, a_cent_each, key=key)[0] == 200
    try:
        wallet = Wallet(pool.pool)
        ask = {**CHAT, "max_tokens": 500}
        status, headers, said = pool.pool.call("POST", "/v1/chat/completions", ask, key="")
        assert status == 402
        hint = said["error"]["hint"]
        assert "refuse payments above $1" in hint
        fits = int(hint.split("max_tokens ")[1].split()[0])
        with pytest.raises(Exception, match="max_amount_per_payment"):
            wallet.sign(offers_of(headers))
        ask["max_tokens"] = fits
        fitting = wallet.offered("POST", "/v1/chat/completions", ask)
        assert 1_000_000 - 10_000 < fitting.amount_micro <= 1_000_000
        status, _, said = wallet.pay("POST", "/v1/chat/completions", ask)
        assert (status, said["usage"]["completion_tokens"]) == (200, fits)
    finally:
        again = {"asset": "USDC.local", **{n: rates[n] for n in ("prompt", "completion")}}
        assert pool.pool.call("PUT", path, again, key=key)[0] == 200


def test_no_offer_waits_for_a_chain(pool: Seller) -> None:
    """With both chains stopped 200 offers are made as if nothing were: a 402 asks nobody."""
    family = psutil.Process(pool.pool.process.pid).children(recursive=True)
    chains = [each for each in family if any("chain.local" in part for part in each.cmdline())]
    assert len(chains) == 2
    for each in chains:
        each.suspend()
    try:
        began_s = time.monotonic()
        for _ in range(200):
            assert pool.pool.call("POST", "/v1/chat/completions", CHAT, key="")[0] == 402
        assert time.monotonic() - began_s < 10
    finally:
        for each in chains:
            each.resume()
    Chains(pool.pool).taken()


# --- nobody to serve ------------------------------------------------------------------------------


def test_neither_a_dead_node_nor_a_full_queue_is_sold(tmp_path: Path, smollm2: Path) -> None:
    few = {"PARHELION_LIMITS_QUEUE_LENGTH": "1"}
    pool = start_pool(tmp_path / "pool", env={**WITH_CHAINS, **UNTIMED, **MANY, **few})
    node = start_echo(tmp_path / "node", pool.api.removeprefix("http://"), tokens_per_s=20, slots=1)
    try:
        wallet = Wallet(pool)
        signed = wallet.sign(wallet.offered("POST", "/v1/chat/completions", CHAT))
        running = pool.stream("/v1/chat/completions", {**CHAT, "max_tokens": 200})
        next(running)
        with closing(running), closing(waiting(pool)):
            refusals = [
                pool.call("POST", "/v1/chat/completions", CHAT, key=""),
                pool.call("POST", "/basic/v1/chat/completions", CHAT, key=""),
                wallet.sent(signed, "POST", "/v1/chat/completions", CHAT),
            ]
        for status, headers, said in refusals:
            assert (status, said["error"]["code"]) == (503, "overloaded")
            assert "retry-after" in headers
            assert not {"payment-required", "payment-response"} & set(headers)
        assert wallet.sent(signed, "POST", "/v1/chat/completions", CHAT)[0] == 200
        spent = wallet.sign(wallet.offered("POST", "/v1/chat/completions", CHAT))
        had = wallet.holds()
        node.kill()
        until(lambda: pool.call("GET", "/health")[0] == 503)
        for path in ("/v1/chat/completions", "/basic/v1/chat/completions", "/v1/inference"):
            body = TEXT if "inference" in path else CHAT
            status, headers, said = wallet.sent(spent, "POST", path, body)
            assert (status, said["error"]["code"]) == (503, "no_node")
            assert "payment-response" not in headers
        assert pool.call("GET", "/content/basic", key="")[0] == 503
        assert wallet.holds() == had
    finally:
        node.kill()
        pool.kill()


def waiting(pool: Running) -> Any:
    """A request that waits in line for as long as the test wants."""
    where = urlsplit(pool.api)
    line = socket.create_connection((where.hostname or "", where.port or 0))
    body = json.dumps(CHAT).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {where.netloc}\r\n"
        f"Authorization: Bearer {pool.key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    line.sendall(head.encode() + body)
    time.sleep(0.5)
    return line


def until(holds: Any, wait_s: float = 20.0) -> None:
    ends_at_s = time.monotonic() + wait_s
    while not holds():
        assert time.monotonic() < ends_at_s, "it never came true"
        time.sleep(0.05)
