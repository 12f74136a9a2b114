"""Accounts without a wallet over HTTP, on a pool that takes no payments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parhelion.api.wire import FORWARDED, Visit
from parhelion.config import Config, LimitsConfig
from parhelion.identity import text_of
from parhelion.identity.recovery import written
from tests.unit.api.conftest import ASSET, make_pool
from tests.unit.identity.authenticator import Passkey

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def by_code(pool: Any) -> tuple[str, str, str]:
    """A new account, its code and the token of its session, which only the cookie tells."""
    response = await pool.call("POST", "/v1/accounts/recovery", {})
    assert response.status == 201, response.body
    told = response.json
    return told["account"], told["recovery_code"], token_of(response)


def token_of(response: Any) -> str:
    name, *attributes = response.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=86400"} == set(attributes)
    return name.removeprefix("parhelion_session=")


async def make(pool: Any, passkey: Passkey, **more: Any) -> Any:
    options = await pool.call("POST", "/v1/accounts/passkey/challenge", {}, **more)
    assert options.status == 200, options.body
    credential = passkey.create(options.json["options"])
    return await pool.call("POST", "/v1/accounts/passkey", {"credential": credential}, **more)


async def enter(pool: Any, passkey: Passkey) -> Any:
    options = (await pool.call("POST", "/v1/sign-in/passkey/challenge", {})).json["options"]
    answer = {"credential": passkey.get(options)}
    return await pool.call("POST", "/v1/sign-in/passkey", answer)


async def who(pool: Any, token: str) -> Any:
    headers = {"cookie": f"parhelion_session={token}"}
    return (await pool.call("GET", "/v1/session", headers=headers)).json


async def test_a_code_opens_an_account_and_spends_its_credits(shared_pool: Any) -> None:
    pool = shared_pool
    account, code, token = await by_code(pool)
    expected = {
        **{"account": account, "wallet": None, "wallets": [], "passkeys": 0, "recovery": True},
        **{"asset": ASSET, "tier": None, "spent": False},
        "expires_at_ms": pool.clock.now_ms() + 86_400_000,
    }
    assert await who(pool, token) == expected
    await pool.ledger.grant(account, ASSET, 77, id="grant_accounts", reason="test")
    back = await pool.call("POST", "/v1/sign-in/recovery", {"code": code.lower()})
    assert back.status == 200 and back.headers["cache-control"] == "no-store"
    told = back.json
    assert (told["account"], told["wallet"], told["balance"]) == (account, None, "77")
    assert token_of(back) == told["session"] != token
    balance = await pool.call("GET", "/v1/credits/balance", key=told["session"])
    assert balance.json["available"] == "77"


async def test_a_passkey_opens_an_account_and_a_second_is_added_by_its_session(
    shared_pool: Any,
) -> None:
    pool, one, two = shared_pool, Passkey(), Passkey()
    first = await make(pool, one)
    assert first.status == 201 and set(first.json) == {"account", "asset", "expires_at_ms"}
    token, account = token_of(first), first.json["account"]
    added = await make(pool, two, headers={"cookie": f"parhelion_session={token}"})
    assert (added.status, added.json) == (201, first.json)
    assert "set-cookie" not in added.headers
    assert (await who(pool, token))["passkeys"] == 2
    for passkey in (one, two):
        back = await enter(pool, passkey)
        assert (back.status, back.json["account"]) == (200, account)
        assert (await who(pool, token_of(back)))["recovery"] is False


async def confirm(pool: Any, token: str, code: str) -> Any:
    return await pool.call("PUT", "/v1/account/recovery", {"code": code}, key=token)


async def test_a_new_code_voids_the_old_one_when_it_is_confirmed(shared_pool: Any) -> None:
    pool = shared_pool
    account, code, token = await by_code(pool)
    newer = await pool.call("POST", "/v1/account/recovery", {}, key=token)
    assert newer.status == 200
    back = await pool.call("POST", "/v1/sign-in/recovery", {"code": code})
    assert back.json["account"] == account, "the answer with the new one may have been lost"
    odd = await confirm(pool, token, code[:-1])
    assert (odd.status, odd.error["param"]) == (401, "code")
    odd = await confirm(pool, token, written(b"o" * 32))
    assert (odd.status, odd.error["code"]) == (409, "conflict")
    for ended in (1, 0):
        kept = await confirm(pool, token, newer.json["recovery_code"])
        assert (kept.status, kept.json) == (200, {"ended": ended})
    void = await pool.call("POST", "/v1/sign-in/recovery", {"code": code})
    assert (void.status, void.error["code"]) == (401, "sign_in_invalid")
    good = await pool.call("POST", "/v1/sign-in/recovery", newer.json)
    assert good.status == 400, "the field is called code"
    good = await pool.call("POST", "/v1/sign-in/recovery", {"code": newer.json["recovery_code"]})
    assert good.json["account"] == account
    assert (await pool.call("POST", "/v1/account/recovery", {})).status == 401
    assert (await pool.call("PUT", "/v1/account/recovery", {"code": code})).status == 401


async def test_a_passkey_is_removed_but_never_the_last_way_in(shared_pool: Any) -> None:
    """Whoever added one with a stolen session must not come back with it."""
    pool, mine, thiefs = shared_pool, Passkey(), Passkey()
    token = token_of(await make(pool, mine))
    cookie = {"cookie": f"parhelion_session={token}"}
    await make(pool, thiefs, headers=cookie)
    path = "/v1/account/passkeys"
    listed = (await pool.call("GET", path, key=token)).json["passkeys"]
    assert {each["host"] for each in listed} == {"localhost"}
    ids = {each["id"] for each in listed}
    assert ids == {text_of(mine.credential), text_of(thiefs.credential)}
    _, _, other = await by_code(pool)
    odd = text_of(thiefs.credential)
    for key, id in ((other, odd), (token, "AAAA"), (token, "A"), (token, "!")):
        refused = await pool.call("DELETE", f"{path}/{id}", key=key)
        assert (refused.status, refused.error["code"]) == (404, "not_found"), id
    left = await pool.call("DELETE", f"{path}/{odd}", key=token)
    assert left.status == 200
    assert [each["id"] for each in left.json["passkeys"]] == [text_of(mine.credential)]
    assert (await enter(pool, thiefs)).status == 401
    last = f"{path}/{text_of(mine.credential)}"
    refused = await pool.call("DELETE", last, key=token)
    assert (refused.status, refused.error["code"]) == (409, "conflict")
    assert (await enter(pool, mine)).status == 200
    offered = await pool.call("POST", "/v1/account/recovery", {}, key=token)
    refused = await pool.call("DELETE", last, key=token)
    assert refused.status == 409, "a code that nobody may have is no way in"
    await confirm(pool, token, offered.json["recovery_code"])
    assert (await pool.call("DELETE", last, key=token)).json == {"passkeys": []}


async def test_signing_out_everywhere_else_leaves_this_session_only(shared_pool: Any) -> None:
    pool = shared_pool
    _, code, token = await by_code(pool)
    entered = await pool.call("POST", "/v1/sign-in/recovery", {"code": code})
    stolen = entered.json["session"]
    ended = await pool.call("DELETE", "/v1/account/sessions", key=token)
    assert (ended.status, ended.json) == (200, {"ended": 1})
    assert (await pool.call("GET", "/v1/session", key=stolen)).status == 401
    assert (await pool.call("GET", "/v1/session", key=token)).status == 200


async def test_a_typo_is_told_from_a_wrong_code(shared_pool: Any) -> None:
    _, code, _ = await by_code(shared_pool)
    letter = "A" if code[0] != "A" else "B"
    typo = await shared_pool.call("POST", "/v1/sign-in/recovery", {"code": letter + code[1:]})
    assert (typo.status, typo.error["param"]) == (401, "code")
    assert "typo" in typo.error["message"] and typo.error["hint"]
    for odd, status in (("", 400), ("x" * 129, 400), ("A" * 128, 401)):
        response = await shared_pool.call("POST", "/v1/sign-in/recovery", {"code": odd})
        assert response.status == status


async def test_no_key_adds_a_way_back_not_even_a_whole_one(shared_pool: Any) -> None:
    """Whoever finds a key could lock its owner out for good."""
    pool = shared_pool
    secret, _ = await pool.key()
    for method, path, body in (
        ("POST", "/v1/account/recovery", {}),
        ("PUT", "/v1/account/recovery", {"code": written(b"o" * 32)}),
        ("POST", "/v1/accounts/passkey/challenge", {}),
        ("GET", "/v1/account/passkeys", None),
        ("DELETE", "/v1/account/passkeys/AAAA", None),
        ("DELETE", "/v1/account/sessions", None),
        ("POST", "/v1/account/keys", {"name": "outlives it"}),
    ):
        response = await pool.call(method, path, body, key=secret)
        assert (response.status, response.error["code"]) == (403, "forbidden"), path
    bad = await pool.call("POST", "/v1/accounts/passkey/challenge", {}, key="ses-prl-" + "A" * 43)
    assert (bad.status, bad.error["code"]) == (401, "invalid_session")


async def test_a_session_of_one_answer_is_told_nothing_of_its_account(shared_pool: Any) -> None:
    pool = shared_pool
    account, _, _ = await by_code(pool)
    wallet = "eip155:84532:0x" + "1" * 40
    token, _ = await pool.sessions.open(account, ASSET, wallet, 60, "basic", "hold_accounts")
    told = await who(pool, token)
    assert (told["wallets"], told["passkeys"], told["recovery"]) == ([], 0, False)
    for method, path, body in (
        ("POST", "/v1/account/recovery", {}),
        ("PUT", "/v1/account/recovery", {"code": written(b"o" * 32)}),
        ("POST", "/v1/accounts/passkey/challenge", {}),
        ("GET", "/v1/account/keys", None),
        ("POST", "/v1/account/keys", {"name": "x"}),
        ("DELETE", "/v1/account/keys/key_x", None),
        ("GET", "/v1/account/passkeys", None),
        ("DELETE", "/v1/account/passkeys/AAAA", None),
        ("DELETE", "/v1/account/sessions", None),
    ):
        response = await pool.call(method, path, body, key=token)
        assert (response.status, response.error["code"]) == (403, "forbidden"), path


async def test_an_address_has_no_passkeys_and_says_where_there_are_some(shared_pool: Any) -> None:
    by_address = {"host": "127.0.0.1:3002"}
    for path in ("/v1/accounts/passkey/challenge", "/v1/sign-in/passkey/challenge"):
        response = await shared_pool.call("POST", path, {}, headers=by_address)
        assert (response.status, response.error["code"]) == (400, "invalid_request")
        assert "http://localhost:3002" in response.error["hint"]


async def test_a_page_elsewhere_gets_no_challenge_and_no_session(shared_pool: Any) -> None:
    foreign = {"origin": "http://evil.example"}
    for path in ("/v1/accounts/recovery", "/v1/sign-in/passkey/challenge"):
        assert (await shared_pool.call("POST", path, {}, headers=foreign)).status == 403
    rebound = {"host": "evil.example"}
    response = await shared_pool.call("POST", "/v1/accounts/passkey/challenge", {}, headers=rebound)
    assert response.status == 403


async def test_what_is_no_passkey_is_a_clear_refusal(shared_pool: Any) -> None:
    pool, passkey = shared_pool, Passkey()
    await make(pool, passkey)
    options = (await pool.call("POST", "/v1/sign-in/passkey/challenge", {})).json["options"]
    good = passkey.get(options)
    for name in good["response"]:
        for odd in ("!!!", "AB==", "A" * 9000, "AAAA"):
            body = {"credential": {**good, "response": {**good["response"], name: odd}}}
            refused = await pool.call("POST", "/v1/sign-in/passkey", body)
            assert refused.status in (400, 401), (name, odd[:4])
            assert refused.error["hint"] and "set-cookie" not in refused.headers
    assert (await pool.call("POST", "/v1/sign-in/passkey", {"credential": good})).status == 200
    again = await pool.call("POST", "/v1/sign-in/passkey", {"credential": good})
    assert (again.status, again.error["code"]) == (401, "sign_in_invalid")


@pytest.mark.parametrize(
    ("address", "public_url", "known"),
    [
        ("127.0.0.1", "", ""),
        ("::1", "", ""),
        ("1.1.1.1", "", "1.1.1.1"),
        ("172.18.0.3", "", "172.18.0.3"),
        ("172.18.0.3", "https://pool.example", ""),
        ("fd00::3", "https://pool.example", ""),
        ("1.1.1.1", "https://pool.example", "1.1.1.1"),
        ("", "https://pool.example", ""),
    ],
)
async def test_only_where_a_proxy_can_be_is_an_address_hidden(
    address: str, public_url: str, known: str
) -> None:
    async def send(_message: Any) -> None:
        raise AssertionError("sent")

    for name in FORWARDED:
        assert Visit("req_1", {name: b"9.9.9.9"}, address, send, public_url).known_address == known
    assert Visit("req_1", {}, address, send, public_url).known_address == address


async def test_strangers_behind_no_proxy_are_limited_by_address(tmp_path: Path) -> None:
    limits = LimitsConfig(accounts_per_hour=5, accounts_per_hour_address=2)
    pool = await make_pool(tmp_path, Config(limits=limits))
    try:

        async def ask(client: str, **headers: str) -> int:
            more: dict[str, Any] = {"client": client, "headers": headers}
            return (await pool.call("POST", "/v1/accounts/recovery", {}, **more)).status

        assert [await ask("1.1.1.1") for _ in range(3)] == [201, 201, 429]
        passkey = Passkey()
        first = await make(pool, passkey, client="1.1.1.1")
        assert (first.status, first.error["code"]) == (429, "rate_limited")
        assert int(first.headers["retry-after"]) > 0
        # Only a proxy here hides whose request it is; a stranger who says so hides nothing.
        forwarded = {"x-forwarded-for": "9.9.9.9"}
        assert await ask("1.1.1.1", **forwarded) == 429
        assert [await ask("127.0.0.1", **forwarded) for _ in range(3)] == [201, 201, 429]
        assert [await ask("2.2.2.2", **forwarded) for _ in range(2)] == [201, 429]
    finally:
        await pool.store.close()
