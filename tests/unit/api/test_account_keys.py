"""The keys that an account makes itself: of its owner only, bounded, and stopped at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parhelion.config import Config
from parhelion.identity import own_keys
from parhelion.identity.own_keys import ENDED_KEPT, PER_ACCOUNT_LIMIT
from tests.unit.api.conftest import ASSET, make_pool

pytestmark = pytest.mark.asyncio(loop_scope="session")
KEYS = "/v1/account/keys"


async def owner(pool: Any) -> tuple[str, str]:
    """A new account and a session of it."""
    response = await pool.call("POST", "/v1/accounts/recovery", {})
    token = response.headers["set-cookie"].split(";")[0].partition("=")[2]
    return response.json["account"], token


async def test_a_key_is_shown_once_and_spends_its_account(shared_pool: Any) -> None:
    pool = shared_pool
    account, token = await owner(pool)
    made = await pool.call("POST", KEYS, {"name": "laptop"}, key=token)
    assert made.status == 201 and made.headers["cache-control"] == "no-store"
    secret = made.json["secret"]
    shown = {name: value for name, value in made.json.items() if name != "secret"}
    assert shown == {
        **{"id": shown["id"], "name": "laptop", "prefix": secret[:11], "asset": ASSET},
        **{"limit": None, "spent": "0", "created_at_ms": pool.clock.now_ms()},
        **{"expires_at_ms": None, "revoked_at_ms": None},
    }
    assert (await pool.call("GET", KEYS, key=token)).json == {"keys": [shown]}
    balance = await pool.call("GET", "/v1/credits/balance", key=secret)
    assert balance.json["account"] == account


async def test_limit_and_expiry_of_a_key_hold(shared_pool: Any) -> None:
    pool = shared_pool
    account, token = await owner(pool)
    await pool.ledger.grant(account, ASSET, 500, id="grant_own_key", reason="test")
    until_ms = pool.clock.now_ms() + 60_000
    asked = {"name": "agent", "limit": "200", "expires_at_ms": until_ms}
    made = (await pool.call("POST", KEYS, asked, key=token)).json
    assert (made["limit"], made["expires_at_ms"]) == ("200", until_ms)
    balance = await pool.call("GET", "/v1/credits/balance", key=made["secret"])
    assert balance.json["available"] == "200"
    pool.clock.ahead_s += 61
    late = await pool.call("GET", "/v1/credits/balance", key=made["secret"])
    assert (late.status, late.error["code"]) == (401, "invalid_api_key")
    past = await pool.call("POST", KEYS, {"name": "x", "expires_at_ms": 1}, key=token)
    assert (past.status, past.error["param"]) == (409, "expires_at_ms")


async def test_a_key_that_spends_a_part_makes_none(shared_pool: Any) -> None:
    pool = shared_pool
    _, token = await owner(pool)
    until_ms = pool.clock.now_ms() + 60_000
    for part in ({"limit": "200"}, {"expires_at_ms": until_ms}):
        made = (await pool.call("POST", KEYS, {"name": "part", **part}, key=token)).json
        for method, path, body in (
            ("POST", KEYS, {"name": "more"}),
            ("GET", KEYS, None),
        ):
            refused = await pool.call(method, path, body, key=made["secret"])
            assert (refused.status, refused.error["code"]) == (403, "forbidden")
    assert (await pool.call("POST", KEYS, {"name": "nobody's"})).status == 401


@pytest.mark.parametrize("part", [{}, {"limit": "200"}])
async def test_a_found_key_makes_none_and_ends_none_but_itself(
    shared_pool: Any, part: dict[str, str]
) -> None:
    """It must neither outlive its own end, nor lock its owner's programs out."""
    pool = shared_pool
    _, token = await owner(pool)
    other = (await pool.call("POST", KEYS, {"name": "other"}, key=token)).json
    found = (await pool.call("POST", KEYS, {"name": "found", **part}, key=token)).json
    for method, path, body in (
        ("POST", KEYS, {"name": "outlives it"}),
        ("DELETE", f"{KEYS}/{other['id']}", None),
        ("DELETE", f"{KEYS}/key_unknown", None),
    ):
        refused = await pool.call(method, path, body, key=found["secret"])
        assert (refused.status, refused.error["code"]) == (403, "forbidden"), path
    listed = await pool.call("GET", KEYS, key=found["secret"])
    assert listed.status == (403 if part else 200)
    gone = await pool.call("DELETE", f"{KEYS}/{found['id']}", key=found["secret"])
    assert gone.status == 200 and gone.json["revoked_at_ms"]
    assert (await pool.call("GET", KEYS, key=found["secret"])).status == 401
    assert (await pool.call("GET", "/v1/credits/balance", key=other["secret"])).status == 200


async def test_a_revoked_key_stops_at_once_and_another_accounts_is_not_there(
    shared_pool: Any,
) -> None:
    pool = shared_pool
    _, token = await owner(pool)
    _, other = await owner(pool)
    made = (await pool.call("POST", KEYS, {"name": "gone"}, key=token)).json
    path = f"{KEYS}/{made['id']}"
    stranger = await pool.call("DELETE", path, key=other)
    assert (stranger.status, stranger.error["code"]) == (404, "not_found")
    assert (await pool.call("GET", "/v1/credits/balance", key=made["secret"])).status == 200
    for _ in range(2):
        gone = await pool.call("DELETE", path, key=token)
        assert gone.json["revoked_at_ms"] == pool.clock.now_ms()
    assert (await pool.call("GET", "/v1/credits/balance", key=made["secret"])).status == 401
    assert (await pool.call("GET", KEYS, key=token)).json["keys"] == [gone.json]
    unknown = await pool.call("DELETE", f"{KEYS}/key_unknown", key=token)
    assert unknown.status == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "x" * 65},
        {"name": "a\u202eb"},
        {"name": "x", "limit": 5},
        {"name": "x", "limit": "-1"},
        {"name": "x", "limit": "1" * 16},
        {"name": "x", "asset": "USDC"},
        {"name": "x", "account": "acct_other"},
    ],
)
async def test_only_a_name_a_limit_and_an_end_are_taken(
    shared_pool: Any, body: dict[str, Any]
) -> None:
    _, token = await owner(shared_pool)
    response = await shared_pool.call("POST", KEYS, body, key=token)
    assert response.status == 400 and response.error["param"]


async def test_an_account_has_a_bounded_number_of_keys_and_leaves_no_rows(
    shared_pool: Any,
) -> None:
    """Whoever makes and ends keys over and over must not fill the file."""
    pool = shared_pool
    account, token = await owner(pool)
    # The operator's own keys of this account are counted apart.
    await pool.keys.create(account, asset=ASSET, name="operator's")
    for n in range(PER_ACCOUNT_LIMIT):
        assert (await pool.call("POST", KEYS, {"name": f"k{n}"}, key=token)).status == 201
    full = await pool.call("POST", KEYS, {"name": "more"}, key=token)
    assert (full.status, full.error["code"]) == (409, "conflict")
    assert str(PER_ACCOUNT_LIMIT) in full.error["hint"]
    listed = (await pool.call("GET", KEYS, key=token)).json["keys"]
    assert len(listed) == PER_ACCOUNT_LIMIT + 1
    for key in listed:
        await pool.call("DELETE", f"{KEYS}/{key['id']}", key=token)
    for _ in range(6):
        made = (await pool.call("POST", KEYS, {"name": "again"}, key=token)).json
        await pool.call("DELETE", f"{KEYS}/{made['id']}", key=token)
    ((rows,),) = await pool.store.read("SELECT count(*) FROM keys WHERE account = ?", (account,))
    assert rows <= ENDED_KEPT + 2
    names = {key["name"] for key in (await pool.call("GET", KEYS, key=token)).json["keys"]}
    assert "operator's" in names, "an operator's key is never forgotten"


async def test_where_all_keys_are_taken_the_account_with_most_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody's only key is pushed out by strangers, nor an operator's."""
    pool = await make_pool(tmp_path, Config())
    monkeypatch.setattr(own_keys, "IN_ALL_LIMIT", 4)
    try:
        operators, _ = await pool.key()
        one, many, late, last = [(await owner(pool))[1] for _ in range(4)]

        async def make(token: str, name: str, **more: Any) -> Any:
            return await pool.call("POST", KEYS, {"name": name, **more}, key=token)

        async def live(token: str) -> list[str]:
            listed = (await pool.call("GET", KEYS, key=token)).json["keys"]
            return [each["name"] for each in listed if each["revoked_at_ms"] is None]

        await make(one, "oldest, never used")
        soon_ms = pool.clock.now_ms() + 1_000
        for name, more in (("a", {}), ("b", {}), ("ends", {"expires_at_ms": soon_ms})):
            pool.clock.ahead_s += 0.01
            assert (await make(many, name, **more)).status == 201
        pool.clock.ahead_s += 2
        assert (await make(late, "in the place of one that expired")).status == 201
        assert sorted(await live(many)) == ["a", "b"]
        own = await make(many, "c")
        assert (own.status, own.error["code"]) == (409, "conflict"), "nobody has more"
        assert (await make(last, "of the account with most")).status == 201
        assert await live(many) == ["b"]
        full = await make((await owner(pool))[1], "each has one")
        assert (full.status, full.error["code"]) == (409, "conflict")
        for token in (one, late, last, many):
            assert len(await live(token)) == 1
        assert (await pool.call("GET", "/v1/credits/balance", key=operators)).status == 200
    finally:
        await pool.store.close()
