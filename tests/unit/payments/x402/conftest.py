"""A cashier over a real store and a chain that does what a test says."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from parhelion import identity, ledger, payments, proof
from parhelion.identity import Wallets
from parhelion.ledger import Ledger, Shares
from parhelion.payments.facilitator.outcomes import (
    EvmPayment,
    Outcome,
    Settled,
)
from parhelion.payments.facilitator.payload import Accepted, Payload
from parhelion.payments.x402 import (
    Cashier,
    ClaimBook,
    Expired,
    FailedOnChain,
    Landed,
    Payment,
    Reconciler,
    Requirement,
    Settlement,
    Sight,
    Unknown,
    Window,
)
from parhelion.payments.x402.networks import as_local, known
from parhelion.payments.x402.offers import for_facilitator
from parhelion.store import Store
from parhelion.testing.clock import ManualClock
from parhelion.words import AssetClass, Grant, Hold, Rate, mint

SHARES = Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)
NETWORK = as_local(known("base-sepolia"))
PAYEE = "0x" + "ee" * 20
ASSET = "USDC.local"
MIRROR = f"chain:{NETWORK.id}:{PAYEE}"


@dataclass
class Chain:
    """What lies on the chain, by authorization; facilitator and reader look at the same one.

    `settles` is what the facilitator does with a payment; the default carries it.
    """

    clock: ManualClock
    landed: dict[str, Landed] = field(default_factory=dict)
    failed: dict[str, FailedOnChain] = field(default_factory=dict)
    settles: Callable[[EvmPayment], Awaitable[Outcome]] | None = None
    verifies: Callable[[EvmPayment], Awaitable[Any]] | None = None
    is_away: bool = False
    is_behind: bool = False
    settled: int = 0
    verified: int = 0
    looked: int = 0

    def carry(self, payment: EvmPayment, amount_micro: int | None = None) -> str:
        """The payment lands; twice is once."""
        transaction = "0x" + hashlib.sha256(payment.key.encode()).hexdigest()
        amount = payment.amount_micro if amount_micro is None else amount_micro
        self.landed.setdefault(
            payment.key,
            Landed(transaction=transaction, amount_micro=amount, payer=payment.payer, slot=1),
        )
        return transaction

    async def verify(self, payload: Payload, offer: Any) -> Any:
        self.verified += 1
        signed = payload.payload["signed"]
        return signed if self.verifies is None else await self.verifies(signed)

    async def settle(self, payment: Any) -> Outcome:
        self.settled += 1
        if self.settles is not None:
            return await self.settles(payment)
        return Settled(transaction=self.carry(payment))

    async def reconcile(self, payment: Any) -> Outcome:
        raise AssertionError("our own reader is asked, never the facilitator")

    async def find(self, payment: Any, transaction: str | None) -> Sight:
        self.looked += 1
        if self.is_away:
            raise OSError("no route to the chain")
        if self.is_behind:
            return Unknown()
        if payment.key in self.landed:
            return self.landed[payment.key]
        if payment.key in self.failed:
            return self.failed[payment.key]
        over = self.clock.now_ms() // 1000 > payment.valid_before_s
        return Expired() if over else Unknown()


@dataclass
class World:
    """Everything behind the window, and short words for what tests do most."""

    path: Path
    clock: ManualClock
    store: Store
    chain: Chain
    made: int = 0

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.store, self.clock, SHARES)
        self.wallets = Wallets(self.store, self.ledger, self.clock)
        self.book = ClaimBook(self.store, self.ledger, self.wallets, self.clock)
        windows = {NETWORK.id: Window(facilitator=self.chain, reader=self.chain)}
        self.cashier = Cashier(self.book, windows, self.clock)
        self.reconciler = Reconciler(self.book, windows, self.clock, self.cashier.pending)

    def signed(self, amount_micro: int = 5_000, payer: str = "0x" + "aa" * 20) -> EvmPayment:
        """A payment nobody has seen yet."""
        self.made += 1
        nonce = f"0x{self.made:064x}"
        return EvmPayment(
            network=NETWORK.id,
            asset=NETWORK.token.lower(),
            payer=payer,
            payee=PAYEE,
            amount_micro=amount_micro,
            key=f"{payer}:{nonce}",
            nonce=nonce,
            valid_after_s=0,
            valid_before_s=self.clock.now_ms() // 1000 + 60,
            signature=b"\0" * 65,
        )

    def payment(self, signed: EvmPayment | None = None, identifier: str | None = None) -> Payment:
        """The same as it comes out of a header."""
        signed = signed or self.signed()
        requirement = Requirement(
            scheme="exact",
            network=NETWORK.id,
            asset=NETWORK.token,
            amount=str(signed.amount_micro),
            pay_to=PAYEE,
            max_timeout_seconds=60,
            extra={},
        )
        accepted = Accepted(
            scheme="exact",
            network=NETWORK.id,
            asset=NETWORK.token,
            amount=str(signed.amount_micro),
            pay_to=PAYEE,
        )
        payload = Payload(accepted=accepted, payload={"signed": signed}, extensions={}, raw=b"{}")
        return Payment(
            network=NETWORK,
            requirement=requirement,
            offer=for_facilitator(requirement, NETWORK),
            payload=payload,
            key=signed.key,
            identifier=identifier,
        )

    def request(self) -> str:
        """A new request's id."""
        self.made += 1
        return mint("req", self.clock.now_ms(), self.made.to_bytes(10, "big"))

    def hold(self, request: str, amount_micro: int | None = None) -> Any:
        """What a payment buys: a hold on the account that it is credited to."""

        async def opens(paid: Settlement, first: Any) -> Hold:
            rate = Rate(model="m", asset=ASSET, version=1, prompt_micro=1, completion_micro=1)
            amount = paid.amount_micro if amount_micro is None else amount_micro
            grant = Grant(account=paid.account, key=None, rate=rate, amount_micro=amount, seed=0)
            return await self.ledger.hold(
                grant, request, prompt_tokens=1, expires_at_ms=2**42, first=first
            )

        return opens

    async def pay(self, payment: Payment, body_hash: str = "b", **more: Any) -> Any:
        """Claim, settle and hold, as the gate does."""
        request = self.request()
        claim = await self.cashier.claim(payment, request=request, body_hash=body_hash, **more)
        return await self.cashier.settle(claim, request, self.hold(request))  # type: ignore[arg-type]

    async def state(self, payment: Payment) -> str | None:
        claim = await self.book.find(payment.network.id, payment.key)
        return None if claim is None else str(claim.state)

    async def has(self, account: str) -> tuple[int, int]:
        balance = await self.ledger.balance(account, ASSET)
        return balance.available_micro, balance.held_micro

    async def wallet(self, payer: str = "0x" + "aa" * 20) -> str | None:
        return await self.wallets.find(f"{NETWORK.id}:{payer}")

    async def holds(self) -> int:
        ((count,),) = await self.store.read("SELECT count(*) FROM holds")
        return int(count)  # type: ignore[arg-type]

    async def mirrors_the_chain(self) -> None:
        """The books and the chain say the same, to the unit."""
        await self.cashier.close()
        booked = -(await self.ledger.balance(MIRROR, ASSET)).available_micro
        on_chain = sum(one.amount_micro for one in self.chain.landed.values())
        claims = await self.store.read(
            "SELECT coalesce(sum(landed_micro), 0) FROM x402_claims WHERE state = 'settled'"
        )
        assert booked == on_chain == claims[0][0]
        assert await self.ledger.audit() == ()

    async def restart(self) -> World:
        """The process dies and starts again over the same file and chain."""
        await self.store.close()
        store = await Store.open(self.path, MIGRATIONS, AssetClass.LOCAL, self.clock)
        again = World(self.path, self.clock, store, self.chain, self.made)
        await again.book.restart()
        return again


MIGRATIONS = (
    *ledger.MIGRATIONS,
    *identity.MIGRATIONS,
    *proof.MIGRATIONS,
    *payments.MIGRATIONS,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = ManualClock()
    store = await Store.open(tmp_path / "l.db", MIGRATIONS, AssetClass.LOCAL, clock)
    world = World(tmp_path / "l.db", clock, store, Chain(clock))
    yield world
    # Whatever a test did, it leaves exact books and a whole chain of commits.
    if not store._closed:
        await world.cashier.close()
        assert await world.ledger.audit() == ()
        assert await store.verify_chain() == ()
        await store.close()
