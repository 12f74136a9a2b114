"""The console's routes: one snapshot for all, streams that are bounded, and money for one alone."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from parhelion.coordinator import STEP_S, StateMark, readers
from parhelion.coordinator import console as consoles
from parhelion.coordinator.console import LOOK_S
from parhelion.identity import NodeKey
from parhelion.ledger import Bill, Worked, split
from parhelion.words import Grant, Rate, Receipt, SamplerParams, Segment, mint

ASSET = "PRLX.local"
ADMIN = "adm-test-key"
NODE = NodeKey(b"console" + bytes(25)).peer


def told(body: bytes) -> list[Any]:
    """The data of every event; an id or a name would be more than a page needs."""
    found = []
    for block in body.decode().split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith((":", "retry: "))]
        if lines:
            (line,) = lines
            assert line.startswith("data: "), line
            found.append(msgspec.json.decode(line[6:]))
    return found


async def leave(exchange: Any) -> None:
    exchange.drop()
    async with asyncio.timeout(5):
        await exchange.task


async def test_anyone_may_look_and_nothing_unknown_is_a_number(pool: Any) -> None:
    response = await pool.call("GET", "/v1/console")
    assert response.status == 200 and response.headers["cache-control"] == "no-store"
    body = response.json
    unknown = ("requests_per_s", "tokens_per_s", "ttft_p50_s", "ttft_p95_s", "nodes_tokens_per_s")
    assert [body[name] for name in unknown] == [None] * len(unknown)
    assert (body["type"], body["queue"], body["running"], body["streaming"]) == (
        *("console", 0, 0),
        [],
    )
    assert (await pool.call("GET", "/v1/console?x=1")).status == 400


async def test_however_many_look_the_figures_are_made_once_a_second(pool: Any) -> None:
    pool.coordinator.waiting = 3
    first = await pool.call("GET", "/v1/console")
    pool.coordinator.waiting = 4
    assert (await pool.call("GET", "/v1/console")).body == first.body
    pool.clock.ahead_s += LOOK_S
    assert (await pool.call("GET", "/v1/console")).json["queue"] == 4


async def test_a_page_gets_a_snapshot_at_once_and_then_each_second(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consoles, "LOOK_S", 0.01)
    exchange = pool.start("GET", "/v1/console/stream")
    await pool.until(lambda: len(told(exchange.response.body)) >= 3)
    assert exchange.response.headers["content-type"].startswith("text/event-stream")
    assert all(each["type"] == "console" for each in told(exchange.response.body))
    await leave(exchange)
    console = pool.coordinator.console
    assert len(console._readers) == 0
    await pool.until(lambda: console._timer is None)
    number = console.number
    await asyncio.sleep(0.05)
    assert console.number == number, "nobody reads: nothing is made"


async def test_a_page_that_comes_back_gets_the_present_whatever_it_had(pool: Any) -> None:
    exchange = pool.start("GET", "/v1/console/stream")
    await pool.until(lambda: told(exchange.response.body))
    await leave(exchange)
    pool.clock.ahead_s += 100.0
    pool.coordinator.waiting = 9
    again = pool.start("GET", "/v1/console/stream", headers={"last-event-id": "e0-7"})
    await pool.until(lambda: told(again.response.body))
    assert told(again.response.body)[0]["queue"] == 9
    await leave(again)


async def test_a_reader_that_stalls_gets_no_backlog(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consoles, "LOOK_S", 0.001)
    exchange = pool.start("GET", "/v1/console/stream")
    await pool.until(lambda: told(exchange.response.body))
    exchange.reading.clear()
    number = pool.coordinator.console.number
    await pool.until(lambda: pool.coordinator.console.number > number + 30)
    pool.coordinator.waiting = 5
    number = pool.coordinator.console.number
    await pool.until(lambda: pool.coordinator.console.number > number + 1)
    before = len(told(exchange.response.body))
    monkeypatch.setattr(consoles, "LOOK_S", 60.0)
    exchange.reading.set()
    await pool.until(lambda: told(exchange.response.body)[-1]["queue"] == 5)
    assert len(told(exchange.response.body)) <= before + 3
    await leave(exchange)


async def test_readers_of_the_console_are_bounded_as_those_of_the_nodes_are(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = (("READERS_LIMIT", readers.READERS_FOR_ACCOUNTS + 1), ("READERS_PER_SITE_LIMIT", 1))
    for limit, count in alone:
        with monkeypatch.context() as patch:
            patch.setattr(readers, limit, count)
            exchange = pool.start("GET", "/v1/console/stream")
            await pool.until(lambda exchange=exchange: told(exchange.response.body))
            refused = await pool.call("GET", "/v1/console/stream")
            assert (refused.status, refused.error["code"]) == (503, "overloaded")
            assert refused.headers["retry-after"] and "/v1/console" in refused.error["hint"]
            await leave(exchange)


async def test_the_stream_ends_when_the_coordinator_stops_and_its_head_at_once(pool: Any) -> None:
    exchange = pool.start("GET", "/v1/console/stream")
    await pool.until(lambda: told(exchange.response.body))
    pool.coordinator.console.close()
    async with asyncio.timeout(5):
        await exchange.task
    assert exchange.response.complete
    head = await pool.call("HEAD", "/v1/console/stream")
    assert (head.status, head.body) == (200, b"")
    assert (await pool.call("GET", "/v1/console/stream?a=1")).status == 400


async def test_the_chart_has_the_points_of_the_minutes_that_were_asked_for(pool: Any) -> None:
    console = pool.coordinator.console
    console.step()
    for number in range(13):
        pool.clock.ahead_s += STEP_S
        pool.coordinator.waiting = number
        pool.coordinator.traffic.ended(20, None)
        console.step()
    whole = (await pool.call("GET", "/v1/console/history")).json
    assert whole["step_s"] == STEP_S and len(whole["points"]) == 13
    minute = (await pool.call("GET", "/v1/console/history?minutes=1")).json["points"]
    assert [point[4] for point in minute] == [7, 8, 9, 10, 11, 12]
    _at_ms, requests_per_s, tokens_per_s, ttft_s, _queue, running = minute[-1]
    assert (ttft_s, running) == (None, 0)
    assert (round(requests_per_s, 2), round(tokens_per_s, 1)) == (0.1, 2.0)
    for odd in ("0", "61", "x", "²", "-1", ""):
        path = f"/v1/console/history?minutes={odd}".encode().decode("latin-1")
        assert (await pool.call("GET", path)).status == 400, odd


async def spent(pool: Any, cost_micro: int) -> Receipt:
    """An answer of the node, paid for by a user who has 1,000 left and 100 held after it."""
    _secret, view = await pool.key()
    await pool.ledger.grant(view.account, ASSET, cost_micro + 1100, id="grant_1", reason="test")
    rate = Rate(model="m", asset=ASSET, version=1, prompt_micro=4, completion_micro=4)
    request = mint("req", 1, bytes(10))
    grant = Grant(account=view.account, key=None, rate=rate, amount_micro=cost_micro, seed=1)
    until_ms = pool.clock.now_ms() + 10**6
    hold = await pool.ledger.hold(grant, request, prompt_tokens=7, expires_at_ms=until_ms)
    worked = [Worked(operator=f"node:{NODE}", output_ids=3)]
    bill = Bill(
        prompt_tokens=7,
        completion_tokens=2,
        cost_micro=cost_micro,
        legs=split(cost_micro, pool.ledger.shares, worked),
        reason="stop",
    )
    receipt = Receipt(
        v=1, id=request.replace("req", "rcpt"), coordinator="12D3KooWCoordinator",
        asset_class="local", issued_at_ms=7, model="m", artefact="aa", vocabulary="bb",
        template="cc", opening_hash="dd", prompt_hmac="ee", head="ff", text_hmac="00",
        params=SamplerParams(), seed="1", max_tokens=5, prompt_tokens=7, completion_tokens=2,
        cached_tokens=0, silent_ids=1, output_ids=3, finish_reason="stop", route="pool",
        migrations=0, rate=rate, cost_micro=str(cost_micro),
        segments=(
            Segment(
                node=NODE, job="job_1", attempt=1, opening_hash="dd", artefact="aa", backend="b",
                start=0, to=3, head="ff", ask="", started_at_ms=1, ended_at_ms=2,
            ),
        ),
        signature="sig",
    )  # fmt: skip
    await pool.ledger.post(hold, bill, [pool.receipts.insert(receipt, view.account)])
    small = msgspec.structs.replace(grant, amount_micro=100)
    await pool.ledger.hold(small, mint("req", 2, bytes(10)), prompt_tokens=1, expires_at_ms=2**52)
    return receipt


async def test_the_books_are_for_the_admin_alone_and_add_up(pool: Any) -> None:
    for key, status in ((None, 401), ("sk-prl-" + "A" * 43, 401), ((await pool.key())[0], 403)):
        assert (await pool.call("GET", "/v1/console/money", key=key)).status == status
    assert (await pool.call("GET", "/v1/console/money", key=ADMIN)).json["assets"] == []
    await spent(pool, 1000)
    pool.clock.ahead_s += 2.0
    body = (await pool.call("GET", "/v1/console/money", key=ADMIN)).json
    assert body == {
        "assets": [
            {
                "asset": ASSET,
                "decimals": 6,
                "outstanding": "1100",
                "held": "100",
                "operators": "850",
                "split": {"operators_bp": 8500, "treasury_bp": 1000, "infrastructure_bp": 500},
            }
        ],
        "x402": None,
    }


async def test_a_nodes_answers_and_earnings_are_for_the_admin_alone(pool: Any) -> None:
    (here,) = pool.coordinator.nodes()
    pool.coordinator.gone = (
        msgspec.structs.replace(here, peer=NODE, operator=f"node:{NODE}", state="gone"),
    )
    pool.coordinator.states[NODE] = (StateMark(at_ms=5, state="gone", reason="silent"),)
    receipt = await spent(pool, 1000)
    path = f"/v1/nodes/{NODE}"
    wrong = {"sk-prl-" + "A" * 43: 401, "prl-admin-" + "A" * 43: 401, (await pool.key())[0]: 403}
    for key, status in wrong.items():
        assert (await pool.call("GET", path, key=key)).status == status, "who means to see more"
    for key in (None, "none"):
        body = (await pool.call("GET", path, key=key)).json
        assert (body["receipts"], body["earnings"]) == (None, None)
        assert body["history"] == [{"at_ms": 5, "state": "gone", "reason": "silent"}]
        assert (body["peer"], body["state"]) == (NODE, "gone")
    body = (await pool.call("GET", path, key=ADMIN)).json
    assert body["earnings"] == [{"asset": ASSET, "decimals": 6, "total": "850"}]
    assert body["receipts"] == [
        {"id": receipt.id, "at_ms": 7, "model": "m", "completion_tokens": 2}
    ]


async def test_a_node_that_nobody_knows_is_404(pool: Any) -> None:
    for peer in (NODE, "12D3KooWNobody", "x"):
        response = await pool.call("GET", f"/v1/nodes/{peer}")
        assert (response.status, response.error["code"]) == (404, "not_found")
    assert (await pool.call("GET", f"/v1/nodes/{NODE}?x=1")).status == 400
