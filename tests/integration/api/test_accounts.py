"""A stranger's account on a running pool that takes no payments: opened, paid from, and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from parhelion.testing.processes import Running, start_pool
from tests.unit.identity.authenticator import Passkey

RESIDENT_MB = 120
"""Of a coordinator with keys only, also when it has checked passkeys (DESIGN 12)."""

CHAT = {"messages": [{"role": "user", "content": "Say hi"}], "max_tokens": 4}
GRANT = "1000000"


@pytest.mark.slow
def test_an_account_of_a_stranger_spends_what_it_is_given_and_outlives_a_restart(
    paid: Callable[..., Running], tmp_path: Path
) -> None:
    pool = paid()
    admin = (tmp_path / "pool" / "admin.key").read_text().strip()
    page = pool.api.replace("127.0.0.1", "localhost")
    passkey, here = Passkey(page), {"host": page.removeprefix("http://")}
    status, headers, opened = pool.call("POST", "/v1/accounts/recovery", {}, key="")
    assert status == 201, opened
    cookie = {"cookie": headers["set-cookie"].split(";")[0]}

    def signed_in(method: str, path: str, body: object = None) -> tuple[int, dict, dict]:
        return pool.call(method, path, body, key="", headers={**cookie, **here})

    options = signed_in("POST", "/v1/accounts/passkey/challenge", {})[2]["options"]
    made = {"credential": passkey.create(options)}
    assert signed_in("POST", "/v1/accounts/passkey", made)[0] == 201

    status, _, refused = signed_in("POST", "/v1/chat/completions", CHAT)
    assert (status, refused["error"]["code"]) == (402, "insufficient_credit")
    granted = {"name": "gift", "account": opened["account"], "grant": GRANT}
    assert pool.call("POST", "/v1/keys", granted, key=admin)[0] == 201
    deadline_s = time.monotonic() + 60
    while (answer := signed_in("POST", "/v1/chat/completions", CHAT))[0] == 503:
        assert time.monotonic() < deadline_s, "the echo node never joined"
        time.sleep(0.1)
    assert answer[0] == 200 and int(answer[2]["usage"]["cost"]) > 0, answer
    key = signed_in("POST", "/v1/account/keys", {"name": "agent", "limit": "1"})[2]["secret"]
    status, _, over = pool.call("POST", "/v1/chat/completions", CHAT, key=key)
    assert (status, over["error"]["code"]) == (402, "key_limit_reached")
    left = signed_in("GET", "/v1/credits/balance")[2]["available"]
    assert 0 < int(left) < int(GRANT)
    assert psutil.Process(pool.process.pid).memory_info().rss / 1e6 < RESIDENT_MB

    assert pool.stop() == 0
    again = start_pool(tmp_path / "pool")
    try:
        code = {"code": opened["recovery_code"]}
        back = again.call("POST", "/v1/sign-in/recovery", code, key="")[2]
        assert (back["account"], back["balance"]) == (opened["account"], left)
        page = again.api.replace("127.0.0.1", "localhost")
        passkey.origin, here = page, {"host": page.removeprefix("http://")}
        asked = again.call("POST", "/v1/sign-in/passkey/challenge", {}, key="", headers=here)
        answer = {"credential": passkey.get(asked[2]["options"])}
        status, _, back = again.call("POST", "/v1/sign-in/passkey", answer, key="", headers=here)
        assert (status, back["account"], back["balance"]) == (200, opened["account"], left)
        assert again.call("GET", "/v1/session", key="", headers=cookie)[2]["passkeys"] == 1
        assert again.call("GET", "/v1/credits/balance", key=key)[0] == 200
    finally:
        assert again.stop() == 0
