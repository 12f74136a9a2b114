"""Payments that are none, at the door of a running pool: each a clear refusal, nothing served,
nothing moved, nothing booked, and the next honest payment is served."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from solders.signature import Signature

from parhelion.testing.processes import WITH_CHAINS, start_up
from tests.acceptance.forgeries import HEADERS, ON_EVM, ON_SOLANA, OTHER, SAID, STRANGER, later
from tests.acceptance.stall import (
    NETWORKS,
    ROUTE,
    Answer,
    EvmWallet,
    SolanaWallet,
    Stall,
    ask,
    encoded,
    told,
    wallet_of,
)
from tests.unit.payments.facilitator.sketches import (
    BASE_SEPOLIA,
    SOLANA,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SHOWN_CHARS = 110


@pytest.fixture(scope="module")
def stall(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Stall]:
    data = tmp_path_factory.mktemp("stall") / "data"
    pool = start_up(data, env=WITH_CHAINS)
    try:
        yield Stall.of(pool, data)
    finally:
        assert pool.stop() == 0


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[list[tuple[str, int, str, str]]]:
    """Every attack with its answer, printed at the end."""
    rows: list[tuple[str, int, str, str]] = []
    yield rows
    for attack, status, code, message in rows:
        print(f"\n{attack:44} {status} {code:18} {message[:SHOWN_CHARS]}", end="")


@pytest.fixture
def refused(
    stall: Stall, table: list[tuple[str, int, str, str]], request: pytest.FixtureRequest
) -> Callable[[Answer, int, str, str], None]:
    """Checks one refusal: its status and code, words of its message, a hint, offers with a 402."""

    def check(answer: Answer, status: int, code: str, words: str) -> None:
        error = answer[2]["error"]
        table.append((request.node.name[5:], answer[0], error["code"], error["message"]))
        assert (answer[0], error["code"]) == (status, code), error
        assert words in error["message"], error
        assert error["hint"]
        assert ("payment-required" in answer[1]) == (status == 402)
        assert "payment-response" not in answer[1]

    return check


@pytest.fixture
def untouched(stall: Stall, request: pytest.FixtureRequest) -> Iterator[None]:
    """Around an attack: nothing moved, nothing served; and the next honest payment is served."""
    before = stall.money()
    yield
    assert stall.money() == before
    name = request.node.name
    for network in NETWORKS:
        if name.startswith("test_evm" if network == SOLANA else "test_solana"):
            continue
        wallet = wallet_of(stall, network)
        answer = stall.buy(wallet.pay(stall.offer(network)))
        assert answer[0] == 200, answer
        assert stall.holds(network, wallet.address) == 1_000_000 - 1000


# --- Solana -------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ON_SOLANA)
def test_solana(
    attack: str, stall: Stall, untouched: None, refused: Callable[[Answer, int, str, str], None]
) -> None:
    wallet = SolanaWallet(stall)
    make, code = ON_SOLANA[attack]
    offer = stall.offer(SOLANA)
    answer = stall.buy(told(offer, make(wallet, offer).payload()))
    refused(answer, 402, "payment_required", f"({code})")
    assert stall.holds(SOLANA, wallet.address) == wallet.gift_micro


def test_solana_signed_with_a_wrong_key(
    stall: Stall, untouched: None, refused: Callable[[Answer, int, str, str], None]
) -> None:
    wallet = SolanaWallet(stall)
    offer = stall.offer(SOLANA)
    transaction = wallet.sketch(offer).signed()
    message = bytes(transaction)[1 + 2 * 64 :]
    forged = bytes([2]) + bytes(64) + bytes(STRANGER.sign_message(message)) + message
    payload = {"transaction": base64.b64encode(forged).decode()}
    refused(stall.buy(told(offer, payload)), 402, "payment_required", "(bad_signature)")


def test_solana_of_a_wallet_without_money(
    stall: Stall, untouched: None, refused: Callable[[Answer, int, str, str], None]
) -> None:
    for gift_micro in (0, 999):
        wallet = SolanaWallet(stall, gift_micro)
        answer = stall.buy(wallet.pay(stall.offer(SOLANA)))
        refused(answer, 402, "payment_required", "the payment was refused (")
        assert stall.holds(SOLANA, wallet.address) == gift_micro


# --- EVM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ON_EVM)
def test_evm(
    attack: str, stall: Stall, untouched: None, refused: Callable[[Answer, int, str, str], None]
) -> None:
    wallet = EvmWallet(stall)
    make, code = ON_EVM[attack]
    offer = stall.offer(BASE_SEPOLIA)
    answer = stall.buy(told(offer, make(wallet, offer)))
    refused(answer, 402, "payment_required", f"({code})")
    assert stall.holds(BASE_SEPOLIA, wallet.address) == wallet.gift_micro


def test_evm_permit2(
    stall: Stall, untouched: None, refused: Callable[[Answer, int, str, str], None]
) -> None:
    wallet = EvmWallet(stall)
    offer = stall.offer(BASE_SEPOLIA)
    permit = {
        "permitted": {"token": offer["asset"], "amount": offer["amount"]},
        "from": wallet.key.address,
        "spender": OTHER,
        "nonce": "1",
        "deadline": later(60),
        "witness": {"to": offer["payTo"], "validAfter": "0"},
    }
    payload = {"signature": "0x" + "11" * 65, "permit2Authorization": permit}
    refused(stall.buy(told(offer, payload)), 400, "payment_invalid", "EIP-3009")
    both = {**wallet.signed(offer), "permit2Authorization": permit}
    refused(stall.buy(told(offer, both)), 402, "payment_required", "(permit2_unsupported)")


def test_evm_of_a_wallet_without_money(
    stall: Stall, untouched: None, refused: Callable[[Answer, int, str, str], None]
) -> None:
    for gift_micro in (0, 999):
        wallet = EvmWallet(stall, gift_micro)
        answer = stall.buy(wallet.pay(stall.offer(BASE_SEPOLIA)))
        refused(answer, 402, "payment_required", "(insufficient_balance)")
        assert stall.holds(BASE_SEPOLIA, wallet.address) == gift_micro


def test_evm_authorization_that_was_taken_back(
    stall: Stall, untouched: None, refused: Callable[[Answer, int, str, str], None]
) -> None:
    """A stranger carries the buyer's cancellation to the chain before the payment comes."""
    wallet = EvmWallet(stall)
    offer = stall.offer(BASE_SEPOLIA)
    payload = wallet.signed(offer)
    wallet.cancel(payload["authorization"]["nonce"])
    refused(stall.buy(told(offer, payload)), 402, "payment_required", "(already_used)")


# --- what is said of the payment ------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS, ids=["solana", "evm"])
@pytest.mark.parametrize("field", SAID)
def test_accepting_another(
    field: str,
    network: str,
    stall: Stall,
    untouched: None,
    refused: Callable[[Answer, int, str, str], None],
) -> None:
    """The client says that it accepts what was never offered; what it signed fits what it says."""
    wallet = wallet_of(stall, network)
    offer = stall.offer(network)
    header = wallet.pay(offer)
    payment = json.loads(base64.b64decode(header))
    payment["accepted"] = {**offer, **SAID[field]}
    refused(stall.buy(encoded(payment)), 402, "payment_required", "the payment accepts")


@pytest.mark.parametrize(
    "extra",
    [
        {"feePayer": str(STRANGER.pubkey())},
        {"memo": "offer_1"},
        {"memo": "offer_" + "0" * 26 + "x"},
        {"memo": ""},
        {"paymentFlow": "deferred"},
        {"anything": "more"},
    ],
    ids=str,
)
def test_accepting_other_terms(
    extra: dict[str, str],
    stall: Stall,
    untouched: None,
    refused: Callable[[Answer, int, str, str], None],
) -> None:
    wallet = SolanaWallet(stall)
    offer = stall.offer(SOLANA)
    other = {**offer, "extra": {**offer["extra"], **extra}}
    payload = wallet.sketch(offer).payload()
    refused(stall.buy(told(other, payload)), 402, "payment_required", "the payment accepts extra.")


@pytest.mark.parametrize("network", NETWORKS, ids=["solana", "evm"])
def test_the_payment_of_another_requests_price(
    network: str,
    stall: Stall,
    untouched: None,
    refused: Callable[[Answer, int, str, str], None],
) -> None:
    cheap, dear = ask(), ask("hi " * 600, 400)
    wallet = wallet_of(stall, network)
    header = wallet.pay(stall.offer(network, cheap))
    answer = stall.buy(header, dear)
    refused(answer, 402, "payment_required", "the payment accepts amount '1000'")
    assert stall.holds(network, wallet.address) == wallet.gift_micro


# --- headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", HEADERS)
def test_header(
    attack: str, stall: Stall, untouched: None, refused: Callable[[Answer, int, str, str], None]
) -> None:
    make, words = HEADERS[attack]
    refused(stall.buy(make(stall.offer(SOLANA))), 400, "payment_invalid", words)


@pytest.mark.parametrize("network", NETWORKS, ids=["solana", "evm"])
def test_bytes_that_are_no_transaction(
    network: str, stall: Stall, refused: Callable[[Answer, int, str, str], None], untouched: None
) -> None:
    offer = stall.offer(network)
    for size in (200, 1232):
        noise = base64.b64encode(bytes([2]) + os.urandom(size - 1)).decode()
        nonce = {"from": OTHER, "nonce": "0x" + "07" * 32}
        payload = {"transaction": noise, "authorization": nonce, "signature": "0x"}
        refused(stall.buy(told(offer, payload)), 402, "payment_required", "(malformed)")


def test_x_payment_of_version_1(
    stall: Stall, untouched: None, refused: Callable[[Answer, int, str, str], None]
) -> None:
    wallet = SolanaWallet(stall)
    offer = stall.offer(SOLANA)
    payment = {
        "x402Version": 1,
        "scheme": "exact",
        "network": "solana-testnet",
        "payload": wallet.sketch(offer).payload(),
    }
    answer = stall.buy(None, X_PAYMENT=encoded(payment))
    refused(answer, 400, "payment_invalid", "X-PAYMENT is x402 version 1")
    assert stall.holds(SOLANA, wallet.address) == wallet.gift_micro


def test_a_header_of_1_mb(stall: Stall, untouched: None) -> None:
    """The server stops reading it; whatever it says, it is a refusal of 4xx."""
    try:
        status = stall.buy("A" * 1_000_000)[0]
    except OSError:
        # Hung up while it was still being sent: it was not read to its end.
        status = 400
    assert 400 <= status < 500 and status != 402


def test_two_payments_with_one_request(
    stall: Stall, untouched: None, refused: Callable[[Answer, int, str, str], None]
) -> None:
    """Which one was meant nobody can tell: neither is taken."""
    wallets = [SolanaWallet(stall), SolanaWallet(stall)]
    first, second = (wallet.pay(stall.offer(SOLANA)) for wallet in wallets)
    refused(stall.buy(f"{first}, {second}"), 400, "payment_invalid", "")
    answer = twice(stall, first, second)
    assert answer[0] == 400, answer
    assert [stall.holds(SOLANA, each.address) for each in wallets] == [1_000_000, 1_000_000]


def twice(stall: Stall, first: str, second: str) -> tuple[int, bytes]:
    """The same header two times in one request."""
    import http.client
    from urllib.parse import urlsplit

    where = urlsplit(stall.pool.api)
    line = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    body = json.dumps(ask()).encode()
    line.putrequest("POST", ROUTE)
    for name, value in (
        ("content-type", "application/json"),
        ("content-length", str(len(body))),
        ("payment-signature", first),
        ("payment-signature", second),
    ):
        line.putheader(name, value)
    line.endheaders(body)
    answer = line.getresponse()
    return answer.status, answer.read()


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/models"), ("GET", "/health"), ("GET", ROUTE), ("GET", "/v1/credits/topup")],
)
def test_a_get_never_settles(method: str, path: str, stall: Stall, untouched: None) -> None:
    wallet = SolanaWallet(stall)
    header = wallet.pay(stall.offer(SOLANA))
    stall.pool.call(method, path, key="", headers={"payment-signature": header})
    assert stall.holds(SOLANA, wallet.address) == wallet.gift_micro


def test_a_payment_for_what_cannot_be_served_is_not_taken(stall: Stall, untouched: None) -> None:
    wallet = SolanaWallet(stall)
    header = wallet.pay(stall.offer(SOLANA))
    for body in (
        {"messages": "?"},
        {**ask(), "model": "none/such"},
        {**ask("word " * 20_000)},
        {**ask(), "max_tokens": -1},
    ):
        status, _, told = stall.buy(header, body)
        assert 400 <= status < 500 and status != 402, told
        assert told["error"]["hint"]
    assert stall.holds(SOLANA, wallet.address) == wallet.gift_micro


# --- races ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS, ids=["solana", "evm"])
def test_five_payments_race_for_money_for_one_and_one_is_served(
    network: str, stall: Stall, table: list[tuple[str, int, str, str]]
) -> None:
    before = stall.money()
    wallet = wallet_of(stall, network, 1_900)
    headers = [wallet.pay(stall.offer(network)) for _ in range(5)]
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(stall.buy, headers))
    statuses = sorted(answer[0] for answer in answers)
    for answer in answers:
        error = answer[2].get("error", {"code": "-", "message": "served"})
        table.append((f"five race for one {network}", answer[0], error["code"], error["message"]))
    assert statuses == [200, 402, 402, 402, 402]
    assert stall.holds(network, wallet.address) == 900
    after = stall.money()
    assert after.payees[network] == before.payees[network] + 1000
    assert after.holds == before.holds + 1
    # The one who was late may try again when the money is there.
    assert after.claims["settled"] == before.claims.get("settled", 0) + 1


@pytest.mark.parametrize("network", NETWORKS, ids=["solana", "evm"])
def test_one_payment_in_twenty_spellings_buys_one_answer(
    network: str, stall: Stall, table: list[tuple[str, int, str, str]]
) -> None:
    """What is signed is one payment, however it is written."""
    before = stall.money()
    wallet = wallet_of(stall, network)
    offer = stall.offer(network)
    spellings: list[Mapping[str, Any]] = []
    if isinstance(wallet, SolanaWallet):
        sketch = wallet.sketch(offer)
        for _ in range(20):
            signed = sketch.signed(first=Signature(os.urandom(64)))
            spellings.append({"transaction": base64.b64encode(bytes(signed)).decode()})
    else:
        made = wallet.signed(offer)
        fields, signature = made["authorization"], made["signature"]
        for turn in range(20):
            nonce = fields["nonce"] if turn % 2 else "0x" + fields["nonce"][2:].upper()
            payer = fields["from"] if turn % 3 else fields["from"].lower()
            v = int(signature[-2:], 16) - (27 if turn % 5 else 0)
            spelled = {**fields, "nonce": nonce, "from": payer}
            spellings.append({"authorization": spelled, "signature": f"{signature[:-2]}{v:02x}"})
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda each: stall.buy(told(offer, each)), spellings))
    for status, code in sorted(
        {(each[0], each[2].get("error", {"code": "-"})["code"]) for each in answers}
    ):
        table.append((f"20 spellings {network}", status, code, ""))
    assert [each[0] for each in answers].count(200) == 1
    assert {each[0] for each in answers} <= {200, 409, 503}
    assert stall.holds(network, wallet.address) == wallet.gift_micro - 1000
    after = stall.money()
    assert after.holds == before.holds + 1
    assert after.payees[network] == before.payees[network] + 1000


def test_what_others_read_on_the_chain_buys_nothing(
    stall: Stall, refused: Callable[[Answer, int, str, str], None]
) -> None:
    """A payment that landed is public: sent again, with its own body or another, it is used."""
    for network in NETWORKS:
        wallet = wallet_of(stall, network)
        header = wallet.pay(stall.offer(network))
        served = stall.buy(header)
        assert served[0] == 200
        paid = json.loads(base64.b64decode(served[1]["payment-response"]))
        before = stall.money()
        for body in (ask(), ask("Say ho")):
            refused(stall.buy(header, body), 409, "payment_used", paid["transaction"])
        assert stall.money() == before


def test_an_authorization_that_a_stranger_carried_first_is_the_payers_payment(
    stall: Stall,
) -> None:
    """It landed before we were told of it: refused as used, and the chain keeps what it got."""
    wallet = EvmWallet(stall)
    offer = stall.offer(BASE_SEPOLIA)
    payload = wallet.signed(offer)
    wallet.carry(payload)
    status, _, answer = stall.buy(told(offer, payload))
    assert (status, answer["error"]["code"]) == (402, "payment_required")
    assert "(already_used)" in answer["error"]["message"]
