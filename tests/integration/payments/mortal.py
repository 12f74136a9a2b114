"""A cashier that is killed: `mortal.py FOLDER pay POINT K`, `storm SEED` or `recover`.

The chain is a file that outlives it: a line for each payment that landed. `pay` takes one payment
and kills itself `before` or `after` its K-th step, where a step is a unit of the store or a line of
the chain. `storm` takes many, with a facilitator that does whatever facilitators do, until it is
killed. `recover` starts as the coordinator does, asks the chain, and tells all in JSON; `again`
before it sends every payment once more.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parhelion import identity, ledger, payments, proof
from parhelion.identity import Wallets
from parhelion.ledger import Ledger, Shares
from parhelion.payments.facilitator.outcomes import (
    Ambiguous,
    Code,
    EvmPayment,
    Outcome,
    Refused,
    Settled,
)
from parhelion.payments.facilitator.payload import Accepted, Payload
from parhelion.payments.x402 import (
    Cashier,
    ClaimBook,
    Expired,
    Landed,
    Payment,
    Reconciler,
    Requirement,
    Round,
    Sight,
    Unknown,
    Window,
)
from parhelion.payments.x402.networks import as_local, known
from parhelion.payments.x402.offers import for_facilitator
from parhelion.store import Row, Statement, Store
from parhelion.words import AssetClass, Grant, Hold, Problem, Rate, mint

NETWORK = as_local(known("base-sepolia"))
PAYEE = "0x" + "ee" * 20
ASSET = "USDC.local"
PRICE_MICRO = 5_000
PAYERS = 5
CALLERS = 8
VALID_S = 60
LATER_S = 400
"""After this every payment of the test is over by any clock."""

ROUNDS_LIMIT = 100
"""A round looks at 64 claims; more than a storm leaves."""

SHARES = Shares(operators_percent=85, treasury_percent=10, infrastructure_percent=5)
MIGRATIONS = (
    *ledger.MIGRATIONS,
    *identity.MIGRATIONS,
    *proof.MIGRATIONS,
    *payments.MIGRATIONS,
)


class WallClock:
    """The machine's clock, and as much later as is said."""

    def __init__(self, later_s: float = 0.0) -> None:
        self.later_s = later_s

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + round(self.later_s * 1000)

    def monotonic_s(self) -> float:
        return time.monotonic() + self.later_s


class Fate:
    """Kills the process at one of its steps."""

    point = ""
    dies_at = 0
    steps = 0

    @classmethod
    def step(cls) -> int:
        cls.steps += 1
        return cls.steps

    @classmethod
    def die_if(cls, point: str, step: int) -> None:
        if (cls.point, cls.dies_at) == (point, step):
            os.kill(os.getpid(), signal.SIGKILL)


class Mortal(Store):
    """A store that dies around its commits."""

    async def commit(self, unit: Sequence[Statement]) -> list[list[Row]]:
        step = Fate.step()
        Fate.die_if("before", step)
        print("step", " ".join(statement.name for statement in unit), file=sys.stderr)
        rows = await super().commit(unit)
        Fate.die_if("after", step)
        return rows


class FileChain:
    """Facilitator and reader of a chain in a file; `moods` None: it always settles."""

    def __init__(self, path: Path, clock: WallClock, moods: random.Random | None = None) -> None:
        self._path = path
        self._clock = clock
        self._moods = moods

    def landed(self) -> dict[str, int]:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return {key: int(amount) for key, amount in (line.split() for line in lines)}

    def carry(self, payment: EvmPayment) -> str:
        if payment.key not in self.landed():
            step = Fate.step()
            Fate.die_if("before", step)
            with self._path.open("a") as file:
                file.write(f"{payment.key} {payment.amount_micro}\n")
            print("step chain", file=sys.stderr)
            Fate.die_if("after", step)
        return transaction_of(payment.key)

    async def verify(self, payload: Payload, offer: Any) -> EvmPayment:
        return payload.payload["signed"]

    async def settle(self, payment: Any) -> Outcome:
        mood = "settles" if self._moods is None else self._moods.choice(MOODS)
        await asyncio.sleep(0 if self._moods is None else self._moods.uniform(0, 0.01))
        if mood == "refuses":
            return Refused(code=Code.INSUFFICIENT_BALANCE, reason="too little")
        if mood == "lies":
            self.carry(payment)
            return Refused(code=Code.FACILITATOR_REFUSED, reason="no")
        if mood == "hangs up":
            self.carry(payment)
            raise ConnectionResetError("in the middle of it")
        if mood == "is lost":
            return Ambiguous(reason="502")
        return Settled(transaction=self.carry(payment))

    async def reconcile(self, payment: Any) -> Outcome:
        raise AssertionError("our own reader is asked")

    async def find(self, payment: Any, transaction: str | None) -> Sight:
        amount_micro = self.landed().get(payment.key)
        if amount_micro is not None:
            return Landed(
                transaction=transaction_of(payment.key),
                amount_micro=amount_micro,
                payer=payment.payer,
            )
        over = self._clock.now_ms() // 1000 > payment.valid_before_s
        return Expired() if over else Unknown()


MOODS = ("settles", "settles", "settles", "refuses", "lies", "hangs up", "is lost")


class Till:
    """All of it over one folder."""

    def __init__(self, store: Store, chain: FileChain, clock: WallClock) -> None:
        self.store = store
        self.chain = chain
        self.clock = clock
        self.ledger = Ledger(store, clock, SHARES)
        self.wallets = Wallets(store, self.ledger, clock)
        self.book = ClaimBook(store, self.ledger, self.wallets, clock)
        windows = {NETWORK.id: Window(facilitator=chain, reader=chain)}
        self.cashier = Cashier(self.book, windows, clock)
        self.reconciler = Reconciler(self.book, windows, clock, self.cashier.pending)

    @classmethod
    async def open(
        cls, folder: Path, later_s: float = 0.0, moods: random.Random | None = None
    ) -> Till:
        clock = WallClock(later_s)
        store = await Mortal.open(folder / "l.db", MIGRATIONS, AssetClass.LOCAL, clock)
        till = cls(store, FileChain(folder / "chain", clock, moods), clock)
        await till.book.restart()
        return till

    async def pay(self, number: int) -> str:
        """Take a payment for one request; "paid", or the code of the problem."""
        request = mint("req", self.clock.now_ms(), os.urandom(10))
        body_hash = f"body {number}"
        try:
            claim = await self.cashier.claim(
                payment_of(number), request=request, body_hash=body_hash
            )
            paid = await self.cashier.settle(claim, request, self._hold(request))  # type: ignore[arg-type]
        except Problem as problem:
            return str(problem.code)
        return "paid" if paid.opened is not None else "credited"

    def _hold(self, request: str) -> Any:
        async def opens(paid: Any, first: Any) -> Hold:
            rate = Rate(model="m", asset=ASSET, version=1, prompt_micro=1, completion_micro=1)
            grant = Grant(
                account=paid.account, key=None, rate=rate, amount_micro=paid.amount_micro, seed=0
            )
            return await self.ledger.hold(
                grant, request, prompt_tokens=1, expires_at_ms=2**42, first=first
            )

        return opens

    async def told(self) -> dict[str, Any]:
        """Everything that the parent compares."""
        mirror = await self.ledger.balance(f"chain:{NETWORK.id}:{PAYEE}", ASSET)
        claims = await self.store.read(
            "SELECT payment, state, coalesce(landed_micro, 0), granted FROM x402_claims"
        )
        holds = await self.store.read("SELECT request, amount_micro FROM holds")
        wallets = await self.store.read("SELECT wallet, account FROM wallets")
        credited = await self.store.read(
            "SELECT sum(credits_posted) FROM balances WHERE account LIKE 'acct_%'"
        )
        return {
            "chain": self.chain.landed(),
            "mirror": -mirror.available_micro,
            "claims": {row[0]: row[1:] for row in claims},
            "holds": {row[0]: row[1] for row in holds},
            "wallets": len(wallets),
            "credited": credited[0][0] or 0,
            "audit": [*await self.ledger.audit(), *await self.store.verify_chain()],
        }


def payment_of(number: int) -> Payment:
    """The payment of this number, always the same but for its end."""
    payer = f"0x{number % PAYERS + 1:040x}"
    nonce = f"0x{number:064x}"
    signed = EvmPayment(
        network=NETWORK.id,
        asset=NETWORK.token.lower(),
        payer=payer,
        payee=PAYEE,
        amount_micro=PRICE_MICRO,
        key=f"{payer}:{nonce}",
        nonce=nonce,
        valid_after_s=0,
        valid_before_s=int(time.time()) + VALID_S,
        signature=bytes(65),
    )
    requirement = Requirement(
        scheme="exact",
        network=NETWORK.id,
        asset=NETWORK.token,
        amount=str(PRICE_MICRO),
        pay_to=PAYEE,
        max_timeout_seconds=VALID_S,
        extra={},
    )
    accepted = Accepted(
        scheme="exact",
        network=NETWORK.id,
        asset=NETWORK.token,
        amount=str(PRICE_MICRO),
        pay_to=PAYEE,
    )
    return Payment(
        network=NETWORK,
        requirement=requirement,
        offer=for_facilitator(requirement, NETWORK),
        payload=Payload(accepted=accepted, payload={"signed": signed}, extensions={}, raw=b""),
        key=signed.key,
        identifier=None,
    )


def transaction_of(key: str) -> str:
    return "0x" + hashlib.sha256(key.encode()).hexdigest()


async def pay(folder: Path, point: str, dies_at: int) -> None:
    till = await Till.open(folder)
    Fate.steps, Fate.point, Fate.dies_at = 0, point, dies_at
    print(json.dumps({"1": await till.pay(1)}), flush=True)
    await till.store.close()


async def storm(folder: Path, seed: int) -> None:
    moods = random.Random(seed)
    till = await Till.open(folder, moods=moods)
    print("ready", flush=True)
    loop = asyncio.create_task(till.reconciler.run())
    first = (seed % 1_000) * 100_000

    async def caller() -> None:
        while True:
            # Callers meet: some payments are sent by several at once, and again later.
            number = first + moods.randrange(200)
            print(number, await till.pay(number), flush=True)

    await asyncio.gather(loop, *(caller() for _ in range(CALLERS)))


async def recover(folder: Path, again: Sequence[int]) -> None:
    till = await Till.open(folder)
    resent = {number: [await till.pay(number) for _ in range(3)] for number in again}
    while (await till.reconciler.round()).settled:
        continue
    till.clock.later_s = LATER_S
    for _ in range(ROUNDS_LIMIT):
        if await till.reconciler.round() == Round():
            break
        till.clock.later_s += 60
    late = {number: [await till.pay(number) for _ in range(2)] for number in again}
    print(json.dumps({"resent": resent, "late": late, **await till.told()}), flush=True)
    await till.store.close()


if __name__ == "__main__":
    where, what, *rest = sys.argv[1:]
    if what == "pay":
        asyncio.run(pay(Path(where), rest[0], int(rest[1])))
    elif what == "storm":
        asyncio.run(storm(Path(where), int(rest[0])))
    else:
        asyncio.run(recover(Path(where), [int(number) for number in rest]))
