"""What is for sale, as x402's own package reads it from a 402, and as crawlers read it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from x402.extensions.bazaar import (
    extract_discovery_info,
    validate_discovery_extension,
    validate_discovery_extension_spec,
)
from x402.extensions.bazaar.types import parse_discovery_extension
from x402.schemas import PaymentRequirements

from parhelion.config import X402Network
from parhelion.payments.x402 import TIERS, Desk, bazaar, payees, payment_required, tier_price
from parhelion.words import AssetClass, Tier

ORIGIN = "https://pool.example"
PAYEES = payees(
    (
        X402Network(
            id="solana-testnet",
            pay_to="7oYKnwHxzXitcxJuPV7EP9mPaLbkubgcT3jZa63E1gWA",
            fee_payer_key_file="k",
            rpc_url="http://127.0.0.1:1",
        ),
        X402Network(
            id="base-sepolia",
            pay_to="0x" + "Ab" * 20,
            fee_payer_key_file="k",
            rpc_url="http://127.0.0.1:2",
        ),
    ),
    AssetClass.LOCAL,
)
GOODS = bazaar.goods(TIERS, 1_000)
HEADER_LIMIT_CHARS = 4096
"""What a proxy with small buffers passes on."""


@pytest.mark.parametrize("good", GOODS, ids=lambda good: f"{good.method} {good.path}")
def test_what_an_offer_declares_is_what_the_stock_validators_want(good: bazaar.Good) -> None:
    declared = bazaar.declare(ORIGIN + good.path)["bazaar"]
    parsed = parse_discovery_extension(declared)
    for extension in (declared, parsed):
        assert validate_discovery_extension(extension).errors == []
        assert validate_discovery_extension_spec(extension).errors == []
    assert declared["info"]["input"]["method"] == good.method


@pytest.mark.parametrize(
    "change",
    [
        {"method": "GET"},
        {"bodyType": "text"},
        {"body": {}},
        {"body": {"messages": "all in one text"}},
    ],
)
def test_a_declared_schema_refuses_what_the_route_refuses(change: dict[str, object]) -> None:
    declared = bazaar.declare(f"{ORIGIN}/v1/chat/completions")["bazaar"]
    info = {"input": {**declared["info"]["input"], **change}}
    wrong: Any = {**declared, "info": info}
    assert not validate_discovery_extension(wrong).valid


def test_a_facilitator_finds_the_route_in_the_payment_that_echoes_the_offer() -> None:
    url = f"{ORIGIN}/v1/inference?tier=basic"
    desks = [Desk(payee=PAYEES[0], fee_payer=PAYEES[0].pay_to), Desk(payee=PAYEES[1])]
    required = payment_required(
        tier_price(TIERS[0], 1),
        desks,
        url=url,
        now_ms=1,
        entropy=bytes(10),
        extensions=bazaar.declare(url),
    )
    header = required.header()
    assert len(header) < HEADER_LIMIT_CHARS
    told = json.loads(base64.b64decode(header))
    payload = {
        "x402Version": 2,
        "payload": {},
        "accepted": told["accepts"][1],
        "resource": told["resource"],
        "extensions": told["extensions"],
    }
    found = extract_discovery_info(payload, PaymentRequirements.model_validate(told["accepts"][1]))
    assert found is not None
    assert (found.method, found.x402_version) == ("POST", 2)
    assert found.resource_url.startswith(f"{ORIGIN}/v1/inference")


def test_the_document_lists_every_good_with_its_price_on_every_network() -> None:
    tier = Tier(name="tiny", price_micro=7, max_tokens=3, max_prompt_tokens=5_000)
    told = bazaar.well_known((tier,), 2_000, PAYEES, ORIGIN)
    priced = {
        item["resource"].removeprefix(ORIGIN): (item["method"], item["accepts"][0]["amount"])
        for item in told["items"]
    }
    assert priced == {
        "/tiny/v1/chat/completions": ("POST", "7"),
        "/v1/inference?tier=tiny": ("POST", "7"),
        "/content/tiny": ("GET", "7"),
        "/v1/chat/completions": ("POST", "2000"),
        "/v1/completions": ("POST", "2000"),
        "/v1/inference": ("POST", "2000"),
        "/v1/credits/topup?usd=0.25": ("POST", "250000"),
        "/v1/credits/topup?usd=1": ("POST", "1000000"),
        "/v1/credits/topup?usd=5": ("POST", "5000000"),
        "/v1/credits/topup?usd=20": ("POST", "20000000"),
    }
    # What a tier buys has its units, in words and as numbers.
    sold = [item for item in told["items"] if "tier" in item]
    assert [item["resource"].startswith(ORIGIN) for item in sold] == [True] * 3
    limits = {"name": "tiny", "maxTokens": 3, "maxPromptTokens": 5_000, "model": None}
    assert sold[0]["tier"] == limits
    words = "one answer of up to 3 tokens to a prompt of at most 5,000 tokens: $0.000007"
    assert sold[0]["description"] == words
    # What crawlers of today read: a version of 1, and URLs.
    assert told["version"] == 1
    assert told["resources"] == [item["resource"] for item in told["items"]]
    for item in told["items"]:
        for accepted in item["accepts"]:
            PaymentRequirements.model_validate(accepted)
        assert [each["network"] for each in item["accepts"]] == [p.network.id for p in PAYEES]
    assert [each["label"] for each in told["networks"]] == ["LOCAL", "LOCAL"]
    assert "play money" in told["description"] and "custodial" in told["description"]


def test_an_offer_elsewhere_declares_nothing() -> None:
    assert bazaar.declare(f"{ORIGIN}/v1/keys") == {}
