"""The route of withdrawals where nothing can be sent back."""

from __future__ import annotations

from typing import Any


async def test_a_pool_that_takes_no_payments_sends_nothing_back_and_says_so(pool: Any) -> None:
    secret, _ = await pool.key()
    for method, path in (
        ("POST", "/v1/credits/withdraw"),
        ("GET", "/v1/credits/withdrawals/wd_1"),
    ):
        response = await pool.call(method, path, {} if method == "POST" else None)
        assert response.status == 401, "who asks comes first"
        response = await pool.call(method, path, {} if method == "POST" else None, key=secret)
        assert (response.status, response.json["error"]["code"]) == (404, "not_found")
        assert "[[x402.networks]]" in response.json["error"]["hint"]
