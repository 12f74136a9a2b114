"""Whoever was charged can have it explained: with a receipt or without, and however long ago."""

from __future__ import annotations

from typing import Any

import pytest

from parhelion.ledger import Bill, Mark, Worked, split
from parhelion.words import Grant, Hold, Rate, mint

ASSET = "PRLX.local"
RATE = Rate(model="m", asset=ASSET, version=2, prompt_micro=4_000_000, completion_micro=4_000_000)


class Payer:
    """An account with a key, and requests of it as the coordinator leaves them."""

    def __init__(self, pool: Any, secret: str, account: str, key: str) -> None:
        self.pool, self.secret, self.account, self.key = pool, secret, account, key
        self._requests = 0

    async def grant(self, amount_micro: int, id: str) -> None:
        self.pool.clock.ahead_s += 1
        await self.pool.ledger.grant(self.account, ASSET, amount_micro, id=id, reason="test")

    async def hold(self) -> tuple[str, Hold]:
        self._requests += 1
        self.pool.clock.ahead_s += 1
        request = mint("req", self._requests, bytes(10))
        grant = Grant(account=self.account, key=self.key, rate=RATE, amount_micro=100, seed=1)
        expires_at_ms = self.pool.clock.now_ms() + 10**6
        return request, await self.pool.ledger.hold(
            grant, request, prompt_tokens=7, expires_at_ms=expires_at_ms
        )

    async def bill(self, hold: Hold, reason: str) -> None:
        """As recovery does it: what was journalled, and no receipt."""
        legs = split(40, self.pool.ledger.shares, [Worked(operator="node:12D3", output_ids=3)])
        bill = Bill(prompt_tokens=7, completion_tokens=3, cost_micro=40, legs=legs, reason=reason)
        await self.pool.ledger.post(hold, bill)

    async def explain(self, request: str) -> Any:
        id = request.replace("req_", "rcpt_")
        response = await self.pool.call("GET", f"/v1/receipts/{id}/explain", key=self.secret)
        assert response.status == 200, response.body
        return response.json


@pytest.fixture
async def payer(pool: Any) -> Payer:
    secret, view = await pool.key()
    made = Payer(pool, secret, view.account, view.id)
    await made.grant(10_000_000, "grant_1")
    return made


async def test_the_grant_behind_a_request_is_told_whatever_came_after_it(payer: Payer) -> None:
    first, hold = await payer.hold()
    await payer.bill(hold, "restart")
    for _ in range(70):
        # Three entries of the history each: hold, charge, return.
        await payer.bill((await payer.hold())[1], "restart")
    await payer.grant(5, "grant_later")
    (source,) = (await payer.explain(first))["source"]
    assert source.startswith("grant of 10.000000 PRLX.local on 20")


async def test_only_the_latest_sources_before_the_request_are_told(payer: Payer) -> None:
    for number in range(2, 8):
        await payer.grant(number, f"grant_{number}")
    request, _hold = await payer.hold()
    source = (await payer.explain(request))["source"]
    assert [line[:20] for line in source[:2]] == ["grant of 0.000007 PR", "grant of 0.000006 PR"]
    assert (len(source), source[5]) == (6, "and earlier ones, which the history lists")


async def test_a_charge_after_a_crash_is_explained_from_its_hold(payer: Payer, pool: Any) -> None:
    request, hold = await payer.hold()
    mark = Mark(hold=hold.id, attempt=1, accepted_ids=4, completion_tokens=3, operator="node:12D3")
    await pool.ledger.journal([mark])
    await payer.bill(hold, "restart")
    told = await payer.explain(request)
    assert told["receipt"] is None
    assert told["proof"].startswith("none: the coordinator could not end this request itself")
    assert told["cost"] == "0.000040 PRLX.local, rounded up once (restart)"
    assert told["tokens"] == "7 prompt + 3 completion"
    assert told["dispatch"] == ["node 12D3: 4 output ids journalled, unsigned"]
    assert told["debit"].endswith("charged 0.000040 PRLX.local, returned 0.000060 PRLX.local")
    assert sum(int(leg["amount"]) for leg in told["transfers"]) == 40

    other, _view = await pool.key()
    path = f"/v1/receipts/{request}/explain"
    for key in (other, None):
        refused = await pool.call("GET", path, key=key)
        assert refused.status == 404
        assert request not in refused.error["hint"]
    assert (await pool.call("GET", path, key="sk-prl-" + "A" * 43)).status == 401


async def test_a_running_request_and_one_given_back_say_so(payer: Payer, pool: Any) -> None:
    request, hold = await payer.hold()
    told = await payer.explain(request)
    assert told["proof"] == "none yet: the request is running"
    assert told["cost"] == "not known yet: the request is running"
    assert "nothing charged or returned yet" in told["debit"]
    await pool.ledger.void(hold, "no_node")
    told = await payer.explain(request)
    assert told["cost"] == "nothing: the hold was voided (no_node)"
    assert told["dispatch"] == ["no output id was journalled"]
    assert told["proof"].startswith("none: nothing was charged")
    assert told["share"] == []


@pytest.mark.parametrize("id", ["rcpt", "rcpt_", "_", "x_y", "%20", "rcpt_none"])
async def test_what_is_no_id_of_a_request_is_404(payer: Payer, pool: Any, id: str) -> None:
    for key in (payer.secret, None):
        response = await pool.call("GET", f"/v1/receipts/{id}/explain", key=key)
        assert (response.status, response.error["code"]) == (404, "not_found")
