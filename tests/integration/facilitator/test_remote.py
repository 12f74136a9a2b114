"""x402's own facilitator behind HTTP, used by URL, on a real minisol."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from aiohttp import web
from x402.mechanisms.svm.exact.facilitator import ExactSvmScheme
from x402.mechanisms.svm.signers import FacilitatorKeypairSigner
from x402.schemas import PaymentPayload, PaymentRequirements

from parhelion.chain.local.minisol import CAIP2
from parhelion.payments.facilitator import (
    Ambiguous,
    Remote,
    Settled,
    SolanaPayment,
)
from tests.integration.facilitator.solana_shop import PRICE, Shop

pytestmark = pytest.mark.slow


class Stock:
    """x402's facilitator served as its own example does."""

    def __init__(self, shop: Shop) -> None:
        signer = FacilitatorKeypairSigner(shop.fee_payer, rpc_url=shop.minisol.url)
        self.scheme = ExactSvmScheme(signer)
        self.is_silent = False
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        asked = await request.json()
        payload = PaymentPayload.model_validate(asked["paymentPayload"])
        wanted = PaymentRequirements.model_validate(asked["paymentRequirements"])
        call: Any = self.scheme.verify if request.path == "/verify" else self.scheme.settle
        answer = await asyncio.to_thread(call, payload, wanted)
        if self.is_silent:
            await asyncio.sleep(60)
        return web.json_response(text=answer.model_dump_json(by_alias=True, exclude_none=True))


@pytest_asyncio.fixture
async def stock(shop: Shop) -> AsyncIterator[Stock]:
    made = Stock(shop)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


def _remote(shop: Shop, stock: Stock, session: aiohttp.ClientSession, settle_s: float) -> Remote:
    chains = {CAIP2: shop.rpc}
    return Remote(session, stock.url, lambda _: {}, chains, time.time, settle_budget_s=settle_s)


async def test_a_stock_facilitator_settles_and_our_own_read_agrees(
    shop: Shop, stock: Stock
) -> None:
    async with aiohttp.ClientSession() as session:
        remote = _remote(shop, stock, session, 15.0)
        payment = await remote.verify(await asyncio.to_thread(shop.pay), shop.offer)
        assert isinstance(payment, SolanaPayment), payment
        assert payment.transaction == ""
        outcome = await remote.settle(payment)
        assert isinstance(outcome, Settled)
        # Our own read finds the transaction by what was signed, whatever we were told.
        found = await remote.reconcile(payment)
        assert found == msgspec.structs.replace(outcome, landed_micro=PRICE)


async def test_a_facilitator_that_settles_and_hangs_costs_the_payer_nothing(
    shop: Shop, stock: Stock
) -> None:
    async with aiohttp.ClientSession() as session:
        remote = _remote(shop, stock, session, 1.5)
        payment = await remote.verify(await asyncio.to_thread(shop.pay), shop.offer)
        assert isinstance(payment, SolanaPayment), payment
        stock.is_silent = True
        assert isinstance(await remote.settle(payment), Ambiguous)
        found = await remote.reconcile(payment)
        assert isinstance(found, Settled) and found.landed_micro == PRICE
