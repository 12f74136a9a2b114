"""Hostile offers: each is refused by name, before anything is shown to be signed."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from parhelion.payments.buyer import choose, read_offers
from parhelion.payments.x402.networks import Family
from parhelion.words import Problem, ProblemCode
from tests.unit.payments.buyer.sellers import EVM, PRICE, SOLANA, evm_offer, required, solana_offer

ME = {Family.SOLANA: "So1anaWa11et1111111111111111111111111111111", Family.EVM: "0x" + "ab" * 20}
MILLION = 1_000_000


def refusals(*accepts: dict[str, Any]) -> str:
    offered = read_offers(required(*accepts), ME)
    assert offered.choices == ()
    with pytest.raises(Problem) as caught:
        choose(offered, None, MILLION)
    assert caught.value.code is ProblemCode.PAYMENT_INVALID
    assert "nothing was paid" in caught.value.hint
    return "; ".join(offered.refused)


def with_extra(offer: dict[str, Any], **extra: Any) -> dict[str, Any]:
    told = {**offer["extra"], **extra}
    return {**offer, "extra": {name: each for name, each in told.items() if each is not None}}


def test_offers_of_both_networks_are_read_and_the_first_is_chosen() -> None:
    offered = read_offers(required(solana_offer(), evm_offer()), ME)
    assert offered.refused == ()
    assert [each.network.id for each in offered.choices] == [SOLANA, EVM]
    assert all(each.network.is_local for each in offered.choices)
    assert choose(offered, None, MILLION).network.id == SOLANA
    assert choose(offered, "base-sepolia", MILLION).network.id == EVM


def test_a_label_local_on_a_main_network_makes_no_play_money_of_it() -> None:
    usdc = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
    base = with_extra(evm_offer(network="eip155:8453", asset=usdc), name="USD Coin")
    offered = read_offers(required(base), ME)
    assert offered.choices[0].network.is_local is False
    assert offered.choices[0].network.asset == "USDC"


@pytest.mark.parametrize(
    ("offer", "says"),
    [
        (evm_offer(network="eip155:1"), "an unknown network 'eip155:1'"),
        (evm_offer(network="base-sepolia"), "not written as x402 does"),
        (evm_offer(scheme="upto"), "scheme 'upto'"),
        (evm_offer(asset="0x" + "11" * 20), "a token on base-sepolia that is not USDC"),
        (solana_offer(asset="So11111111111111111111111111111111111111112"), "not USDC"),
        (evm_offer(payTo="0x12"), "a payee on base-sepolia that is no address"),
        (solana_offer(payTo="0x" + "11" * 20), "a payee on solana-testnet that is no address"),
        (evm_offer(payTo="0x" + "AB" * 20), "pays this very wallet"),
        (solana_offer(payTo=ME[Family.SOLANA]), "pays this very wallet"),
        (evm_offer(amount="0"), "an amount that is none"),
        (evm_offer(amount="-5"), "an amount that is none"),
        (evm_offer(amount="1e3"), "an amount that is none"),
        (evm_offer(amount="١٠"), "an amount that is none"),
        (evm_offer(amount="9" * 40), "an amount that is none"),
        (evm_offer(amount=1000), "a malformed offer"),
        (evm_offer(maxTimeoutSeconds=10**6), "open for over an hour"),
        (evm_offer(maxTimeoutSeconds=0), "open for over an hour"),
        (with_extra(evm_offer(), name="Tether"), "another EIP-712 domain"),
        (with_extra(evm_offer(), version="1"), "another EIP-712 domain"),
        (with_extra(evm_offer(), name=None), "another EIP-712 domain"),
        (with_extra(evm_offer(), assetTransferMethod="permit2"), "only EIP-3009 is signed"),
        (with_extra(solana_offer(), feePayer=None), "without a fee payer"),
        (with_extra(solana_offer(), feePayer=ME[Family.SOLANA]), "this wallet as fee payer"),
        (with_extra(solana_offer(), memo="m" * 257), "a memo of over 256 bytes"),
        (with_extra(solana_offer(), memo=["m"]), "a memo of over 256 bytes"),
        (with_extra(solana_offer(), recentBlockhash="later"), "a recent blockhash that is none"),
    ],
)
def test_a_hostile_offer_is_refused_by_name(offer: dict[str, Any], says: str) -> None:
    assert says in refusals(offer)


def test_a_good_offer_is_taken_beside_bad_ones() -> None:
    offered = read_offers(
        required(evm_offer(scheme="upto"), evm_offer(amount="x"), evm_offer()), ME
    )
    assert len(offered.choices) == 1 and len(offered.refused) == 2
    assert choose(offered, None, MILLION).amount_micro == PRICE


def test_an_amount_above_the_limit_is_refused_and_says_what_would_allow_it() -> None:
    offered = read_offers(required(evm_offer(amount="2500000")), ME)
    with pytest.raises(Problem) as caught:
        choose(offered, None, MILLION)
    assert caught.value.code is ProblemCode.KEY_LIMIT_REACHED
    assert "$2.5" in caught.value.message and "--max-usd 2.5" in caught.value.hint
    assert choose(offered, None, 2_500_000).amount_micro == 2_500_000


def test_a_network_that_is_not_offered_names_those_that_are() -> None:
    offered = read_offers(required(evm_offer()), ME)
    with pytest.raises(Problem) as caught:
        choose(offered, "solana-mainnet-beta", MILLION)
    assert caught.value.hint == "it can be paid on base-sepolia"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (None, "not x402 version 2"),
        ("%%%", "is not x402's"),
        ("é", "is not x402's"),
        (b64("[]"), "is not x402's"),
        (b64("{"), "is not x402's"),
        (b64('{"x402Version": 1, "accepts": []}'), "speaks x402 version 1"),
        (b64(json.dumps({"x402Version": 2, "accepts": [{}] * 33})), "makes 33 offers"),
        (b64('{"a":' * 12_000), "over 49152 characters"),
        (b64('{"x402Version":2,"accepts":' + "[" * 20_000), "is not x402's"),
        ("A" * 100_000, "over 49152 characters"),
    ],
)
def test_a_header_that_cannot_be_read_is_no_offer(header: str | None, says: str) -> None:
    with pytest.raises(Problem) as caught:
        read_offers(header, ME)
    assert says in caught.value.message
    assert "nothing was signed" in caught.value.hint
