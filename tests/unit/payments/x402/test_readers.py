"""What was read from a chain, as a sight of a payment."""

from __future__ import annotations

from typing import Any

import pytest

from parhelion.payments.facilitator.outcomes import Ambiguous, Code, Refused, Settled
from parhelion.payments.x402 import Expired, FailedOnChain, Landed, Unknown
from parhelion.payments.x402.readers import EvmReader, sight_of

TRANSACTION = "0x" + "11" * 32


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Settled(transaction=TRANSACTION, landed_micro=5_000), Landed),
        (Settled(transaction=TRANSACTION, landed_micro=0), FailedOnChain),
        (Settled(transaction=TRANSACTION), Unknown),
        (Refused(code=Code.EXPIRED, reason="r"), Expired),
        (Refused(code=Code.FAILED_ON_CHAIN, reason="r", transaction=TRANSACTION), FailedOnChain),
        (Refused(code=Code.ALREADY_USED, reason="canceled"), FailedOnChain),
        (Refused(code=Code.CHAIN_UNAVAILABLE, reason="r"), Unknown),
        (Ambiguous(reason="r"), Unknown),
    ],
)
def test_only_what_was_read_of_the_money_itself_is_landed(
    world: Any, outcome: Any, kind: type[Any]
) -> None:
    sight = sight_of(world.signed(), outcome)
    assert isinstance(sight, kind)
    if isinstance(sight, Landed):
        assert (sight.amount_micro, sight.payer) == (5_000, "0x" + "aa" * 20)


async def test_a_transaction_that_is_not_this_payments_says_nothing_of_it(world: Any) -> None:
    """A facilitator names another's transaction, reverted: the authorization is still open."""

    async def rpc(method: str, params: Any) -> Any:
        if method == "eth_getTransactionReceipt":
            return {
                "transactionHash": TRANSACTION,
                "blockHash": "0x" + "22" * 32,
                "blockNumber": "0x1",
                "status": "0x0",
                "logs": [],
            }
        if method == "eth_getBlockByNumber":
            return {"timestamp": hex(world.clock.now_ms() // 1000)}
        assert method == "eth_call"
        return "0x" + "0" * 64

    assert await EvmReader(rpc).find(world.signed(), TRANSACTION) == Unknown()
    world.clock.advance(500)
    old = world.signed()
    world.clock.advance(500)
    assert await EvmReader(rpc).find(old, TRANSACTION) == Expired()
