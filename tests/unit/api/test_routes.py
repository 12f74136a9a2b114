"""The pool's own routes: models, money, nodes, receipts, health."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from parhelion.api.models import per_token
from parhelion.ledger import GUEST, Bill, split
from parhelion.proof import canonical
from parhelion.words import Evidence, Grant, Rate, Receipt, SamplerParams, mint

ASSET = "PRLX.local"


async def test_models_list_prices_per_token_as_decimal_strings(pool: Any) -> None:
    response = await pool.call("GET", "/v1/models")
    assert response.json["object"] == "list"
    (model,) = response.json["data"]
    assert model["id"] == "Acme/Small-1"
    assert model["object"] == "model"
    assert model["pricing"] == {
        "asset": ASSET,
        "prompt": "0.000004",
        "completion": "0.000005680001",
    }
    assert model["rates"][0]["completion"] == "5680001"
    assert model["context_length"] == 2048
    assert model["digest"] == "ab" * 32
    assert "secret" not in response.body.decode()


async def test_a_model_says_whether_it_is_served_now_and_by_how_many(pool: Any) -> None:
    pool.catalogue.put("Acme/Nobody", {ASSET: (1, 1)})
    (served, idle) = (await pool.call("GET", "/v1/models")).json["data"]
    assert (served["nodes"], served["available"]) == (1, True)
    assert (idle["nodes"], idle["available"]) == (0, False)
    pool.coordinator.status = "draining"
    one = (await pool.call("GET", "/v1/models/small-1")).json
    assert (one["nodes"], one["available"]) == (1, False)


@pytest.mark.parametrize(
    ("rate_micro", "text"),
    [(0, "0"), (1, "0.000000000001"), (4_000_000, "0.000004"), (10**12, "1"), (10**15, "1000")],
)
def test_a_price_per_token_is_exact(rate_micro: int, text: str) -> None:
    assert per_token(rate_micro) == text


async def test_a_model_is_found_by_an_id_with_slashes_and_by_its_last_part(pool: Any) -> None:
    for path in ("/v1/models/Acme/Small-1", "/v1/models/small-1"):
        response = await pool.call("GET", path)
        assert response.json["id"] == "Acme/Small-1"
    assert (await pool.call("GET", "/v1/models/none")).error["code"] == "model_not_found"


async def test_the_balance_is_in_strings_of_base_units(pool: Any) -> None:
    secret, view = await pool.key()
    await pool.ledger.grant(view.account, ASSET, 10_000_000, id="grant_1", reason="test")
    response = await pool.call("GET", "/v1/credits/balance", key=secret)
    assert response.json == {
        "account": view.account,
        "asset": ASSET,
        "decimals": 6,
        "available": "10000000",
        "held": "0",
    }
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/v1/credits/balance", "/v1/credits/history"])
async def test_money_needs_a_good_key(pool: Any, path: str) -> None:
    nobody = await pool.call("GET", path)
    assert (nobody.status, nobody.error["code"]) == (401, "missing_credentials")
    assert nobody.headers["www-authenticate"].startswith("Bearer")
    wrong = await pool.call("GET", path, key="sk-prl-" + "A" * 43)
    assert (wrong.status, wrong.error["code"]) == (401, "invalid_api_key")
    for empty in ("Bearer", "Bearer ", "bearer   ", ""):
        # What an SDK sends for an empty key: nothing was offered, so nothing is wrong with it.
        unsaid = await pool.call("GET", path, headers={"authorization": empty})
        assert (unsaid.status, unsaid.error["code"]) == (401, "missing_credentials"), empty
    other = await pool.call("GET", path, headers={"authorization": "Basic abc"})
    assert other.status == 401


async def test_the_history_is_paged_newest_first_without_gaps(pool: Any) -> None:
    secret, view = await pool.key()
    for number in range(5):
        pool.clock.ahead_s += 1
        await pool.ledger.grant(view.account, ASSET, number + 1, id=f"grant_{number}", reason="t")
    amounts: list[str] = []
    path = "/v1/credits/history?limit=2"
    while True:
        page = (await pool.call("GET", path, key=secret)).json
        assert len(page["data"]) <= 2
        amounts += [entry["amount"] for entry in page["data"]]
        if not page["has_more"]:
            assert page["next"] is None
            break
        path = f"/v1/credits/history?limit=2&before={page['next']}"
    assert amounts == ["5", "4", "3", "2", "1"]


async def test_each_column_of_the_history_adds_up_to_the_balance(pool: Any) -> None:
    secret, view = await pool.key()
    await pool.ledger.grant(view.account, ASSET, 10_000, id="grant_1", reason="t")
    rate = Rate(model="m", asset=ASSET, version=1, prompt_micro=1, completion_micro=1)
    grant = Grant(account=view.account, key=view.id, rate=rate, amount_micro=3752, seed=1)
    hold = await pool.ledger.hold(grant, "req_1", prompt_tokens=1, expires_at_ms=2**52)
    legs = split(196, pool.ledger.shares, ())
    bill = Bill(prompt_tokens=1, completion_tokens=1, cost_micro=196, legs=legs, reason="stop")
    await pool.ledger.post(hold, bill)
    await pool.ledger.hold(grant, "req_2", prompt_tokens=1, expires_at_ms=2**52)
    entries = (await pool.call("GET", "/v1/credits/history", key=secret)).json["data"]
    did = {(e["kind"], e["request"]): (e["amount"], e["available"], e["held"]) for e in entries}
    assert did == {
        ("grant", None): ("10000", "10000", "0"),
        ("hold", "req_1"): ("-3752", "-3752", "3752"),
        ("charge", "req_1"): ("-196", "0", "-196"),
        ("return", "req_1"): ("3556", "3556", "-3556"),
        ("hold", "req_2"): ("-3752", "-3752", "3752"),
    }
    balance = (await pool.call("GET", "/v1/credits/balance", key=secret)).json
    for column in ("available", "held"):
        assert sum(int(entry[column]) for entry in entries) == int(balance[column])


@pytest.mark.parametrize("query", ["limit=0", "limit=200", "limit=x", "limit=²", "before=x", "a=1"])
async def test_an_odd_page_is_refused(pool: Any, query: str) -> None:
    secret, _view = await pool.key()
    response = await pool.call(
        "GET", f"/v1/credits/history?{query}".encode().decode("latin-1"), key=secret
    )
    assert response.status == 400


async def test_health_is_200_only_when_a_prompt_would_be_served(pool: Any) -> None:
    response = await pool.call("GET", "/health")
    assert response.status == 200
    assert response.json == {
        "status": "ready",
        "model": "Acme/Small-1",
        "nodes": 1,
        "need": 1,
        "local": True,
    }
    for status in ("waiting", "draining"):
        pool.coordinator.status = status
        response = await pool.call("GET", "/health")
        assert (response.status, response.json["status"]) == (503, status)


async def test_readiness_is_about_this_process_alone(pool: Any) -> None:
    pool.coordinator.status = "waiting"
    assert (await pool.call("GET", "/ready")).status == 200
    pool.coordinator.status = "draining"
    assert (await pool.call("GET", "/ready")).status == 503


async def test_nodes_are_shown_and_what_is_unknown_is_null(pool: Any) -> None:
    (node,) = (await pool.call("GET", "/v1/nodes")).json["data"]
    assert node["name"] == "amber-heron-3f2a"
    assert node["tokens_per_s"] is None


async def test_metrics_answer_this_machine_and_the_admin_only(pool: Any) -> None:
    here = await pool.call("GET", "/metrics")
    assert here.status == 200
    assert here.headers["content-type"].startswith("text/plain")
    assert b"parhelion_requests" in here.body
    assert (await pool.call("GET", "/metrics", client="203.0.113.9")).status == 401
    proxied = await pool.call("GET", "/metrics", headers={"x-forwarded-for": "203.0.113.9"})
    assert proxied.status == 401
    admin = await pool.call("GET", "/metrics", client="203.0.113.9", key="adm-test-key")
    assert admin.status == 200


def receipt_of(request: str) -> Receipt:
    rate = Rate(model="m", asset=ASSET, version=1, prompt_micro=4, completion_micro=4)
    return Receipt(
        v=1,
        id=f"rcpt_{request.removeprefix('req_')}",
        coordinator="12D3KooWCoordinator",
        asset_class="local",
        issued_at_ms=1,
        model="m",
        artefact="aa",
        vocabulary="bb",
        template="cc",
        opening_hash="dd",
        prompt_hmac="ee" * 32,
        head="ff",
        text_hmac="00",
        params=SamplerParams(),
        seed="18446744073709551615",
        max_tokens=5,
        prompt_tokens=7,
        completion_tokens=2,
        cached_tokens=0,
        silent_ids=1,
        output_ids=3,
        finish_reason="stop",
        route="pool",
        migrations=0,
        rate=rate,
        cost_micro="36",
        segments=(),
        signature="sig",
    )


async def served(pool: Any, account: str, key: str | None) -> Receipt:
    """A request as the coordinator settles one: held, posted, with receipt and evidence."""
    request = mint("req", 1, bytes(10))
    receipt = receipt_of(request)
    rate = receipt.rate
    amount = 0 if account == GUEST else 100
    grant = Grant(account=account, key=key, rate=rate, amount_micro=amount, seed=1)
    hold = await pool.ledger.hold(
        grant, request, prompt_tokens=7, expires_at_ms=pool.clock.now_ms() + 10**6
    )
    bill = Bill(prompt_tokens=7, completion_tokens=2, cost_micro=0, legs=(), reason="finished")
    await pool.ledger.post(hold, bill, [pool.receipts.insert(receipt, account)])
    evidence = Evidence(
        receipt=receipt.id, opening="00" * 32, prompt_ids=(1,), output_ids=(2,), text="Hello"
    )
    pool.receipts.keep_evidence(evidence, account)
    return receipt


async def test_a_receipt_answers_its_owner_only_and_byte_for_byte(pool: Any) -> None:
    secret, view = await pool.key()
    await pool.ledger.grant(view.account, ASSET, 1000, id="grant_1", reason="test")
    receipt = await served(pool, view.account, view.id)
    path = f"/v1/receipts/{receipt.id}"
    own = await pool.call("GET", path, key=secret)
    assert own.status == 200
    assert own.body == canonical(receipt)
    opened = (await pool.call("GET", f"{path}?evidence=1", key=secret)).json
    assert opened["receipt"]["id"] == receipt.id
    assert opened["evidence"]["text"] == "Hello"
    other, _view = await pool.key()
    for suffix in ("", "?evidence=1", "/explain"):
        for key in (other, None):
            assert (await pool.call("GET", path + suffix, key=key)).status == 404
    assert (await pool.call("GET", path, key="sk-prl-" + "A" * 43)).status == 401


async def test_a_key_with_a_limit_reads_its_own_part_of_a_shared_account(pool: Any) -> None:
    whole, view = await pool.key()
    part, limited = await pool.key(account=view.account, limit_micro=300)
    await pool.ledger.grant(view.account, ASSET, 1000, id="grant_1", reason="test")
    receipt = await served(pool, view.account, view.id)
    balance = (await pool.call("GET", "/v1/credits/balance", key=part)).json
    assert (balance["available"], balance["held"]) == ("300", "0")
    await pool.store.commit([pool.keys.reserve(limited.id, 100)])
    balance = (await pool.call("GET", "/v1/credits/balance", key=part)).json
    assert (balance["available"], balance["held"]) == ("200", "100")
    assert (await pool.call("GET", "/v1/credits/balance", key=whole)).json["available"] == "1000"
    assert (await pool.call("GET", "/v1/credits/history", key=part)).json["data"] == []
    assert len((await pool.call("GET", "/v1/credits/history", key=whole)).json["data"]) == 4
    for suffix in ("", "?evidence=1", "/explain"):
        path = f"/v1/receipts/{receipt.id}{suffix}"
        assert (await pool.call("GET", path, key=part)).status == 404
        assert (await pool.call("GET", path, key=whole)).status == 200


async def test_a_key_with_a_limit_reads_what_was_asked_with_it(pool: Any) -> None:
    part, limited = await pool.key(limit_micro=300)
    await pool.ledger.grant(limited.account, ASSET, 1000, id="grant_1", reason="test")
    receipt = await served(pool, limited.account, limited.id)
    opened = (await pool.call("GET", f"/v1/receipts/{receipt.id}?evidence=1", key=part)).json
    assert opened["evidence"]["text"] == "Hello"
    told = (await pool.call("GET", f"/v1/receipts/{receipt.id}/explain", key=part)).json
    assert "grant" not in told["source"][0], "where its account's credits came from is not its part"
    history = (await pool.call("GET", "/v1/credits/history", key=part)).json["data"]
    assert [each["kind"] for each in history] == ["return", "charge", "hold"]


async def test_a_guests_receipt_answers_to_whoever_holds_its_id(pool: Any) -> None:
    await pool.ledger.open_account(GUEST, "system")
    receipt = await served(pool, GUEST, None)
    opened = await pool.call("GET", f"/v1/receipts/{receipt.id}?evidence=1")
    assert msgspec.convert(opened.json["receipt"], Receipt) == receipt
    assert (await pool.call("GET", "/v1/receipts/rcpt_other")).status == 404


async def test_a_receipt_is_found_by_any_id_of_its_request(pool: Any) -> None:
    await pool.ledger.open_account(GUEST, "system")
    receipt = await served(pool, GUEST, None)
    letters = receipt.id.removeprefix("rcpt_")
    for id in (f"chatcmpl-{letters}", f"cmpl-{letters}", f"req_{letters}", f"hold_{letters}"):
        assert (await pool.call("GET", f"/v1/receipts/{id}")).body == canonical(receipt), id
    for id in (letters, f"acct_{letters}", f"rcpt{letters}"):
        assert (await pool.call("GET", f"/v1/receipts/{id}")).status == 404, id


async def test_evidence_is_gone_after_a_quarter_of_an_hour(pool: Any) -> None:
    secret, view = await pool.key()
    await pool.ledger.grant(view.account, ASSET, 1000, id="grant_1", reason="test")
    receipt = await served(pool, view.account, view.id)
    pool.clock.ahead_s += 16 * 60
    path = f"/v1/receipts/{receipt.id}"
    assert (await pool.call("GET", f"{path}?evidence=1", key=secret)).status == 404
    assert (await pool.call("GET", path, key=secret)).status == 200


async def test_a_guest_of_an_sdk_reads_its_receipt_and_a_bad_key_of_ours_does_not(
    pool: Any,
) -> None:
    receipt = await served(pool, GUEST, None)
    path = f"/v1/receipts/{receipt.id}"
    for bearer in ("EMPTY", "none"):
        assert (await pool.call("GET", path, key=bearer)).status == 200
        assert (await pool.call("GET", f"{path}/explain", key=bearer)).status == 200
        # Where it is no guest's, a key was needed, and this is none.
        other = await pool.call("GET", "/v1/receipts/rcpt_none", key=bearer)
        assert (other.status, other.error["code"]) == (401, "invalid_api_key")
    for bearer in ("sk-prl-" + "A" * 43, '"sk-prl-x"', "prl-admin-x"):
        assert (await pool.call("GET", path, key=bearer)).status == 401


async def test_explain_tells_every_step_from_the_ledger(pool: Any) -> None:
    secret, view = await pool.key()
    await pool.ledger.grant(view.account, ASSET, 1000, id="grant_1", reason="test")
    receipt = await served(pool, view.account, view.id)
    told = (await pool.call("GET", f"/v1/receipts/{receipt.id}/explain", key=secret)).json
    assert told["source"][0].startswith("grant of 0.001000 PRLX.local")
    assert view.id in told["sign_in"]
    assert told["tokens"] == "7 prompt + 2 completion"
    assert told["debit"].startswith(f"held 0.000100 {ASSET} from {view.account}")
    assert set(told) >= {"source", "sign_in", "prompt", "rate", "cost", "dispatch", "share"}
