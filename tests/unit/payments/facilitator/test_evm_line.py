"""What is offered for the nonce of a transaction that waits."""

from __future__ import annotations

from typing import Any

import pytest
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from parhelion.payments.facilitator import Code, EvmPayment, Refused
from parhelion.payments.facilitator.evm_line import LINE_LIMIT, Fees, Line

WEI = st.integers(0, 10**12)


@given(WEI, WEI, WEI, WEI, WEI)
def test_what_takes_a_nonce_over_offers_an_eighth_more_of_both_and_never_more_than_the_limit(
    max_fee: int, tip: int, now_fee: int, now_tip: int, cap: int
) -> None:
    old, now = Fees(max_fee, min(tip, max_fee)), Fees(now_fee, min(now_tip, now_fee))
    raised = old.above(now, cap)
    if raised is None:
        assert old.max_fee_wei * 9 // 8 + 1 > cap
        return
    assert raised.tip_wei <= raised.max_fee_wei <= cap
    for before, after in zip(old, raised, strict=True):
        assert after * 8 > before * 9, "nodes want a tenth more; exactly the same is refused"
    assert raised.max_fee_wei >= min(now.max_fee_wei, cap)


@pytest.mark.parametrize("landed", [0, LINE_LIMIT])
async def test_no_more_wait_than_the_limit_and_who_has_landed_waits_no_more(landed: int) -> None:
    async def rpc(method: str, params: list[Any]) -> Any:
        if method == "eth_getTransactionCount":
            return hex(landed if params[1] == "latest" else 0)
        assert method == "eth_sendRawTransaction"
        return "0x" + "11" * 32

    line = Line(rpc, Account.create())
    fees = Fees(2, 1)
    async with line.turn:
        for number in range(LINE_LIMIT):
            assert await line.send(payment(number), fees) is None
        told = await line.send(payment(LINE_LIMIT), fees)
    if landed:
        assert told is None and len(line.waiting) == 1
    else:
        assert isinstance(told, Refused) and told.code is Code.CHAIN_UNAVAILABLE


def payment(number: int) -> EvmPayment:
    return EvmPayment(
        network="eip155:84532",
        asset="0x" + "33" * 20,
        payer="0x" + "aa" * 20,
        payee="0x" + "ee" * 20,
        amount_micro=5,
        key=f"key {number}",
        nonce="0x" + number.to_bytes(32, "big").hex(),
        valid_after_s=0,
        valid_before_s=2**32,
        signature=bytes(65),
    )
