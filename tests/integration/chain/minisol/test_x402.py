"""Stock x402 parts pay on a real minisol process, through nothing but its RPC."""

from __future__ import annotations

import time

import pytest
from x402.schemas import SettleResponse

from parhelion.chain.local.minisol import USDC_MINT
from parhelion.chain.solana import Reading, Standing, associated_account, is_expired, read_payment
from parhelion.testing.minisol import MinisolProcess, RpcRefusal
from tests.integration.chain.minisol.conftest import Start
from tests.integration.chain.minisol.payments import USDC, Market

# solana-py warns of its own synchronous client, which x402 uses.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Client is deprecated", "ignore:TxOpts is deprecated"
)

CONFIRMED_WAIT_S = 5.0


async def read(market: Market, signature: str) -> Reading:
    """Our own read, once the transaction has had its slot."""
    deadline = time.monotonic() + CONFIRMED_WAIT_S
    payee = str(market.seller.pubkey())
    while True:
        found = await read_payment(market.minisol.acall, signature, payee=payee, mint=USDC_MINT)
        if found.standing is not Standing.PENDING or time.monotonic() > deadline:
            return found
        time.sleep(0.05)  # noqa: ASYNC251 - nothing else runs in this test's loop


def settled(response: SettleResponse) -> str:
    assert response.success, response
    return response.transaction


async def test_a_stock_buyer_pays_and_a_stock_facilitator_settles(minisol: MinisolProcess) -> None:
    market = Market(minisol).open()
    offer = market.offer(10_000)
    payment = market.pay(offer)
    facilitator = market.facilitator()
    verified = facilitator.verify(payment, offer)
    assert verified.is_valid, verified
    assert verified.payer == str(market.buyer.pubkey())
    found = await read(market, settled(facilitator.settle(payment, offer)))
    assert (found.standing, found.credited) == (Standing.LANDED, 10_000)
    assert found.payer == str(market.buyer.pubkey())
    assert found.fee_payer == str(market.fee_payer.pubkey())


async def test_a_payment_is_settled_once_whatever_its_facilitator_remembers(start: Start) -> None:
    market = Market(start()).open()
    offer = market.offer(10_000)
    payment = market.pay(offer)
    signature = market.minisol.call(
        "sendTransaction", market.signed(payment), {"encoding": "base64"}
    )
    market.minisol.restart()
    again = market.facilitator().verify(payment, offer)
    assert not again.is_valid and "AlreadyProcessed" in str(again.invalid_message)
    with pytest.raises(RpcRefusal, match="already been processed"):
        market.minisol.call("sendTransaction", market.signed(payment), {"encoding": "base64"})
    without = {"encoding": "base64", "skipPreflight": True}
    assert market.minisol.call("sendTransaction", market.signed(payment), without) == signature
    found = await read(market, signature)
    assert (found.standing, found.credited) == (Standing.LANDED, 10_000)
    account = associated_account(str(market.seller.pubkey()), USDC_MINT)
    balance = market.minisol.call("getTokenAccountBalance", account, {"commitment": "processed"})
    assert balance["value"]["amount"] == "10001"


async def test_a_payment_that_fails_on_chain_is_no_payment(minisol: MinisolProcess) -> None:
    market = Market(minisol).open(usdc_micro=5_000)
    offer = market.offer(10_000)
    payment = market.pay(offer)
    verified = market.facilitator().verify(payment, offer)
    assert not verified.is_valid
    # A facilitator that sends it all the same: it lands, is confirmed, and moved nothing.
    without = {"encoding": "base64", "skipPreflight": True}
    signature = minisol.call("sendTransaction", market.signed(payment), without)
    found = await read(market, signature)
    assert (found.standing, found.credited) == (Standing.FAILED, 0)
    assert found.error == {"InstructionError": [2, {"Custom": 1}]}


@pytest.mark.slow
async def test_an_expired_payment_is_refused_for_ever(start: Start) -> None:
    # Slots of 5 ms: 150 of them are over in less than a second.
    market = Market(start("--slot-ms", "5")).open()
    payment = market.pay(market.offer())
    blockhash = market.minisol.call("getLatestBlockhash", {"commitment": "processed"})["value"]
    assert not await is_expired(market.minisol.acall, blockhash["blockhash"])
    while market.minisol.call("getBlockHeight") <= blockhash["lastValidBlockHeight"]:
        time.sleep(0.1)  # noqa: ASYNC251 - nothing else runs in this test's loop
    assert await is_expired(market.minisol.acall, blockhash["blockhash"])
    refused = market.facilitator().verify(payment, market.offer())
    assert not refused.is_valid and "BlockhashNotFound" in str(refused.invalid_message)
    without = {"encoding": "base64", "skipPreflight": True}
    signature = market.minisol.call("sendTransaction", market.signed(payment), without)
    market.minisol.restart()
    market.minisol.call("sendTransaction", market.signed(payment), without)
    assert (await read(market, signature)).standing is Standing.UNKNOWN


def test_the_seller_may_hint_a_blockhash(minisol: MinisolProcess) -> None:
    market = Market(minisol).open()
    hint = minisol.call("getLatestBlockhash", {"commitment": "confirmed"})["value"]["blockhash"]
    offer = market.offer(1, hint)
    assert market.facilitator().verify(market.pay(offer), offer).is_valid


def test_five_payments_race_for_money_that_is_enough_for_one(minisol: MinisolProcess) -> None:
    market = Market(minisol).open(usdc_micro=USDC)
    offer = market.offer(USDC)
    payments = [market.signed(market.pay(offer)) for _ in range(5)]
    without = {"encoding": "base64", "skipPreflight": True}
    sent = [minisol.call("sendTransaction", each, without) for each in payments]
    statuses = minisol.call("getSignatureStatuses", sent)["value"]
    assert [status["err"] is None for status in statuses].count(True) == 1
    assert len({*sent}) == 5
