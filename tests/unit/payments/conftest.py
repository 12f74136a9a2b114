"""A gate over a real store, ledger and keys, with a clock and an entropy that stand still."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from parhelion import identity, ledger, payments, proof
from parhelion.identity import Accounts, Keys
from parhelion.ledger import Bill, Ledger, Shares, split
from parhelion.payments import Gate, Taken
from parhelion.proof import Receipts
from parhelion.store import Store
from parhelion.words import (
    Ask,
    AssetClass,
    Credentials,
    Evidence,
    ModelCard,
    Quote,
    Rate,
    kin,
    mint,
)

ASSET = "PRLX.local"
SHARES = Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)


@dataclass
class StillClock:
    """Moves when the test says so."""

    ms: int = 1_790_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return self.ms / 1000


def card(id: str = "org/model") -> ModelCard:
    return ModelCard(
        id=id,
        digest="a" * 64,
        vocabulary_digest="b" * 64,
        template_digest="c" * 64,
        purpose="chat",
        size_bytes=1,
        memory_bytes=1,
        context=4096,
        default_max_tokens=512,
        n_vocab=100,
        architecture="llama",
        layers=1,
        created_s=0,
    )


def make_quote(
    micro: int = 4_000_000,
    prompt: int = 10,
    max_tokens: int = 20,
    assets: tuple[str, ...] = (ASSET,),
) -> Quote:
    rates = tuple(
        Rate(model="org/model", asset=asset, version=1, prompt_micro=micro, completion_micro=micro)
        for asset in assets
    )
    ids = tuple(range(prompt))
    return Quote(model=card(), prompt_ids=ids, max_tokens=max_tokens, rates=rates)


@pytest.fixture
def quote() -> Callable[..., Quote]:
    return make_quote


@dataclass
class House:
    """Everything behind the door, with an account that has 1,000 base units and one key."""

    store: Store
    clock: StillClock
    ledger: Ledger
    keys: Keys
    receipts: Receipts
    gate: Gate
    account: str
    secret: str
    key: str
    entropy: list[bytes] = field(default_factory=list)
    quote: Callable[..., Quote] = make_quote
    asked: int = 0

    def ask(self, body: str = "body", **more: Any) -> Ask:
        self.asked += 1
        request = mint("req", self.clock.ms, self.asked.to_bytes(10, "big"))
        digest = hashlib.sha256(body.encode()).hexdigest()
        return Ask(request=request, dialect="chat", prompt=body, body_hash=digest, **more)

    @property
    def bearer(self) -> Credentials:
        return Credentials(bearer=self.secret)

    async def take(self, ask: Ask, quote: Quote | None = None, bearer: str | None = None) -> Any:
        credentials = Credentials(bearer=bearer or self.secret)
        return await self.take_as(ask, credentials, quote or make_quote())

    async def take_as(self, ask: Ask, credentials: Credentials, quote: Quote) -> Any:
        buyer = await self.gate.identify(ask, credentials, quote.model.id, quote.rates)
        return await self.gate.take(ask, buyer, quote, expires_at_ms=self.clock.ms + 60_000)

    async def admit(self, ask: Ask, credentials: Credentials, quote: Quote) -> Any:
        buyer = await self.gate.identify(ask, credentials, quote.model.id, quote.rates)
        return await self.gate.admit(ask, buyer, quote)

    async def post(self, ask: Ask, taken: Taken, cost: int, outcome: Any, ids: Any = None) -> None:
        """Close the hold at `cost`, as the coordinator does."""
        also = self.gate.settle_also(taken.grant, ask, taken.hold, cost, outcome, ids)
        if outcome == "failed":
            await self.ledger.void(taken.hold, "failed", also)
            return
        legs = split(cost, SHARES, ())
        bill = Bill(
            prompt_tokens=0, completion_tokens=0, cost_micro=cost, legs=legs, reason=outcome
        )
        await self.ledger.post(taken.hold, bill, also)

    def keep_evidence(self, ask: Ask) -> None:
        kept = Evidence(
            receipt=kin("rcpt", ask.request), opening="", prompt_ids=(), output_ids=(), text="hi"
        )
        self.receipts.keep_evidence(kept, self.account)

    async def available(self) -> int:
        return (await self.ledger.balance(self.account, ASSET)).available_micro

    async def reserved(self) -> int:
        ((reserved,),) = await self.store.read(
            "SELECT reserved_micro FROM keys WHERE id = ?", (self.key,)
        )
        assert isinstance(reserved, int)
        return reserved


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    clock = StillClock()
    rooms = (ledger, identity, proof, payments)
    migrations = [step for room in rooms for step in room.MIGRATIONS]
    store = await Store.open(tmp_path / "db", migrations, AssetClass.LOCAL, clock)
    books = Ledger(store, clock, SHARES)
    keys, receipts = Keys(store, clock), Receipts(store, clock)
    account = await Accounts(store, books, clock).create("user")
    secret, view = await keys.create(account, asset=ASSET, name="k")
    await books.grant(account, ASSET, 1_000, id="g", reason="test")
    drawn: list[bytes] = []

    def entropy(size: int) -> bytes:
        drawn.append(bytes([len(drawn) + 1]) * size)
        return drawn[-1]

    gate = Gate(keys, books, store, clock, entropy, asset=ASSET, receipts=receipts)
    yield House(store, clock, books, keys, receipts, gate, account, secret, view.id, entropy=drawn)
    await store.close()
