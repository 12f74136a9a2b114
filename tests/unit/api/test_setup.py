"""/v1/setup: what a pool is and lacks, and what its owner chooses; a bad word changes nothing."""

from __future__ import annotations

import asyncio
import copy
import os
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from parhelion import setup
from parhelion.api import build_app
from parhelion.api.setup import Turn
from parhelion.api.setup_rules import UNREADY_SHOWN, missing
from parhelion.coordinator import Metrics
from parhelion.identity import Invites, NodeKey, Wallets
from parhelion.payments.x402.prices import TIERS, tier_named
from parhelion.setup import FILE, Told
from parhelion.words import Credentials, Problem, ProblemCode, Tier

from .conftest import CONFIG, until

ASSET = "PRLX.local"
MODEL = "Acme/Small-1"
OTHER = "Acme/Large-2"
ADMIN = "adm-test-key"
TIER = {"name": "gold", "price": "70000", "max_tokens": 100, "max_prompt_tokens": 1000}


def choice(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "nodes": 1, "private": False, **fields}


async def put(pool: Any, body: Any, key: str | None = ADMIN) -> Any:
    return await pool.call("PUT", "/v1/setup", body, key=key)


async def test_anyone_sees_what_the_pool_is_and_the_owner_how_to_join(pool: Any) -> None:
    book = pool.setup

    async def join() -> str:
        return "/ip4/192.0.2.7/tcp/3001/p2p/12D3KooWx#inv_secret"

    book.join = join
    book.told = Told(models=("/home/me/models/large.gguf", MODEL))
    body = (await pool.call("GET", "/v1/setup")).json
    assert (body["model"], body["models"]) == (MODEL, [MODEL])
    assert (body["nodes_wanted"], body["nodes_joined"], body["missing"]) == (1, 1, [])
    assert (body["paid"], body["private"], body["tiers"], body["join"]) == (False, False, [], None)
    assert body["rates"][0] == {
        "asset": ASSET,
        "version": 1,
        "prompt": "4000000",
        "completion": "5680001",
    }
    assert body["peer"].startswith("12D3KooW")
    secret, _view = await pool.key()
    told_of = {"sk-prl-" + "A" * 43: 401, "prl-admin-" + "A" * 43: 401, secret: 403, "none": 200}
    for key, status in told_of.items():
        answer = await pool.call("GET", "/v1/setup", key=key)
        assert answer.status == status, key
        assert status != 200 or answer.json["join"] is None
    told = (await pool.call("GET", "/v1/setup", key=ADMIN)).json["join"]
    assert told == (
        "parhelion join -s '/ip4/192.0.2.7/tcp/3001/p2p/12D3KooWx#inv_secret' "
        f"-m large.gguf -m {MODEL}"
    ), "without the owner's path"


async def test_a_set_up_holds_at_once_and_is_kept_for_nobody_else_to_read(pool: Any) -> None:
    pool.catalogue.put(OTHER, {ASSET: (1, 1)})
    rates = [{"asset": ASSET, "prompt": "7", "completion": "8"}]
    response = await put(pool, choice(model="large-2", nodes=3, rates=rates))
    assert response.status == 200, response.body
    body = response.json
    assert (body["model"], body["models"]) == (OTHER, [OTHER, MODEL])
    assert (body["nodes_wanted"], pool.coordinator.need) == (3, 3)
    assert body["missing"][0].startswith("2 more nodes must join: 1 of 3 are ready")
    assert (body["rates"][0]["prompt"], body["rates"][0]["completion"]) == ("7", "8")
    assert pool.coordinator.catalogue_changes == 1
    kept = setup.read(pool.folder)
    assert kept is not None and (kept.model, kept.nodes, kept.private) == (OTHER, 3, False)
    assert (pool.folder / FILE).stat().st_mode & 0o777 == 0o600
    again = await put(pool, choice(model=OTHER, nodes=3, rates=rates))
    assert again.json["rates"] == body["rates"], "the same again is no new version"
    assert pool.coordinator.catalogue_changes == 1


async def test_a_private_pool_costs_nothing_and_a_paid_one_what_the_settings_say(pool: Any) -> None:
    body = (await put(pool, choice(private=True))).json
    assert (body["private"], body["rates"][0]["prompt"]) == (True, "0")
    body = (await put(pool, choice(private=False))).json
    assert (body["private"], body["rates"][0]["prompt"]) == (False, "4000000")


BAD: list[tuple[dict[str, Any], int]] = [
    ({"model": "none"}, 404),
    ({"nodes": 0}, 400),
    ({"nodes": 10_001}, 400),
    ({"nodes": True}, 400),
    ({"private": "yes"}, 400),
    ({"surplus": 1}, 400),
    ({"rates": [{"asset": "USDC", "prompt": "1", "completion": "1"}]}, 409),
    ({"rates": [{"asset": ASSET, "prompt": "-1", "completion": "1"}]}, 400),
    ({"rates": [{"asset": ASSET, "prompt": "1", "completion": "1"}] * 2}, 409),
    (
        {"private": True, "rates": [{"asset": ASSET, "prompt": "1", "completion": "0"}]},
        409,
    ),
    # Refused before the pool is made private, and not behind it.
    ({"private": True, "rates": [{"asset": "USDC", "prompt": "0", "completion": "0"}]}, 409),
    ({"tiers": []}, 400),
    ({"tiers": [TIER] * 2}, 409),
    ({"tiers": [TIER], "private": True}, 409),
    ({"tiers": [{**TIER, "name": "content"}]}, 409),
    ({"tiers": [{**TIER, "name": "v1"}]}, 409),
    ({"tiers": [{**TIER, "name": "../x"}]}, 400),
    ({"tiers": [{**TIER, "price": "0"}]}, 409),
    ({"tiers": [{**TIER, "max_tokens": 0}]}, 400),
    ({"tiers": [{**TIER, "model": "none"}]}, 404),
]


async def test_a_bad_word_changes_nothing(pool: Any) -> None:
    before = (await pool.call("GET", "/v1/setup")).body
    for fields, status in BAD:
        # All the rest of it would be a change.
        response = await put(pool, choice(**{"nodes": 5, **fields}))
        assert response.status == status, (fields, response.body)
        assert (await pool.call("GET", "/v1/setup")).body == before, fields
    for missed in ("model", "nodes", "private"):
        body = {name: value for name, value in choice(nodes=5).items() if name != missed}
        assert (await put(pool, body)).status == 400
    assert setup.read(pool.folder) is None and pool.coordinator.catalogue_changes == 0


async def test_only_the_admin_key_changes_it(pool: Any) -> None:
    secret, _view = await pool.key()
    for key, status in ((None, 401), ("sk-prl-" + "A" * 43, 401), (secret, 403)):
        assert (await put(pool, choice(nodes=9), key)).status == status
    assert pool.coordinator.need == 1


async def test_a_disk_that_refuses_leaves_default_and_nodes_as_they_were(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(setup, "write", full)
    before = (await pool.call("GET", "/v1/setup")).body
    response = await put(pool, choice(nodes=9, private=True))
    assert (response.status, response.error["code"]) == (503, "store_unavailable")
    assert (await pool.call("GET", "/v1/setup")).body == before, "nor the prices"


@pytest.mark.parametrize("earlier", [None, choice(nodes=4, tiers=[TIER])])
async def test_prices_that_the_store_refuses_leave_the_file_and_all_else_as_they_were(
    pool: Any, earlier: Any
) -> None:
    if earlier is not None:
        assert (await put(pool, earlier)).status == 200
    before, kept = (await pool.call("GET", "/v1/setup", key=ADMIN)).body, setup.read(pool.folder)
    pool.catalogue.refuses = Problem(ProblemCode.STORE_UNAVAILABLE, "the database is full")
    response = await put(pool, choice(nodes=9, private=True))
    assert (response.status, response.error["code"]) == (503, "store_unavailable")
    assert "nothing of the set-up was taken" in response.error["message"]
    assert setup.read(pool.folder) == kept and (kept is None) == (earlier is None)
    assert (await pool.call("GET", "/v1/setup", key=ADMIN)).body == before
    pool.catalogue.refuses = RuntimeError("a fault of ours")
    assert (await put(pool, choice(nodes=9))).status == 500
    assert setup.read(pool.folder) == kept and pool.coordinator.need == (4 if earlier else 1)


async def test_a_file_that_cannot_be_put_back_is_told_of(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(setup, "forget", full)
    pool.catalogue.refuses = Problem(ProblemCode.STORE_UNAVAILABLE, "the database is full")
    response = await put(pool, choice(nodes=9))
    assert response.status == 503 and "the next start goes by it" in response.error["message"]
    assert pool.coordinator.need == 1


async def test_tiers_hold_from_the_next_start_on_and_it_says_so(pool: Any) -> None:
    body = (await put(pool, choice(tiers=[TIER]))).json
    assert body["tiers"] == [] and body["next_start"] == ["the tiers gold"]
    whole = {**TIER, "asset": "USDC.local", "model": None, "temperature": None}
    assert body["next_tiers"] == [whole]
    assert (await pool.call("GET", "/v1/setup", key=ADMIN)).json["next_tiers"] == [whole]
    assert (await pool.call("GET", "/v1/setup")).json["next_tiers"] is None, "the owner's alone"
    body = (await put(pool, choice(nodes=2))).json
    assert body["next_start"] == ["the tiers gold"], "without tiers they stay"
    kept = setup.read(pool.folder)
    assert kept is not None and kept.tiers is not None
    assert [(tier.name, tier.price_micro) for tier in kept.tiers] == [("gold", 70000)]


@pytest.fixture
async def seller(pool: Any) -> Any:
    """The pool where payments on networks are taken: what it sells at a fixed price."""
    selling, checkout = copy.copy(pool), Shelf()
    till = SimpleNamespace(terms=checkout.terms, checkout=checkout)
    shop = SimpleNamespace(checkout=checkout, payees=())
    selling.checkout = checkout
    selling.app = build_app(
        **{
            **{name: getattr(pool, name) for name in JOINED},
            "config": CONFIG,
            "entropy": os.urandom,
            "metrics": Metrics(),
            "invites": Invites(pool.store, pool.clock),
            "wallets": Wallets(pool.store, pool.ledger, pool.clock),
            "members": None,
            "node_key": NodeKey.load_or_create(pool.folder / "coordinator.key"),
            "admin_key": ADMIN,
            "shop": shop,
            "till": till,
        }
    )
    return selling


JOINED = (
    *("coordinator", "catalogue", "keys", "ledger", "receipts", "accounts", "access", "store"),
    *("clock", "slices", "fetch_tokens", "sessions", "setup"),
)


class Shelf:
    """Of a checkout what has to do with tiers."""

    asset = "USDC.local"

    def __init__(self) -> None:
        self.tiers: tuple[Tier, ...] = TIERS

    def sell(self, tiers: tuple[Tier, ...]) -> None:
        self.tiers = tiers

    def tier(self, name: str) -> Tier:
        return tier_named(name, self.tiers)

    async def terms(self, name: str, credentials: Credentials) -> Tier:
        return self.tier(name)


ASK = {"messages": [{"role": "user", "content": "Hi"}]}
PREMIUM = {"name": "premium", "price": "375000", "max_tokens": 99, "max_prompt_tokens": 1000}


async def test_tiers_hold_at_once_where_payments_are_taken(seller: Any) -> None:
    body = (await put(seller, choice(tiers=[TIER, PREMIUM]))).json
    assert [tier["name"] for tier in body["tiers"]] == ["gold", "premium"]
    assert (body["next_start"], body["next_tiers"]) == ([], None)
    for name, tokens in (("gold", 100), ("premium", 99)):
        for path in (f"/{name}/v1/chat/completions", f"/{name}/v1/chat/completions/"):
            assert (await seller.call("POST", path, ASK)).status == 200, path
            assert seller.coordinator.asks[-1].tier.max_tokens == tokens
        listed = (await seller.call("GET", f"/{name}/v1/models")).json["data"]
        assert listed[0]["default_max_tokens"] == tokens
    told = await seller.call("POST", "/v1/inference?tier=gold", {"prompt": "Hi"})
    assert told.status == 200 and seller.coordinator.asks[-1].tier.price_micro == 70_000
    asked = len(seller.coordinator.asks)
    for path in ("/basic/v1/chat/completions", "/standard/v1/completions"):
        gone = await seller.call("POST", path, ASK)
        assert (gone.status, gone.error["code"]) == (404, "not_found"), path
        assert "gold, premium" in gone.error["hint"]
    assert (await seller.call("GET", "/basic/v1/models")).status == 404
    assert len(seller.coordinator.asks) == asked


async def test_a_tier_that_was_added_is_behind_the_same_door(seller: Any) -> None:
    await put(seller, choice(tiers=[TIER]))
    for route in ("chat/completions", "completions", "inference"):
        path, asked = f"/gold/v1/{route}", len(seller.coordinator.asks)
        foreign = await seller.call("POST", path, ASK, headers={"host": "evil.example"})
        assert foreign.status == 403, path
        origin = await seller.call("POST", path, ASK, headers={"origin": "http://evil.example"})
        assert origin.status == 403, path
        form = {"content-type": "text/plain"}
        assert (await seller.call("POST", path, ASK, headers=form)).status == 415, path
        assert (await seller.call("PUT", path, ASK)).status == 405, path
        assert len(seller.coordinator.asks) == asked


async def test_a_private_pool_sells_no_tiers_and_a_paid_one_those_that_it_had(seller: Any) -> None:
    await put(seller, choice(tiers=[TIER]))
    body = (await put(seller, choice(private=True))).json
    assert body["tiers"] == [] and [tier["name"] for tier in body["next_tiers"]] == ["gold"]
    assert body["next_start"] == []
    assert (await seller.call("GET", "/v1/setup")).json["next_tiers"] is None, "the owner's alone"
    refused = await seller.call("POST", "/gold/v1/chat/completions", ASK)
    assert refused.status == 404 and "sells none" in refused.error["hint"]
    body = (await put(seller, choice(tiers=[{**TIER, "price": "90000"}]))).json
    assert [tier["price"] for tier in body["tiers"]] == ["90000"]
    assert body["next_tiers"] is None and seller.checkout.tiers[0].price_micro == 90_000


async def test_a_refused_set_up_leaves_the_tiers_that_are_sold(seller: Any) -> None:
    seller.catalogue.refuses = Problem(ProblemCode.STORE_UNAVAILABLE, "the database is full")
    assert (await put(seller, choice(tiers=[TIER]))).status == 503
    assert seller.checkout.tiers == TIERS and setup.read(seller.folder) is None


async def test_a_set_up_whose_sender_leaves_is_whole(
    seller: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is written, the prices are not: whoever sent it goes, and the rest is done."""
    reached, go, turn = asyncio.Event(), asyncio.Event(), seller.catalogue.turn

    async def slow(*given: Any, **more: Any) -> None:
        reached.set()
        await go.wait()
        await turn(*given, **more)

    monkeypatch.setattr(seller.catalogue, "turn", slow)
    sending = asyncio.create_task(put(seller, choice(nodes=4, private=True)))
    async with asyncio.timeout(5):
        await reached.wait()
    assert setup.read(seller.folder) is not None and seller.catalogue.pricing == "paid"
    sending.cancel()
    await asyncio.wait([sending])
    other = await put(seller, choice(nodes=9))
    assert (other.status, other.error["code"]) == (409, "conflict"), "its turn is not over"
    go.set()
    await until(lambda: seller.coordinator.need == 4)
    assert seller.catalogue.pricing == "free" and seller.checkout.tiers == ()
    kept = setup.read(seller.folder)
    assert kept is not None and (kept.nodes, kept.private) == (4, True)
    assert (await put(seller, choice(nodes=2))).status == 200


async def test_a_set_up_that_is_refused_when_its_sender_has_left_is_told_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    turn, go = Turn(), asyncio.Event()

    async def refused() -> None:
        await go.wait()
        raise Problem(ProblemCode.STORE_UNAVAILABLE, "the database is full")

    waiting = asyncio.create_task(turn.whole(refused()))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    go.set()
    await until(lambda: "had left" in caplog.text)


def test_two_set_ups_at_once_are_one_and_a_refusal() -> None:
    turn = Turn()
    with turn, pytest.raises(Problem), turn:
        pass
    with turn:
        pass


async def test_what_is_missing_is_said_in_the_order_in_which_it_is_mended(pool: Any) -> None:
    (node,) = pool.coordinator.nodes()
    slow = msgspec.structs.replace(node, state="measuring", reason="its first answers")
    common: dict[str, Any] = {"model": MODEL, "why": None, "nodes": ()}
    full = missing(ready=2, wanted=2, waits=False, available=True, **common)
    assert full == ()
    few = missing(ready=0, wanted=1, waits=True, available=False, **common)
    assert few == ("1 more node must join: 0 of 1 are ready",)
    later = missing(ready=1, wanted=3, waits=False, available=True, **common)
    assert later == ("2 more nodes must join: 1 of 3 are ready; prompts are served meanwhile",)
    unserved = missing(
        **{**common, "why": "12 MB more are needed", "nodes": (node, slow)},
        ready=1, wanted=1, waits=False, available=False,
    )  # fmt: skip
    assert unserved == (
        "amber-heron-3f2a is measuring: its first answers",
        f"no node serves {MODEL} now: 12 MB more are needed",
    )
    beside = {**common, "nodes": (slow,) * 50}
    assert missing(**beside, ready=1, wanted=1, waits=False, available=True) == (), "it is whole"
    crowd = missing(**beside, ready=0, wanted=0, waits=False, available=False)[:-1]
    assert (len(crowd), crowd[-1]) == (UNREADY_SHOWN + 1, "42 more nodes are not ready")
