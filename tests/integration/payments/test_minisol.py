"""Stock clients pay on a real local Solana; the books agree with the chain to the unit."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from solders.keypair import Keypair

from parhelion import identity, ledger, payments, proof
from parhelion.chain.rpc import JsonRpc
from parhelion.chain.solana import associated_account
from parhelion.config import X402Network
from parhelion.identity import Wallets
from parhelion.ledger import Ledger, Shares
from parhelion.payments.facilitator import Ambiguous, Embedded, EmbeddedSolana
from parhelion.payments.x402 import (
    Cashier,
    ClaimBook,
    Desk,
    Hint,
    PaymentRequired,
    Reconciler,
    Round,
    Window,
    accept,
    payees,
    payment_required,
    read,
    request_price,
)
from parhelion.payments.x402.readers import SolanaReader
from parhelion.store import Store
from parhelion.testing.minisol import MinisolProcess
from parhelion.words import AssetClass, Grant, Hold, Problem, ProblemCode, Rate, mint

ASSET = "USDC.local"
SHARES = Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)
RATE = Rate(model="m", asset=ASSET, version=1, prompt_micro=4_000_000, completion_micro=4_000_000)
MIGRATIONS = (
    *ledger.MIGRATIONS,
    *identity.MIGRATIONS,
    *proof.MIGRATIONS,
    *payments.MIGRATIONS,
)
USDC = 10**6

pytestmark = pytest.mark.slow


class WallClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()


class Shop:
    """A seller on a chain of its own, with everything real but the HTTP in front."""

    def __init__(self, chain: MinisolProcess, rpc: JsonRpc, store: Store) -> None:
        self.chain, self.store, self.clock = chain, store, WallClock()
        self.seller, self.fee_payer, self.buyer = Keypair(), Keypair(), Keypair()
        chain.fund(str(self.seller.pubkey()), usdc_micro=1)
        chain.fund(str(self.fee_payer.pubkey()), lamports=10**9)
        chain.fund(str(self.buyer.pubkey()), usdc_micro=10 * USDC)
        setting = X402Network(
            id="solana-testnet",
            pay_to=str(self.seller.pubkey()),
            rpc_url=chain.url,
            fee_payer_key_file="k",
        )
        (self.payee,) = payees((setting,), AssetClass.LOCAL)
        self.id = self.payee.network.id
        self.facilitator = Embedded({self.id: EmbeddedSolana(rpc, self.fee_payer)})
        self.ledger = Ledger(store, self.clock, SHARES)
        self.wallets = Wallets(store, self.ledger, self.clock)
        self.book = ClaimBook(store, self.ledger, self.wallets, self.clock)
        self.windows = {self.id: Window(facilitator=self.facilitator, reader=SolanaReader(rpc))}
        self.cashier = Cashier(self.book, self.windows, self.clock)

    def offer(self) -> PaymentRequired:
        fresh = self.chain.call("getLatestBlockhash")["value"]
        hint = Hint(
            blockhash=fresh["blockhash"], last_valid_block_height=fresh["lastValidBlockHeight"]
        )
        return payment_required(
            request_price(RATE, 420, 1_000, 1_000),
            (Desk(payee=self.payee, fee_payer=str(self.fee_payer.pubkey()), hint=hint),),
            url="http://h/v1/chat/completions",
            now_ms=self.clock.now_ms(),
            entropy=os.urandom(10),
        )

    def header(self, buyer: Keypair | None = None) -> str:
        """What a stock client sends after our 402."""
        from x402.client import x402ClientSync
        from x402.http.utils import (
            decode_payment_required_header,
            encode_payment_signature_header,
        )
        from x402.mechanisms.svm.exact.client import ExactSvmScheme
        from x402.mechanisms.svm.signers import KeypairSigner

        told = decode_payment_required_header(self.offer().header().decode())
        client = x402ClientSync()
        scheme = ExactSvmScheme(KeypairSigner(buyer or self.buyer), rpc_url=self.chain.url)
        client.register("solana:*", scheme)
        return encode_payment_signature_header(client.create_payment_payload(told))  # type: ignore[arg-type]

    async def pay(self, header: str) -> Any:
        """The way of a paid request, as the gate will go it."""
        payment = accept(read(header), self.offer(), {self.id: self.payee.network})
        request = mint("req", self.clock.now_ms(), os.urandom(10))
        claim = await self.cashier.claim(payment, request=request, body_hash="b")

        async def opens(paid: Any, first: Any) -> Hold:
            grant = Grant(
                account=paid.account, key=None, rate=RATE, amount_micro=paid.amount_micro, seed=0
            )
            return await self.ledger.hold(
                grant, request, prompt_tokens=420, expires_at_ms=2**42, first=first
            )

        return await self.cashier.settle(claim, request, opens)  # type: ignore[arg-type]

    async def earned(self) -> tuple[int, int]:
        """By the books, and by the chain."""
        mirror = f"chain:{self.id}:{self.payee.pay_to}"
        booked = -(await self.ledger.balance(mirror, ASSET)).available_micro
        account = associated_account(self.payee.pay_to, self.payee.network.token)
        found = self.chain.call("getTokenAccountBalance", account, {"commitment": "processed"})
        return booked, int(found["value"]["amount"]) - 1


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    chain = await asyncio.to_thread(MinisolProcess, tmp_path / "chain")
    async with aiohttp.ClientSession() as session:
        store = await Store.open(tmp_path / "l.db", MIGRATIONS, AssetClass.LOCAL, WallClock())
        shop = Shop(chain, JsonRpc(session, chain.url), store)
        yield shop
        await shop.cashier.close()
        assert await shop.ledger.audit() == ()
        await store.close()
    chain.close()


async def test_a_stock_clients_payment_is_settled_seen_and_booked(shop: Shop) -> None:
    header = await asyncio.to_thread(shop.header)
    paid = await shop.pay(header)
    assert paid.opened.amount_micro == 5_680
    assert await shop.earned() == (5_680, 5_680)
    wallet = f"{shop.id}:{shop.buyer.pubkey()}"
    assert await shop.wallets.find(wallet) == paid.settlement.account
    with pytest.raises(Problem) as caught:
        await shop.pay(header)
    assert caught.value.code is ProblemCode.PAYMENT_USED
    assert paid.settlement.transaction in caught.value.message


async def test_twenty_copies_at_once_buy_one_grant_and_move_money_once(shop: Shop) -> None:
    header = await asyncio.to_thread(shop.header)
    told = await asyncio.gather(*(shop.pay(header) for _ in range(20)), return_exceptions=True)
    assert len([one for one in told if not isinstance(one, BaseException)]) == 1
    assert all(isinstance(one, Problem) for one in told if isinstance(one, BaseException))
    assert await shop.earned() == (5_680, 5_680)


async def test_five_payments_race_for_the_money_of_one_and_one_is_served(shop: Shop) -> None:
    poor = Keypair()
    shop.chain.fund(str(poor.pubkey()), usdc_micro=5_680)
    headers = [await asyncio.to_thread(shop.header, poor) for _ in range(5)]
    told = await asyncio.gather(*(shop.pay(each) for each in headers), return_exceptions=True)
    assert len([one for one in told if not isinstance(one, BaseException)]) == 1
    refused = {one.code for one in told if isinstance(one, Problem)}
    assert refused <= {ProblemCode.PAYMENT_REQUIRED, ProblemCode.PAYMENT_PENDING}
    assert await shop.earned() == (5_680, 5_680)


async def test_an_answer_that_got_lost_is_found_on_the_chain_and_served_to_its_sender(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = await asyncio.to_thread(shop.header)
    settle = shop.facilitator.settle

    async def loses(payment: Any) -> Ambiguous:
        await settle(payment)
        return Ambiguous(reason="the answer got lost")

    monkeypatch.setattr(shop.facilitator, "settle", loses)
    with pytest.raises(Problem) as caught:
        await shop.pay(header)
    assert caught.value.code is ProblemCode.PAYMENT_PENDING
    reconciler = Reconciler(shop.book, shop.windows, shop.clock, shop.cashier.pending)
    assert await reconciler.round() == Round(settled=1)
    assert (await shop.pay(header)).opened.amount_micro == 5_680
    assert await shop.earned() == (5_680, 5_680)


async def test_what_was_never_sent_stays_pending_while_its_blockhash_lives(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = await asyncio.to_thread(shop.header)

    async def is_lost(payment: Any) -> Ambiguous:
        return Ambiguous(reason="502")

    monkeypatch.setattr(shop.facilitator, "settle", is_lost)
    with pytest.raises(Problem):
        await shop.pay(header)
    reconciler = Reconciler(shop.book, shop.windows, shop.clock, shop.cashier.pending)
    assert await reconciler.round() == Round(waiting=1)
    assert await shop.earned() == (0, 0)
