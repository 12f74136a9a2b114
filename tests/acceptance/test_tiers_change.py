"""Tiers that are changed while a pool sells: what was sold is given as it was sold.

Real processes, local chains, real payments; the tiers are changed as the set-up wizard does it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from parhelion.testing.buyer import EVM, SOLANA, Wallet, offers_of, settled_of
from parhelion.testing.processes import UNTIMED, WITH_CHAINS, Running, start_echo, start_pool

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

HAS_MICRO = 50_000_000
LONG = {"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 300}
CHAT = {**LONG, "max_tokens": 8}
GOLD = {"name": "gold", "price": "70000", "max_tokens": 40, "max_prompt_tokens": 100}


class Owner:
    """A pool and the hand that sets it up."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "pool"
        self.folder = folder
        self.nodes = 0
        self.start()

    def start(self) -> None:
        """The same pool again, and a node of its own."""
        self.pool = start_pool(self.data, env={**WITH_CHAINS, **UNTIMED})
        address = self.pool.api.removeprefix("http://")
        self.nodes += 1
        node = self.folder / f"node-{self.nodes}"
        self.node = start_echo(node, address, tokens_per_s=0, slots=8)

    def stop(self) -> None:
        self.node.stop()
        assert self.pool.stop() == 0

    def sells(self, *tiers: dict[str, Any], private: bool = False, **more: Any) -> Any:
        """PUT /v1/setup; its answer."""
        asked = {"model": self.model, "nodes": 1, "private": private, **more}
        if tiers:
            asked["tiers"] = list(tiers)
        admin = (self.data / "admin.key").read_text().strip()
        status, _, told = self.pool.call("PUT", "/v1/setup", asked, key=admin)
        assert status == 200, told
        return told

    @property
    def model(self) -> str:
        return str(self.pool.call("GET", "/v1/models", key="")[2]["data"][0]["id"])


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Owner]:
    made = Owner(tmp_path_factory.mktemp("tiers"))
    yield made
    made.stop()


@pytest.fixture(params=[SOLANA, EVM], ids=["solana", "evm"])
def wallet(request: pytest.FixtureRequest, owner: Owner) -> Wallet:
    owner.sells(GOLD)
    return Wallet(owner.pool, request.param)


def gold(**changed: Any) -> dict[str, Any]:
    return {**GOLD, **changed}


def session(wallet: Wallet, tier: str = "gold") -> str:
    status, _, told = wallet.pay("GET", f"/content/{tier}")
    assert status == 200, told
    return str(told["session"])


def spent(pool: Running, token: str, body: Any = LONG, tier: str = "gold") -> Any:
    path, headers = f"/{tier}/v1/chat/completions", {"x-parhelion-session": token}
    return pool.call("POST", path, body, key="", headers=headers)


PLACES = [("GET", "/content/gold", None), ("POST", "/gold/v1/chat/completions", LONG)]


@pytest.mark.parametrize("change", [{"price": "90000"}, {"price": "30000"}, {"max_tokens": 20}])
@pytest.mark.parametrize(("method", "path", "body"), PLACES)
def test_an_old_offer_is_refused_before_it_is_settled_and_the_new_one_is_paid(
    method: str, path: str, body: Any, change: Any, wallet: Wallet, owner: Owner
) -> None:
    old = wallet.sign(wallet.offered(method, path, body))
    owner.sells(gold(**change))
    status, headers, told = wallet.sent(old, method, path, body)
    assert (status, told["error"]["code"]) == (402, "payment_required"), told
    assert "payment-response" not in headers and wallet.holds() == HAS_MICRO, "nothing was taken"
    new = gold(**change)
    assert {one["amount"] for one in offers_of(headers).document["accepts"]} == {new["price"]}
    status, headers, told = wallet.sent(wallet.sign(offers_of(headers)), method, path, body)
    assert status == 200, told
    assert settled_of(headers)["amount"] == new["price"]
    assert wallet.holds() == HAS_MICRO - int(new["price"])
    tokens = told["max_tokens"] if method == "GET" else told["usage"]["completion_tokens"]
    assert tokens == new["max_tokens"]


@pytest.mark.parametrize(
    "then",
    [
        (gold(price="900000", max_tokens=5, max_prompt_tokens=1),),
        (gold(price="1", max_tokens=1000),),
        (gold(name="silver"),),
    ],
    ids=["dearer", "cheaper", "removed"],
)
def test_a_session_gives_the_answer_that_it_was_sold_with(
    then: tuple[Any, ...], wallet: Wallet, owner: Owner
) -> None:
    token = session(wallet)
    owner.sells(*then)
    page = {"cookie": f"parhelion_answer_gold={token}", "accept": "text/html"}
    status, _, told = owner.pool.call("GET", "/content/gold", key="", headers=page)
    assert status == 200 and b"up to 40 tokens" in told
    status, _, answer = spent(owner.pool, token)
    assert status == 200, answer
    usage = answer["usage"]
    assert (usage["cost"], usage["completion_tokens"], usage["credited"]) == ("70000", 40, "0")
    assert wallet.holds() == HAS_MICRO - 70_000
    path = f"/v1/receipts/{usage['receipt']}"
    key = {"x-parhelion-session": token}
    receipt = owner.pool.call("GET", path, key="", headers=key)[2]
    assert receipt["sold"] == {"tier": "gold", "price_micro": "70000", "max_tokens": 40}
    assert spent(owner.pool, token)[0] == 401, "one answer, and no second at any terms"


def test_a_session_is_spent_in_a_pool_that_was_made_private(wallet: Wallet, owner: Owner) -> None:
    token = session(wallet)
    late = wallet.sign(wallet.offered("GET", "/content/gold"))
    told = owner.sells(private=True)
    assert told["tiers"] == [] and told["next_tiers"][0]["price"] == "70000"
    for method, path, body in PLACES:
        status, headers, said = wallet.sent(late, method, path, body)
        assert (status, "payment-response" in headers) == (404, False), said
    assert owner.pool.call("POST", "/v1/chat/completions", CHAT, key="")[0] == 200, "free"
    status, _, answer = spent(owner.pool, token)
    assert (status, answer["usage"]["cost"]) == (200, "70000")
    assert wallet.holds() == HAS_MICRO - 70_000
    told = owner.sells(gold(price="80000"))
    assert (told["tiers"][0]["price"], told["next_start"]) == ("80000", [])
    assert wallet.pay("GET", "/content/gold")[0] == 200


def test_payments_that_race_with_changes_each_buy_what_they_paid_for(owner: Owner) -> None:
    """Two prices of two lengths, changed all the while: nobody pays one and gets the other."""
    kinds = {"70000": 40, "30000": 20}
    tiers = [gold(price=price, max_tokens=tokens) for price, tokens in kinds.items()]
    owner.sells(tiers[0])
    wallets = [Wallet(owner.pool, (SOLANA, EVM)[at % 2]) for at in range(6)]

    def buys(at: int) -> tuple[int, str, int]:
        method, path, body = PLACES[at % 4 // 2]
        wallet, refused = wallets[at], 0
        while True:
            status, headers, told = wallet.pay(method, path, body)
            if status == 200:
                break
            assert (status, told["error"]["code"]) == (402, "payment_required"), told
            assert wallet.holds() == HAS_MICRO, "refused, and yet settled"
            refused += 1
            assert refused < 50
        amount = settled_of(headers)["amount"]
        if method == "GET":
            told = spent(owner.pool, told["session"])[2]
        return at, amount, told["usage"]["completion_tokens"]

    with ThreadPoolExecutor(7) as threads:
        results = [threads.submit(buys, at) for at in range(len(wallets))]
        changes = 0
        while not all(result.done() for result in results):
            changes += 1
            asked = {"model": owner.model, "nodes": 1, "private": False}
            admin = (owner.data / "admin.key").read_text().strip()
            body = {**asked, "tiers": [tiers[changes % 2]]}
            status = owner.pool.call("PUT", "/v1/setup", body, key=admin)[0]
            assert status in (200, 409)
    for at, amount, tokens in (result.result() for result in results):
        assert tokens == kinds[amount], (at, amount)
        assert wallets[at].holds() == HAS_MICRO - int(amount)
    assert changes > 1


def test_what_was_sold_and_what_is_sold_outlive_a_restart(owner: Owner) -> None:
    owner.sells(GOLD)
    wallet = Wallet(owner.pool)
    token = session(wallet)
    owner.sells(gold(price="90000", max_tokens=5))
    owner.stop()
    owner.start()
    assert {
        one["amount"]
        for one in Wallet(owner.pool).offered("GET", "/content/gold").document["accepts"]
    } == {"90000"}
    status, _, answer = spent(owner.pool, token)
    assert status == 200, answer
    assert (answer["usage"]["cost"], answer["usage"]["completion_tokens"]) == ("70000", 40)
