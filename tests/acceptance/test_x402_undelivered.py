"""What was paid for and not delivered is on the payer's balance, to the unit, and its history says
so: the node dies before the first byte or in the middle, or the client leaves."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from parhelion.bootstrap import SystemClock
from parhelion.bootstrap.ground import MIGRATIONS
from parhelion.ledger import Ledger, Shares
from parhelion.proof import verify
from parhelion.store import Store
from parhelion.testing.buyer import EVM, SOLANA, Wallet, settled_of
from parhelion.testing.processes import (
    UNTIMED,
    WITH_CHAINS,
    Running,
    start_echo,
    start_pool,
    start_up,
)
from parhelion.words import AssetClass

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

GIFT_MICRO = 50_000_000
TOPUP_MICRO = 250_000
PREMIUM_MICRO, PREMIUM_TOKENS = 250_000, 512
RATE_MICRO = 4
WAIT_S = 20.0
ALONE = {**WITH_CHAINS, **UNTIMED, "PARHELION_NODES_RESUME_WAIT_S": "0"}
"""Nobody waits for a node to come back."""

CHAT = {"messages": [{"role": "user", "content": "Say hi"}]}


@dataclass
class Trade:
    """A pool, its echo nodes, and a wallet with a session that reads its account."""

    folder: Path
    pool: Running
    nodes: list[Running] = field(default_factory=list)

    def node(self, tokens_per_s: float, slots: int = 4) -> Running:
        address = self.pool.api.removeprefix("http://")
        data = self.folder / f"node-{len(self.nodes)}"
        self.nodes.append(start_echo(data, address, tokens_per_s=tokens_per_s, slots=slots))
        return self.nodes[-1]

    def buyer(self, network: str = SOLANA) -> Payer:
        wallet = Wallet(self.pool, network)
        status, _, told = wallet.pay("POST", "/v1/credits/topup?usd=0.25")
        assert status == 200, told
        return Payer(self.pool, wallet, wallet.sign_in())

    def audit(self) -> tuple[str, ...]:
        """What the books' own check finds wrong, after the processes ended."""
        self.pool.stop()

        async def look() -> tuple[str, ...]:
            clock, path = SystemClock(), self.folder / "pool" / "parhelion.db"
            store = await Store.open(path, MIGRATIONS, AssetClass.LOCAL, clock)
            shares = Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)
            try:
                ledger = Ledger(store, clock, shares)
                assert await ledger.open_holds() == ()
                return await ledger.audit()
            finally:
                await store.close()

        return asyncio.run(look())


@dataclass
class Payer:
    """A wallet that paid before, and a session that reads its account."""

    pool: Running
    wallet: Wallet
    key: str

    def account(self) -> tuple[int, int]:
        """Available and held."""
        status, _, told = self.pool.call("GET", "/v1/credits/balance", key=self.key)
        assert status == 200, told
        return int(told["available"]), int(told["held"])

    def has(self, available_micro: int) -> None:
        """Nothing is held any more, and this is available."""
        until(lambda: self.account()[1] == 0)
        assert self.account() == (available_micro, 0)

    def history(self) -> list[dict[str, Any]]:
        """What happened since the top-up, oldest first; it adds up to the balance."""
        status, _, told = self.pool.call("GET", "/v1/credits/history", key=self.key)
        assert status == 200, told
        entries = list(reversed(told["data"]))
        assert sum(int(each["available"]) for each in entries) == self.account()[0]
        return entries[1:]

    def charged(self) -> int:
        """What its one request was charged, once that is settled."""
        until(lambda: self.account()[1] == 0)
        (charge,) = [each for each in self.history() if each["kind"] == "charge"]
        return -int(charge["amount"])


@pytest.fixture
def trade(tmp_path: Path, smollm2: Path) -> Iterator[Trade]:
    found = Trade(tmp_path, start_pool(tmp_path / "pool", env=ALONE))
    yield found
    for process in (*found.nodes, found.pool):
        if process.process.poll() is None:
            process.kill()


def until(holds: Callable[[], bool]) -> None:
    ends_at_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < ends_at_s, "it never came true"
        time.sleep(0.05)


class Stream:
    """A paid stream that is read event by event."""

    def __init__(self, payer: Payer, path: str, body: Any) -> None:
        ask = {**body, "stream": True}
        wallet = payer.wallet
        self.offers = wallet.offered("POST", path, ask)
        where = urlsplit(payer.pool.api)
        self._line = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
        headers = {
            "content-type": "application/json",
            "payment-signature": wallet.sign(self.offers),
        }
        self._line.request("POST", path, json.dumps(ask).encode(), headers)
        self._response = self._line.getresponse()
        assert self._response.status == 200, self._response.read()
        told = {name.lower(): value for name, value in self._response.getheaders()}
        self.settled = settled_of(told)
        self.deltas = 0

    def events(self) -> Iterator[Any]:
        for line in self._response:
            if line.startswith(b"data: ") and b"[DONE]" not in line:
                yield json.loads(line[6:])

    def read(self, deltas: int) -> None:
        for event in self.events():
            self.deltas += bool(event["choices"] and event["choices"][0]["delta"].get("content"))
            if self.deltas >= deltas:
                return
        raise AssertionError("it ended before")

    def close(self) -> None:
        self._response.close()
        self._line.close()


@pytest.mark.parametrize("network", [SOLANA, EVM], ids=["solana", "evm"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/premium/v1/chat/completions"])
def test_a_node_that_dies_before_the_first_byte_costs_nothing(
    path: str, network: str, trade: Trade
) -> None:
    node = trade.node(tokens_per_s=0.2)
    payer = trade.buyer(network)
    ask = {**CHAT, "max_tokens": 500}
    offers = payer.wallet.offered("POST", path, ask)
    signed = payer.wallet.sign(offers)
    with killing(node, payer):
        status, headers, said = payer.wallet.sent(signed, "POST", path, ask)
    assert status in (502, 503), said
    assert "credited to your balance" in said["error"]["hint"]
    told = settled_of(headers)
    assert told["transaction"] in said["error"]["hint"]
    assert headers["x-should-retry"] == "false"
    payer.has(TOPUP_MICRO + offers.amount_micro)
    deposit, hold, back = payer.history()
    assert (deposit["kind"], int(deposit["amount"])) == ("deposit", offers.amount_micro)
    assert told["transaction"] in deposit["memo"]
    assert int(hold["available"]) + int(back["available"]) == 0
    assert payer.wallet.holds() == GIFT_MICRO - TOPUP_MICRO - offers.amount_micro
    assert trade.audit() == ()


class killing:
    """Kills a node once a payer's money is held for a request that it was given."""

    def __init__(self, node: Running, payer: Payer) -> None:
        from threading import Thread

        def wait_and_kill() -> None:
            until(lambda: payer.account()[1] > 0)
            time.sleep(0.5)
            node.kill()

        self._thread = Thread(target=wait_and_kill)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()


@pytest.mark.parametrize("tier", [False, True], ids=["by-maximum", "tier"])
def test_a_node_that_dies_in_the_middle_costs_what_it_delivered(tier: bool, trade: Trade) -> None:
    node = trade.node(tokens_per_s=40)
    payer = trade.buyer()
    path = "/premium/v1/chat/completions" if tier else "/v1/chat/completions"
    stream = Stream(payer, path, {**CHAT, "max_tokens": 500})
    paid_micro = stream.offers.amount_micro
    stream.read(20)
    node.kill()
    *_, last = stream.events()
    assert last["error"]["code"] in ("node_lost", "no_node", "link_broken")
    assert stream.settled["transaction"] in last["error"]["hint"]
    cost_micro = payer.charged()
    if tier:
        tokens = cost_micro * PREMIUM_TOKENS // PREMIUM_MICRO
    else:
        tokens = (cost_micro - RATE_MICRO * prompt_tokens(trade)) // RATE_MICRO
    assert 20 <= tokens < 400
    payer.has(TOPUP_MICRO + paid_micro - cost_micro)
    assert trade.audit() == ()


def prompt_tokens(trade: Trade) -> int:
    """How many tokens CHAT is, by an answer that was given for it."""
    trade.node(tokens_per_s=0)
    status, _, told = trade.pool.call("POST", "/v1/chat/completions", {**CHAT, "max_tokens": 1})
    assert status == 200
    return int(told["usage"]["prompt_tokens"])


def test_who_leaves_pays_for_what_was_delivered_and_no_more(trade: Trade) -> None:
    trade.node(tokens_per_s=40)
    payer = trade.buyer()
    stream = Stream(payer, "/premium/v1/chat/completions", {**CHAT, "max_tokens": 500})
    stream.read(10)
    stream.close()
    cost_micro = payer.charged()
    assert 10 * PREMIUM_MICRO // PREMIUM_TOKENS <= cost_micro < PREMIUM_MICRO // 2
    payer.has(TOPUP_MICRO + PREMIUM_MICRO - cost_micro)
    assert trade.audit() == ()


def test_who_leaves_at_once_pays_for_the_prompt(trade: Trade) -> None:
    """Else a session or a balance asks for prefills without end, and pays for none."""
    trade.node(tokens_per_s=2)
    payer = trade.buyer()
    stream = Stream(payer, "/premium/v1/chat/completions", {**CHAT, "max_tokens": 500})
    stream.read(1)
    stream.close()
    assert payer.charged() == PREMIUM_MICRO // 10
    payer.has(TOPUP_MICRO + PREMIUM_MICRO - PREMIUM_MICRO // 10)
    charge = next(each for each in payer.history() if each["kind"] == "charge")
    path = f"/v1/receipts/{charge['request']}"
    status, _, receipt = trade.pool.call("GET", path, key=payer.key)
    assert (status, receipt["finish_reason"]) == (200, "cancelled")
    checks = verify(json.dumps(receipt).encode())
    assert [check.state for check in checks if check.name == "price"] == ["ok"]
    assert trade.audit() == ()


def test_a_session_hears_that_what_it_did_not_get_is_credited(trade: Trade) -> None:
    node = trade.node(tokens_per_s=0.2)
    payer = trade.buyer()
    status, _, told = payer.wallet.pay("GET", "/content/premium")
    assert status == 200, told
    path = "/premium/v1/chat/completions"
    with killing(node, payer):
        status, headers, said = trade.pool.call("POST", path, CHAT, key=told["session"])
    assert status in (502, 503), said
    assert "credited to your balance" in said["error"]["hint"]
    assert "payment-response" not in headers
    payer.has(TOPUP_MICRO + PREMIUM_MICRO)


def test_who_finds_no_slot_in_time_has_paid_nothing(tmp_path: Path, smollm2: Path) -> None:
    hasty = {**ALONE, "PARHELION_API_REQUEST_DEADLINE_S": "2"}
    trade = Trade(tmp_path, start_pool(tmp_path / "pool", env=hasty))
    try:
        trade.node(tokens_per_s=20, slots=1)
        payer = trade.buyer()
        ask = {**CHAT, "max_tokens": 20}
        signed = payer.wallet.sign(payer.wallet.offered("POST", "/v1/chat/completions", ask))
        busy = trade.pool.stream("/v1/chat/completions", {**CHAT, "max_tokens": 300})
        next(busy)
        had = payer.wallet.holds()
        status, headers, said = payer.wallet.sent(signed, "POST", "/v1/chat/completions", ask)
        busy.close()
        assert (status, said["error"]["code"]) == (503, "deadline_exceeded")
        assert not {"payment-response", "payment-required"} & set(headers)
        assert (payer.wallet.holds(), payer.history()) == (had, [])
        # The slot comes first, the money then: what was signed is still good.
        status, headers, said = payer.wallet.sent(signed, "POST", "/v1/chat/completions", ask)
        assert (status, settled_of(headers)["amount"]) == (200, "1000")
        payer.has(TOPUP_MICRO + int(said["usage"]["credited"]))
        assert trade.audit() == ()
    finally:
        for process in (*trade.nodes, trade.pool):
            if process.process.poll() is None:
                process.kill()


def test_an_engine_that_dies_in_the_middle_costs_what_it_delivered(
    tmp_path: Path, smollm2: Path
) -> None:
    """A real engine, killed under a paid stream of a pool with no other."""
    pool = start_up(tmp_path / "pool", env=ALONE)
    trade = Trade(tmp_path, pool)
    try:
        payer = trade.buyer()
        bias = {"2": -100, "0": -100}
        stream = Stream(
            payer, "/premium/v1/chat/completions", {**CHAT, "logit_bias": bias, "temperature": 1}
        )
        stream.read(5)
        for child in psutil.Process(pool.process.pid).children(recursive=True):
            if "parhelion.engines.host" in child.cmdline():
                child.kill()
        *_, last = stream.events()
        cost_micro = payer.charged()
        # The engine may be back in time, and go on: then the answer is whole and costs its price.
        if "error" in last:
            assert stream.settled["transaction"] in last["error"]["hint"]
            assert 0 < cost_micro < PREMIUM_MICRO
        else:
            assert cost_micro == PREMIUM_MICRO
        payer.has(TOPUP_MICRO + PREMIUM_MICRO - cost_micro)
        assert trade.audit() == ()
    finally:
        if pool.process.poll() is None:
            pool.kill()
