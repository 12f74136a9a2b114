"""Paying from a page, at the API: nothing sold is 404, play money stays here, prices are told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from parhelion.api import prepare
from parhelion.identity import Caller
from parhelion.payments.x402 import TIERS, tier_named
from parhelion.payments.x402.prepared import Transaction
from parhelion.words import Quote, Rate
from tests.unit.api.conftest import CONFIG, chat_body, make_pool, model_card

ASKED = {"network": "eip155:84532", "address": "0x" + "11" * 20}
RATE = Rate(model="m", asset="A", version=1, prompt_micro=1, completion_micro=1)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (prepare.PREPARE, {**ASKED, "buys": {"topup_usd": "1"}}),
        (prepare.FAUCET, ASKED),
    ],
)
async def test_a_pool_without_networks_prepares_and_gives_nothing(
    pool: Any, path: str, body: Any
) -> None:
    answer = await pool.call("POST", path, body)
    assert (answer.status, answer.error["code"]) == (404, "not_found")


class Prices:
    """What the coordinator says of a price, and whom it was asked for."""

    def __init__(self, sold: bool) -> None:
        self.sold = sold
        self.asked: list[Any] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.cancelled = False

    async def price(self, ask: Any, credentials: Any) -> Any:
        self.asked.append((ask, credentials))
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return SimpleNamespace(
            offer=Quote(model=model_card(), prompt_ids=(1, 2, 3), max_tokens=9, rates=()),
            rate=RATE,
            cost_micro=77,
            sold=RATE if self.sold else None,
            payment_micro=1000 if self.sold else None,
        )


@pytest.mark.parametrize("sold", [True, False])
async def test_a_quote_takes_the_body_of_a_chat_and_tells_both_prices(
    pool: Any, sold: bool
) -> None:
    pool.coordinator.service = prices = Prices(sold)
    secret, _ = await pool.key()
    body = chat_body(max_tokens=9, stream=True)
    answer = await pool.call("POST", "/v1/quote", body, key=secret)
    assert answer.status == 200
    assert answer.json == {
        "model": model_card().id,
        "prompt_tokens": 3,
        "max_tokens": 9,
        "context_length": 2048,
        "cost": "77",
        "asset": "A",
        "payment": {"cost": "1000", "asset": "A"} if sold else None,
    }
    ask, credentials = prices.asked[0]
    assert (ask.max_tokens, credentials.bearer) == (9, secret)
    assert pool.coordinator.asks == [], "nothing was asked for"
    refused = await pool.call("POST", "/v1/quote", chat_body(n=2))
    assert (refused.status, refused.error["param"]) == (400, "n")


async def test_whoever_leaves_gives_its_turn_back(
    pool: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pool.coordinator.service = prices = Prices(False)
    prices.go_on.clear()
    exchange = pool.start("POST", "/v1/quote", chat_body())
    await pool.until(lambda: prices.asked)
    exchange.drop()
    await pool.until(lambda: prices.cancelled)
    await exchange.task
    assert "unexpected error" not in caplog.text


@pytest.mark.parametrize(
    ("address", "headers", "settings", "status"),
    [
        ("127.0.0.1", {}, {}, 200),
        ("::1", {"host": "[::1]:3002"}, {}, 200),
        ("192.168.1.9", {}, {}, 403),
        ("127.0.0.1", {"x-forwarded-for": "203.0.113.7"}, {}, 403),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1"}, {}, 403),
        # Proxies that say it otherwise, by the name that they pass on, or not at all.
        ("127.0.0.1", {"x-forwarded-host": "pool.example"}, {}, 403),
        ("127.0.0.1", {"cf-connecting-ip": "203.0.113.7"}, {}, 403),
        ("127.0.0.1", {"host": "pool.example"}, {"allowed_hosts": ("pool.example",)}, 403),
        ("127.0.0.1", {}, {"allowed_hosts": ("pool.example",)}, 403),
        ("127.0.0.1", {}, {"public_url": "https://pool.example"}, 403),
    ],
)
async def test_play_money_is_given_to_this_machine_only(
    tmp_path: Path,
    address: str,
    headers: dict[str, str],
    settings: dict[str, Any],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[str] = []

    class Faucet:
        async def give(self, network: str, address: str) -> Any:
            given.append(address)
            return SimpleNamespace(transaction="0xhash", amount_micro=20_000_000, asset="U")

    monkeypatch.setattr(prepare, "_shop", lambda _rooms: SimpleNamespace(faucet=Faucet()))
    api = msgspec.structs.replace(CONFIG.api, **settings)
    pool = await make_pool(tmp_path, msgspec.structs.replace(CONFIG, api=api))
    answer = await pool.call("POST", prepare.FAUCET, ASKED, client=address, headers=headers)
    await pool.store.close()
    assert answer.status == status
    assert bool(given) is (status == 200)
    if status == 200:
        assert answer.json == {"transaction": "0xhash", "amount": "20000000", "asset": "U"}


async def test_a_tier_that_no_node_serves_is_refused_before_anybody_signs(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Nobody:
        async def prepare(self, *asked: Any, **more: Any) -> Any:
            raise AssertionError("prepared")

    shop = SimpleNamespace(checkout=SimpleNamespace(tier=tier_of), preparing=Nobody())
    monkeypatch.setattr(prepare, "_shop", lambda _rooms: shop)
    monkeypatch.setattr(prepare, "Served", lambda _c: SimpleNamespace(available=lambda _m: False))
    answer = await pool.call("POST", prepare.PREPARE, {**ASKED, "buys": {"tier": "basic"}})
    assert (answer.status, answer.error["code"]) == (503, "no_node")


async def test_a_payment_that_is_prepared_says_whose_account_it_credits(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser may be signed in as somebody else by a neighbour: its owner must see it."""
    callers: list[Caller] = []

    class Preparing:
        async def prepare(self, *asked: Any, caller: Caller) -> Any:
            callers.append(caller)
            sign = Transaction(wire=b"x")
            told = dict.fromkeys(("accepted", "resource", "words", "expires_at_ms"), ())
            return SimpleNamespace(**{**told, "sign": sign, "holds_micro": 9})

    shop = SimpleNamespace(checkout=SimpleNamespace(tier=tier_of), preparing=Preparing())
    monkeypatch.setattr(prepare, "_shop", lambda _rooms: shop)
    monkeypatch.setattr(prepare, "Served", lambda _c: SimpleNamespace(available=lambda _m: True))
    opened = await pool.call("POST", "/v1/accounts/recovery", {})
    mine = {"cookie": opened.headers["set-cookie"].split(";")[0]}
    secret, view = await pool.key()
    topup, tier = {"topup_usd": "1"}, {"tier": "basic"}
    bad = {"cookie": "parhelion_session=ses-prl-" + "A" * 43}
    for buys, account, more in (
        (topup, opened.json["account"], {"headers": mine}),
        (topup, view.account, {"key": secret}),
        (topup, None, {}),
        (topup, None, {"headers": bad}),
        (tier, None, {"headers": mine}),
    ):
        answer = await pool.call("POST", prepare.PREPARE, {**ASKED, "buys": buys}, **more)
        assert (answer.status, answer.json["account"]) == (200, account), more
        assert answer.json["holds"] == "9"
    hidden = {**mine, "x-forwarded-for": "192.0.2.10"}
    asked = {**ASKED, "buys": topup}
    await pool.call("POST", prepare.PREPARE, asked, headers=hidden)
    assert callers[-1] == Caller("", opened.json["account"])
    await pool.call("POST", prepare.PREPARE, asked, headers=hidden, client="192.0.2.9")
    assert callers[-1] == Caller("192.0.2.9", opened.json["account"])


def tier_of(name: str) -> Any:
    return tier_named(name, TIERS)
