"""`parhelion pay` against a real seller on real chains, and one that does everything wrong."""

from __future__ import annotations

import json

import pytest

from tests.integration.buyer.conftest import Person
from tests.integration.buyer.shop import ANSWER, EVM, PRICE, SOLANA, Shop

NETWORKS = {"solana-testnet": SOLANA, "base-sepolia": EVM}


@pytest.fixture(autouse=True)
def _glance(monkeypatch: pytest.MonkeyPatch) -> None:
    # One look is enough on a chain of this machine.
    monkeypatch.setattr("parhelion.payments.buyer.seen.GLANCE_S", 0.1)


@pytest.fixture
def funded(person: Person) -> Person:
    assert person.types("wallet", "fund", "--usd", "1")[0] == 0
    return person


@pytest.mark.parametrize("network", NETWORKS)
def test_a_request_is_paid_and_the_chain_itself_confirms_it(
    funded: Person, shop: Shop, network: str
) -> None:
    words = ("pay", f"{shop.base}/thing", "-d", '{"a": 1}', "--network", network, "--yes")
    found = funded.json(*words)
    assert (found["status"], json.loads(found["text"])) == (200, json.loads(ANSWER))
    payment = found["payment"]
    assert (payment["network"], payment["state"]) == (NETWORKS[network], "landed")
    assert (payment["local"], payment["amount"], payment["detail"]) == (True, str(PRICE), None)
    assert [payment["transaction"]] == list(shop.sold.values())
    assert funded.usdc()[NETWORKS[network]] == 1_000_000 - PRICE


def test_the_answer_is_all_of_standard_output_and_the_payment_is_talk(
    funded: Person, shop: Shop
) -> None:
    code, out, err = funded.types("pay", f"{shop.base}/thing", "-d", '{"stream": true}', "--yes")
    assert (code, out) == (0, "42.\n")
    assert "Pay $0.01 in USDC on solana-testnet (LOCAL)" in err
    assert "checked on the chain" in err and "credited 0.00999" in err


def test_what_is_free_is_not_paid(person: Person, shop: Shop) -> None:
    code, _, err = person.types("pay", f"{shop.base}/free", "--yes")
    assert code == 0 and "nothing was paid" in err
    assert shop.paid_requests == []


def test_nobody_is_asked_where_there_is_no_terminal_so_nothing_is_paid(
    funded: Person, shop: Shop
) -> None:
    code, out, err = funded.types("pay", f"{shop.base}/thing")
    assert (code, out) == (1, "") and "--yes" in err
    assert shop.paid_requests == []


@pytest.mark.parametrize(
    "fault",
    [
        "settle and drop",
        pytest.param("drop", marks=pytest.mark.slow),
        pytest.param("pending", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_lost_or_pending_answer_is_asked_for_again_and_paid_once(
    funded: Person, shop: Shop, network: str, fault: str
) -> None:
    shop.faults = [fault]
    found = funded.json("pay", f"{shop.base}/thing", "--network", network, "--yes")
    assert found["payment"]["sendings"] == 2 and len(set(shop.paid_requests)) == 1
    assert funded.usdc()[NETWORKS[network]] == 1_000_000 - PRICE


def test_a_seller_that_names_another_transaction_is_found_out(funded: Person, shop: Shop) -> None:
    shop.faults = ["lie"]
    found = funded.json("pay", f"{shop.base}/thing", "--yes")
    assert found["payment"]["state"] == "landed"
    assert found["payment"]["transaction"] in shop.sold.values()
    assert found["payment"]["detail"] == "the seller named another transaction"


def test_an_empty_wallet_hears_why_and_pays_nothing(person: Person, shop: Shop) -> None:
    code, out, err = person.types("pay", f"{shop.base}/thing", "--network", "base-sepolia", "--yes")
    assert (code, out) == (1, "")
    assert "insufficient_balance" in err and len(shop.paid_requests) == 1


@pytest.mark.slow
def test_a_redirect_takes_no_payment_along(funded: Person, shop: Shop) -> None:
    code, _, err = funded.types("pay", f"{shop.base}/moved", "--yes")
    assert code == 1 and f"redirects to {shop.base}/elsewhere" in err
    shop.faults = ["moved"]
    code, _, err = funded.types("pay", f"{shop.base}/thing", "--yes")
    assert code == 1 and "answered 307" in err
    assert len(shop.paid_requests) == 1 and shop.sold == {}


@pytest.mark.slow
@pytest.mark.usefixtures("one_day")
def test_a_dear_seller_is_refused_within_the_limits_and_paid_beyond_them(
    funded: Person, shop: Shop
) -> None:
    shop.price = 600_000
    url = f"{shop.base}/thing"
    code, _, err = funded.types("pay", url, "--max-usd", "0.5", "--yes")
    assert code == 1 and "--max-usd 0.6" in err
    assert funded.types("pay", url, "--yes")[0] == 0
    code, _, err = funded.types("pay", url, "--max-usd-per-day", "1", "--yes")
    assert code == 1 and "$0.4" in err
    assert len(shop.paid_requests) == 1


@pytest.mark.slow
def test_a_payment_on_an_unknown_chain_says_that_nobody_checked(funded: Person, shop: Shop) -> None:
    shop.networks, shop.extra = (EVM,), {"label": ""}
    found = funded.json("pay", f"{shop.base}/thing", "--yes")
    assert found["payment"]["state"] == "not checked" and not found["payment"]["local"]
    assert "--rpc base-sepolia=" in found["payment"]["detail"]


@pytest.mark.slow
def test_a_payment_that_the_seller_keeps_to_himself_is_not_called_paid(
    funded: Person, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parhelion.payments.buyer.seen.LOOK_WAIT_S", 0.5)
    shop.faults = ["free"]
    code, _, err = funded.types("pay", f"{shop.base}/thing", "--yes")
    assert code == 0 and "not on the chain yet" in err


def test_a_wallet_that_others_can_read_pays_nothing(funded: Person, shop: Shop) -> None:
    funded.wallet.chmod(0o644)
    code, _, err = funded.types("pay", f"{shop.base}/thing", "--yes")
    assert code == 1 and "others on this machine can read it" in err
    assert shop.paid_requests == []


@pytest.mark.parametrize("url", ["ftp://h/x", "http://", "http://u:p@h/x", "http://h/ä", "h/x"])
def test_what_is_no_url_is_wrong_usage(person: Person, url: str) -> None:
    assert person.types("pay", url, "--yes")[0] == 2
