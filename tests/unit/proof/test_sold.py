"""What a receipt says of its sale is held against its price: a signature makes no word true."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from parhelion.ledger import tier_rate
from parhelion.proof import sign_receipt, verify
from parhelion.words import Receipt, Sold, Tier

TIER = Tier(name="basic", price_micro=10_000, max_tokens=100, max_prompt_tokens=1000)
SOLD = Sold(tier="basic", price_micro="10000", max_tokens=100)
PAYMENT = "eip155:84532/0x" + "ab" * 32
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def sold(honest: Any, **changes: Any) -> Receipt:
    """An honest receipt of one basic answer, but for what is changed, signed anew."""
    told: dict[str, Any] = {
        "sold": SOLD,
        "payment": PAYMENT,
        "rate": tier_rate(TIER, MODEL, "USDC.local"),
        "cost_micro": "10000",
        **changes,
    }
    unsigned: Receipt = msgspec.structs.replace(honest.receipt, **told)
    return sign_receipt(honest.coordinator, unsigned)


def failed(receipt: Receipt) -> set[str]:
    checks = verify(msgspec.json.encode(receipt))
    return {check.name for check in checks if check.state == "failed"}


def test_an_answer_of_a_tier_holds_at_its_price(honest: Any) -> None:
    assert failed(sold(honest)) == set()
    # 6 of 100 tokens, when it was cut.
    assert failed(sold(honest, finish_reason="node_lost", cost_micro="600")) == set()
    # Its client left: a tenth of the price for the prompt, which is more than its 6 tokens.
    assert failed(sold(honest, finish_reason="cancelled", cost_micro="1000")) == set()
    # Nothing was paid by itself: a session or a balance had it.
    assert failed(sold(honest, payment=None)) == set()


@pytest.mark.parametrize(
    "changes",
    [
        {"cost_micro": "9999"},
        {"cost_micro": "600"},
        {"finish_reason": "node_lost"},
        {"finish_reason": "node_lost", "cost_micro": "601"},
        {"finish_reason": "node_lost", "cost_micro": "1000"},
        {"finish_reason": "cancelled", "cost_micro": "600"},
        {"sold": None},
        {"sold": Sold(tier="basic", price_micro="20000", max_tokens=100)},
        {"sold": Sold(tier="basic", price_micro="10000", max_tokens=50)},
        {"sold": Sold(tier="basic", price_micro="10000", max_tokens=0)},
        {"sold": Sold(tier="basic", price_micro="-1", max_tokens=100)},
        {"sold": Sold(tier="basic", price_micro="0", max_tokens=100)},
        {"sold": Sold(tier="basic", price_micro="1" * 20, max_tokens=100)},
        {"max_tokens": 101},
    ],
)
def test_no_other_price_of_a_tier_is_believed(honest: Any, changes: dict[str, Any]) -> None:
    assert failed(sold(honest, **changes)) == {"price"}


@pytest.mark.parametrize(
    "changes",
    [
        {"payment": ""},
        {"payment": "0x" + "ab" * 32},
        {"payment": "bip122:000/" + "a" * 64},
        {"payment": PAYMENT + "\n"},
        {"payment": PAYMENT + " of another"},
        {"sold": Sold(tier="ba\nsic", price_micro="10000", max_tokens=100)},
    ],
)
def test_what_names_no_payment_or_tier_is_refused(honest: Any, changes: dict[str, Any]) -> None:
    assert failed(sold(honest, **changes)) == {"format"}


@pytest.mark.parametrize(
    "changes",
    [
        {"payment": None},
        {"payment": PAYMENT[:-1] + "c"},
        {"sold": Sold(tier="premium", price_micro="10000", max_tokens=100)},
    ],
)
def test_nothing_of_a_sale_is_changed_behind_the_signature(
    honest: Any, changes: dict[str, Any]
) -> None:
    told = msgspec.structs.replace(sold(honest), **changes)
    assert "signature" in failed(told)
