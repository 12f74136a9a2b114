"""What is sold, as buyers meet it: tiers, sessions, requests by their maximum, top-ups."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from parhelion.testing.buyer import EVM, SOLANA, Wallet, offers_of, settled_of
from parhelion.testing.processes import (
    UNTIMED,
    WITH_CHAINS,
    Running,
    start_echo,
    start_pool,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Name three colours."}],
    "max_tokens": 8,
}
TEXT = {"prompt": "One, two,", "max_tokens": 8}
SETTINGS = """
[[x402.tiers]]
name = "basic"
price_micro = 10_000
max_tokens = 100
max_prompt_tokens = 1000

[[x402.tiers]]
name = "premium"
price_micro = 250_000
max_tokens = 512
max_prompt_tokens = 4000

[[x402.tiers]]
name = "cool"
price_micro = 3_000
max_tokens = 16
max_prompt_tokens = 50
temperature = 0.2
"""
BASIC_MICRO, PREMIUM_MICRO = 10_000, 250_000
LEAST_MICRO = 1000
RATE_MICRO = 4


def start_seller(folder: Path) -> tuple[Running, Running]:
    """A pool with tiers of its own, and its echo node; started again it goes on where it was."""
    data = folder / "pool"
    data.mkdir(parents=True, exist_ok=True)
    (data / "config.toml").write_text(SETTINGS)
    running = start_pool(data, env={**WITH_CHAINS, **UNTIMED})
    address = running.api.removeprefix("http://")
    return running, start_echo(folder / "node", address, tokens_per_s=0, slots=8)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Running]:
    running, node = start_seller(tmp_path_factory.mktemp("sold"))
    yield running
    node.stop()
    assert running.stop() == 0


@pytest.fixture
def wallet(pool: Running) -> Wallet:
    return Wallet(pool)


def bought(answer: tuple[int, dict[str, str], Any]) -> Any:
    """The body of an answer that was served."""
    status, _, body = answer
    assert status == 200, body
    return body


def code(answer: tuple[int, dict[str, str], Any]) -> tuple[int, str]:
    """Status and code of a refusal."""
    status, _, body = answer
    return status, body["error"]["code"]


def topped_up(wallet: Wallet, usd: str = "0.25") -> str:
    """A key that spends the wallet's balance, as far as it was paid."""
    return str(bought(wallet.pay("POST", f"/v1/credits/topup?usd={usd}"))["key"])


def balance(pool: Running, key: str) -> int:
    body = bought(pool.call("GET", "/v1/credits/balance", key=key))
    return int(body["available"])


# --- tiers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [SOLANA, EVM], ids=["solana", "evm"])
@pytest.mark.parametrize("path", ["/basic/v1/chat/completions", "/v1/inference?tier=basic"])
def test_a_tier_is_its_price_and_no_more_than_its_tokens(
    path: str, network: str, pool: Running
) -> None:
    wallet = Wallet(pool, network)
    body = {**(CHAT if "chat" in path else TEXT), "max_tokens": 300}
    status, headers, answer = wallet.pay("POST", path, body)
    assert status == 200, answer
    usage = answer["usage"]
    assert (usage["cost"], usage["credited"]) == (str(BASIC_MICRO), "0")
    assert usage["completion_tokens"] == 100
    assert answer["choices"][0]["finish_reason"] == "length"
    told = settled_of(headers)
    assert (told["success"], told["network"], told["amount"]) == (True, network, str(BASIC_MICRO))
    assert wallet.holds() == 50_000_000 - BASIC_MICRO


def test_an_answer_that_ends_by_itself_costs_its_tier_whole(wallet: Wallet) -> None:
    ask = {**TEXT, "seed": 5, "max_tokens": 60}
    text = bought(wallet.pay("POST", "/basic/v1/completions", ask))["choices"][0]["text"]
    word = text.split()[3]
    answer = bought(wallet.pay("POST", "/basic/v1/completions", {**ask, "stop": [word]}))
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] < 30
    assert (answer["usage"]["cost"], answer["usage"]["credited"]) == (str(BASIC_MICRO), "0")


def test_a_tiers_temperature_is_a_default_and_no_more(wallet: Wallet, pool: Running) -> None:
    key = wallet.sign_in()

    def temperature(path: str, **changed: Any) -> float:
        answer = bought(wallet.pay("POST", path, {**TEXT, **changed}))
        found = bought(pool.call("GET", f"/v1/receipts/{answer['usage']['receipt']}", key=key))
        return float(found["params"]["temperature"])

    assert temperature("/cool/v1/completions") == 0.2
    assert temperature("/v1/inference?tier=cool") == 0.2
    assert temperature("/cool/v1/completions", temperature=0.9) == 0.9
    assert temperature("/cool/v1/completions", temperature=0) == 0
    assert temperature("/basic/v1/completions") == 1.0


def test_a_tier_answers_for_its_model_and_its_own_name(pool: Running) -> None:
    path = "/basic/v1/chat/completions"
    model = pool.call("GET", "/v1/models")[2]["data"][0]["id"]
    for name in (None, "basic", model, model.split("/")[-1]):
        asked = CHAT if name is None else {**CHAT, "model": name}
        assert code(pool.call("POST", path, asked, key="")) == (402, "payment_required"), name
    assert code(pool.call("POST", path, {**CHAT, "model": "premium"}, key=""))[0] in (400, 404)
    assert code(pool.call("POST", path, {**CHAT, "model": "gpt-4o"}, key=""))[0] in (400, 404)
    assert code(pool.call("POST", "/gold/v1/chat/completions", CHAT, key=""))[0] == 404
    refused = pool.call("POST", "/v1/inference?tier=gold", TEXT, key="")
    assert code(refused) == (404, "not_found")
    assert "basic, premium, cool" in refused[2]["error"]["hint"]


def test_what_an_sdk_lists_at_a_tier_is_its_model(pool: Running) -> None:
    everything = pool.call("GET", "/v1/models", key="")[2]["data"]
    status, _, told = pool.call("GET", "/cool/v1/models", key="")
    assert (status, told["object"]) == (200, "list")
    (listed,) = told["data"]
    assert listed["id"] == everything[0]["id"]
    assert (listed["default_max_tokens"], listed["pricing"], listed["rates"]) == (16, None, [])
    assert pool.call("GET", "/gold/v1/models", key="")[0] == 404


def test_the_receipt_of_a_tier_verifies_and_no_change_of_the_sale_passes(
    wallet: Wallet, pool: Running, tmp_path: Path
) -> None:
    key = wallet.sign_in()
    status, headers, answer = wallet.pay("POST", "/basic/v1/chat/completions", CHAT)
    assert status == 200
    path = f"/v1/receipts/{answer['usage']['receipt']}?evidence=1"
    told = bought(pool.call("GET", path, key=key))
    receipt = told["receipt"]
    assert receipt["sold"] == {"tier": "basic", "price_micro": "10000", "max_tokens": 100}
    paid = settled_of(headers)
    assert receipt["payment"] == f"{paid['network']}/{paid['transaction']}"
    coordinator = str(pool.ready["coordinator"])
    evidence = tmp_path / "evidence.json"
    evidence.write_text(json.dumps(told["evidence"]))

    def verified(changed: Any) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "receipt.json"
        file.write_text(json.dumps(changed))
        words = ["receipt", "verify", str(file), "--evidence", str(evidence)]
        return subprocess.run(
            [sys.executable, "-m", "parhelion", *words, "--coordinator", coordinator],
            capture_output=True,
            text=True,
            timeout=60,
        )

    good = verified(receipt)
    assert good.returncode == 0, good.stdout + good.stderr
    assert "one basic answer" in good.stdout
    for changed in (
        {"sold": None},
        {"sold": {**receipt["sold"], "price_micro": "5000"}},
        {"sold": {**receipt["sold"], "max_tokens": 8}},
        {"sold": {**receipt["sold"], "tier": "premium"}},
        {"payment": None},
        {"payment": receipt["payment"][:-1] + "x"},
        {"cost_micro": "800"},
        {"finish_reason": "stop"},
    ):
        assert verified({**receipt, **changed}).returncode == 1, changed


# --- sessions -------------------------------------------------------------------------------------

HOW = {
    "header": lambda token: {"x-parhelion-session": token},
    "bearer": lambda token: {"authorization": f"Bearer {token}"},
    "cookie": lambda token: {"cookie": f"parhelion_answer_basic={token}"},
}


def session_of(wallet: Wallet, tier: str = "basic") -> str:
    return str(bought(wallet.pay("GET", f"/content/{tier}"))["session"])


def spend(pool: Running, token: str, tier: str = "basic", body: Any = None, **how: Any) -> Any:
    headers = how.get("headers") or {"x-parhelion-session": token}
    path = f"/{tier}/v1/chat/completions"
    return pool.call("POST", path, body or CHAT, key="", headers=headers)


@pytest.mark.parametrize("how", HOW)
def test_a_session_has_its_one_answer_by_any_way_to_carry_it(
    how: str, wallet: Wallet, pool: Running
) -> None:
    token = session_of(wallet)
    headers = HOW[how](token)
    who = bought(pool.call("GET", "/v1/session", key="", headers={"x-parhelion-session": token}))
    assert (who["tier"], who["spent"], who["wallet"]) == ("basic", False, wallet.caip10)
    answer = bought(spend(pool, token, headers=headers))
    assert answer["usage"]["cost"] == str(BASIC_MICRO)
    assert code(spend(pool, token, headers=headers)) == (401, "invalid_session")
    assert wallet.holds() == 50_000_000 - BASIC_MICRO


def test_a_session_is_for_its_tier_alone_and_no_other_use_spends_it(
    wallet: Wallet, pool: Running
) -> None:
    token = session_of(wallet)
    headers = {"x-parhelion-session": token}
    assert code(spend(pool, token, "premium")) == (401, "invalid_session")
    for path in ("/v1/chat/completions", "/v1/inference?tier=cool"):
        body = CHAT if "chat" in path else TEXT
        refused = pool.call("POST", path, body, key="", headers=headers)
        assert code(refused) == (401, "invalid_session")
    long = {"messages": [{"role": "user", "content": "word " * 1200}], "max_tokens": 4}
    assert code(spend(pool, token, body=long)) == (400, "context_length_exceeded")
    assert code(spend(pool, token, body={**CHAT, "n": 3}))[0] == 400
    assert bought(spend(pool, token))["usage"]["cost"] == str(BASIC_MICRO)


@pytest.mark.parametrize(
    "forged", ["ses-prl-" + "A" * 43, "ses-prl-", "ses-prl-x", "SES-PRL-" + "b" * 43]
)
def test_a_forged_session_is_refused_and_falls_through_to_nothing(
    forged: str, pool: Running
) -> None:
    for how, headers in HOW.items():
        assert code(spend(pool, forged, headers=headers(forged)))[0] in (400, 401), how


def test_two_requests_race_for_a_session_and_one_is_served(wallet: Wallet, pool: Running) -> None:
    token = session_of(wallet)
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: spend(pool, token), range(6)))
    assert sorted(answer[0] for answer in answers) == [200, *[401] * 5]


def test_a_browser_gets_a_page_to_pay_at_and_one_to_ask_at(wallet: Wallet, pool: Running) -> None:
    browser = {"accept": "text/html,application/xhtml+xml"}
    status, headers, page = pool.call("GET", "/content/basic", key="", headers=browser)
    assert (status, headers["content-type"]) == (402, "text/html; charset=utf-8")
    assert b"LOCAL" in page and b"0.01" in page
    signed = wallet.sign(offers_of(headers))
    status, headers, page = wallet.sent(signed, "GET", "/content/basic", headers=browser)
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert settled_of(headers)["amount"] == str(BASIC_MICRO)
    token = headers["set-cookie"].split("=", 1)[1].split(";")[0]
    cookie = {**browser, "cookie": f"parhelion_answer_basic={token}"}
    assert pool.call("GET", "/content/basic", key="", headers=cookie)[0] == 200
    only = {"cookie": f"parhelion_answer_basic={token}"}
    receipt = bought(spend(pool, token, headers=only))["usage"]["receipt"]
    assert pool.call("GET", "/content/basic", key="", headers=cookie)[0] == 401
    kept = {"cookie": f"parhelion_receipt={token}"}
    assert pool.call("GET", f"/v1/receipts/{receipt}", key="", headers=kept)[0] == 200
    # The page takes the dead cookie away, so that the next look is an offer again.
    assert pool.call("GET", "/content/basic", key="", headers=browser)[0] == 402


def test_a_head_of_content_asks_for_no_money(wallet: Wallet, pool: Running) -> None:
    signed = wallet.sign(wallet.offered("GET", "/content/basic"))
    status, headers, _ = wallet.sent(signed, "HEAD", "/content/basic")
    assert (status, "payment-response" in headers) == (402, False)
    assert wallet.holds() == 50_000_000
    assert wallet.sent(signed, "GET", "/content/basic")[0] == 200


def test_a_session_outlives_the_coordinators_sudden_end(tmp_path: Path, smollm2: Path) -> None:
    running, node = start_seller(tmp_path)
    try:
        wallet = Wallet(running)
        token, spent = session_of(wallet), session_of(wallet)
        bought(spend(running, spent))
        running.kill()
        node.kill()
        running, node = start_seller(tmp_path)
        assert bought(spend(running, token))["usage"]["cost"] == str(BASIC_MICRO)
        for dead in (token, spent):
            assert code(spend(running, dead)) == (401, "invalid_session")
    finally:
        node.kill()
        running.kill()


# --- by maximum -----------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [SOLANA, EVM], ids=["solana", "evm"])
def test_what_a_request_did_not_use_is_credited(network: str, pool: Running) -> None:
    wallet = Wallet(pool, network)
    small = bought(wallet.pay("POST", "/v1/chat/completions", CHAT))["usage"]
    assert int(small["cost"]) == RATE_MICRO * small["total_tokens"] < LEAST_MICRO
    assert int(small["credited"]) == LEAST_MICRO - int(small["cost"])
    ask = {**TEXT, "seed": 3, "max_tokens": 60}
    word = bought(wallet.pay("POST", "/v1/completions", ask))["choices"][0]["text"].split()[2]
    more = {**ask, "max_tokens": 1000, "stop": [word]}
    price_micro = wallet.offered("POST", "/v1/completions", more).amount_micro
    usage = bought(wallet.pay("POST", "/v1/completions", more))["usage"]
    assert price_micro == RATE_MICRO * (usage["prompt_tokens"] + 1000)
    assert int(usage["cost"]) == RATE_MICRO * usage["total_tokens"] < 400
    assert int(usage["cost"]) + int(usage["credited"]) == price_micro


def test_a_stream_says_what_is_credited_and_names_its_payment_first(
    wallet: Wallet, pool: Running
) -> None:
    ask = {**CHAT, "stream": True}
    signed = wallet.sign(wallet.offered("POST", "/v1/chat/completions", ask))
    status, headers, body = wallet.sent(signed, "POST", "/v1/chat/completions", ask)
    assert (status, settled_of(headers)["amount"]) == (200, str(LEAST_MICRO))
    events = [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    usage = json.loads(events[-2])["usage"]
    assert int(usage["cost"]) + int(usage["credited"]) == LEAST_MICRO


def test_beside_a_key_the_rest_is_the_keys_to_spend(wallet: Wallet, pool: Running) -> None:
    key = topped_up(wallet)
    stranger = Wallet(pool, EVM)
    bearer = {"authorization": f"Bearer {key}"}
    signed = stranger.sign(stranger.offered("POST", "/v1/chat/completions", CHAT))
    usage = bought(stranger.sent(signed, "POST", "/v1/chat/completions", CHAT, headers=bearer))[
        "usage"
    ]
    assert balance(pool, key) == PREMIUM_MICRO + int(usage["credited"])
    # Also beyond what the key itself was bought with: its limit grew by the payment.
    bought(pool.call("POST", "/premium/v1/chat/completions", CHAT, key=key))
    assert balance(pool, key) == int(usage["credited"]) > 0
    bought(pool.call("POST", "/v1/chat/completions", CHAT, key=key))
    assert balance(pool, key) == LEAST_MICRO - 2 * int(usage["cost"])


def test_credentials_that_do_not_agree_are_refused_and_nothing_is_settled(
    wallet: Wallet, pool: Running
) -> None:
    key, token = topped_up(Wallet(pool, EVM)), session_of(wallet)
    path, had = "/basic/v1/chat/completions", wallet.holds()
    signed = wallet.sign(wallet.offered("POST", path, CHAT))

    def refused(**headers: str) -> tuple[int, str]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return code(wallet.sent(signed, "POST", path, CHAT, headers=sent))

    bad = "sk-prl-" + "A" * 43
    assert refused(authorization=f"Bearer {key}", x_parhelion_session=token)[0] == 400
    assert refused(authorization=f"Bearer {bad}") == (401, "invalid_api_key")
    assert refused(x_parhelion_session="ses-prl-" + "A" * 43) == (401, "invalid_session")
    other = session_of(wallet)
    assert refused(x_parhelion_session=token, cookie=f"parhelion_answer_basic={other}")[0] == 400
    assert wallet.holds() == had - BASIC_MICRO, "the second session, and nothing else"
    assert bought(wallet.sent(signed, "POST", path, CHAT))["usage"]["credited"] == "0"


# --- top-ups --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "micro"), [("", 1_000_000), ("?usd=0.25", 250_000), ("?usd=1", 1_000_000)]
)
def test_a_topup_is_a_balance_and_a_key_for_it(
    query: str, micro: int, wallet: Wallet, pool: Running
) -> None:
    status, headers, told = wallet.pay("POST", f"/v1/credits/topup{query}")
    assert status == 200, told
    assert (told["credited"], told["balance"]["available"]) == (str(micro), str(micro))
    assert told["transaction"] == settled_of(headers)["transaction"]
    assert balance(pool, told["key"]) == micro
    assert "custodial" in told["custody"]


@pytest.mark.parametrize("usd", ["5", "20"])
def test_large_topups_are_offered_and_say_that_stock_clients_refuse_them(
    usd: str, pool: Running
) -> None:
    status, headers, said = pool.call("POST", f"/v1/credits/topup?usd={usd}", key="")
    assert (status, offers_of(headers).amount_micro) == (402, int(usd) * 1_000_000)
    assert "refuse payments above $1" in said["error"]["hint"]


@pytest.mark.parametrize("usd", ["0", "2", "-1", "1e3", "0.250001", "1000000", "x", "", "1 "])
def test_no_other_amount_is_sold(usd: str, pool: Running) -> None:
    query = usd.replace(" ", "%20")
    answer = pool.call("POST", f"/v1/credits/topup?usd={query}", key="")
    assert code(answer) == (400, "invalid_request")
    assert "0.25, 1, 5, 20" in answer[2]["error"]["hint"]


def test_a_new_key_spends_what_was_paid_and_not_the_wallets_other_money(
    wallet: Wallet, pool: Running
) -> None:
    bought(wallet.pay("POST", "/v1/credits/topup?usd=1"))
    key = topped_up(wallet)
    assert balance(pool, key) == 250_000, "and does not see it"
    assert balance(pool, wallet.sign_in()) == 1_250_000
    bought(pool.call("POST", "/premium/v1/chat/completions", CHAT, key=key))
    refused = pool.call("POST", "/v1/chat/completions", CHAT, key=key)
    assert code(refused) == (402, "key_limit_reached")
    assert offers_of(refused[1]).amount_micro == 250_000


def test_what_a_payment_opens_reads_nothing_else_of_the_wallets_account(
    wallet: Wallet, pool: Running
) -> None:
    """Who brings a payment may be a reseller of it: the wallet's prompts are not his to read."""
    mine = bought(wallet.pay("POST", "/v1/chat/completions", CHAT))
    token, key = session_of(wallet), topped_up(wallet)
    own = bought(spend(pool, token))
    with_key = bought(pool.call("POST", "/v1/chat/completions", CHAT, key=key))

    def read(credential: str, answer: Any, suffix: str = "?evidence=1") -> int:
        path = f"/v1/receipts/{answer['usage']['receipt']}{suffix}"
        return pool.call("GET", path, key=credential)[0]

    for suffix in ("", "?evidence=1", "/explain"):
        assert [read(token, each, suffix) for each in (own, mine, with_key)] == [200, 403, 403]
        assert [read(key, each, suffix) for each in (with_key, mine, own)] == [200, 404, 404]
    for path in ("balance", "history", "withdrawals/wd_1"):
        answer = pool.call("GET", f"/v1/credits/{path}", key=token)
        assert code(answer) == (403, "forbidden"), path
    entries = bought(pool.call("GET", "/v1/credits/history", key=key))["data"]
    kinds = [each["kind"] for each in entries if each["kind"] != "return"]
    assert kinds == ["charge", "hold", "deposit"]
    signed_in = wallet.sign_in()
    assert all(read(signed_in, each) == 200 for each in (mine, own, with_key))


def test_a_topup_with_a_key_is_that_keys_to_spend(wallet: Wallet, pool: Running) -> None:
    key = topped_up(wallet)
    stranger = Wallet(pool, EVM)
    bearer = {"authorization": f"Bearer {key}"}
    told = bought(stranger.pay("POST", "/v1/credits/topup?usd=0.25", headers=bearer))
    assert (told["key"], told["balance"]["available"]) == (None, "500000")
    for left_micro in (250_000, 0):
        bought(pool.call("POST", "/premium/v1/chat/completions", CHAT, key=key))
        assert balance(pool, key) == left_micro


def test_who_is_signed_in_tops_up_without_a_key_and_still_pays_for_an_answer(
    wallet: Wallet, pool: Running
) -> None:
    bought(wallet.pay("POST", "/v1/chat/completions", CHAT))
    signed_in = wallet.sign_in()
    cookie = {"cookie": f"parhelion_session={signed_in}"}
    had = balance(pool, signed_in)
    told = bought(wallet.pay("POST", "/v1/credits/topup?usd=0.25", headers=cookie))
    assert (told["key"], told["expires_at_ms"]) == (None, None)
    assert told["balance"]["available"] == str(had + 250_000) == str(balance(pool, signed_in))
    for method in ("GET", "HEAD"):
        assert pool.call(method, "/content/basic", key="", headers=cookie)[0] == 402
    assert bought(wallet.pay("GET", "/content/basic", headers=cookie))["tier"] == "basic"


def test_too_low_a_balance_is_offered_what_mends_it_and_the_same_request_succeeds(
    wallet: Wallet, pool: Running
) -> None:
    key = topped_up(wallet)
    path, bearer = "/premium/v1/chat/completions", {"authorization": f"Bearer {key}"}
    bought(pool.call("POST", path, CHAT, key=key))
    status, headers, said = pool.call("POST", path, CHAT, key=key)
    assert status == 402, said
    offers = offers_of(headers)
    assert offers.amount_micro == 250_000
    assert "sign-in-with-x" in offers.document["extensions"]
    signed = wallet.sign(offers)
    answer = bought(wallet.sent(signed, "POST", path, CHAT, headers=bearer))
    assert answer["usage"]["cost"] == str(PREMIUM_MICRO)
    small = {"authorization": f"Bearer {key}"}
    status, headers, _ = pool.call("POST", "/v1/chat/completions", CHAT, headers=small)
    assert (status, offers_of(headers).amount_micro) == (402, 250_000)
    answer = wallet.sent(
        wallet.sign(offers_of(headers)), "POST", "/v1/chat/completions", CHAT, headers=small
    )
    cost = int(bought(answer)["usage"]["cost"])
    assert balance(pool, key) == 250_000 - cost
    bought(pool.call("POST", "/v1/chat/completions", CHAT, headers=small))


# --- the same again -------------------------------------------------------------------------------


def same(first: Any, again: tuple[int, dict[str, str], Any]) -> None:
    """The retry told the first answer again."""
    status, headers, body = again
    assert status == 200, body
    assert headers["idempotent-replayed"] == "true"
    assert body["choices"] == first["choices"]
    assert body["id"] == first["id"]


def test_an_idempotency_key_is_paid_once(wallet: Wallet) -> None:
    ask = {**CHAT, "temperature": 1.0}
    headers = {"idempotency-key": str(uuid.uuid4())}
    path = "/v1/chat/completions"
    signed = wallet.sign(wallet.offered("POST", path, ask, headers=headers))
    first = bought(wallet.sent(signed, "POST", path, ask, headers=headers))
    same(first, wallet.pay("POST", path, ask, headers=headers))
    same(first, wallet.sent(signed, "POST", path, ask, headers=headers))
    assert wallet.holds() == 50_000_000 - LEAST_MICRO
    other = {"idempotency-key": str(uuid.uuid4())}
    assert code(wallet.sent(signed, "POST", path, ask, headers=other)) == (409, "payment_used")
    assert code(wallet.sent(signed, "POST", path, ask)) == (409, "payment_used")
    changed = {**ask, "max_tokens": 9}
    assert code(wallet.pay("POST", path, changed, headers=headers)) == (422, "idempotency_mismatch")
    assert wallet.holds() == 50_000_000 - LEAST_MICRO


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/basic/v1/chat/completions"])
def test_a_payment_identifier_is_answered_once_and_names_its_payment(
    path: str, wallet: Wallet
) -> None:
    name = {"payment-identifier": {"info": {"required": False, "id": f"pay_{uuid.uuid4().hex}"}}}
    signed = wallet.sign(wallet.offered("POST", path, CHAT), **name)
    status, headers, first = wallet.sent(signed, "POST", path, CHAT)
    assert status == 200, first
    had = wallet.holds()
    anew = wallet.sign(wallet.offered("POST", path, CHAT), **name)
    for payment in (signed, anew):
        again = wallet.sent(payment, "POST", path, CHAT)
        same(first, again)
        assert again[1]["payment-response"] == headers["payment-response"]
        assert again[2]["usage"] == first["usage"]
    assert wallet.holds() == had
    other = {**CHAT, "max_tokens": 9}
    assert code(wallet.sent(anew, "POST", path, other))[0] == 422


def test_a_lost_topup_is_not_lost(wallet: Wallet, pool: Running) -> None:
    """Whoever sends a top-up's payment twice is told its transaction, and has its money."""
    signed = wallet.sign(wallet.offered("POST", "/v1/credits/topup?usd=0.25"))
    first = bought(wallet.sent(signed, "POST", "/v1/credits/topup?usd=0.25"))
    again = wallet.sent(signed, "POST", "/v1/credits/topup?usd=0.25")
    assert code(again) == (409, "payment_used")
    assert first["transaction"] in again[2]["error"]["message"]
    assert balance(pool, first["key"]) == 250_000
