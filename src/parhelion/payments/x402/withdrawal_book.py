"""The withdrawals' face to the database and the ledger: every change one durable unit."""

from __future__ import annotations

import msgspec

from parhelion.identity import Keys
from parhelion.ledger import NEVER_MS, HoldState, Ledger
from parhelion.payments.rules import LANDED_MEMO
from parhelion.payments.x402 import withdrawal_rows as rows
from parhelion.payments.x402.outside import Landed
from parhelion.payments.x402.payouts import Signed
from parhelion.payments.x402.withdrawal_rows import (
    PaidFrom,
    Withdrawal,
    WithdrawalTotals,
    withdrawal_of,
)
from parhelion.payments.x402.withdrawal_states import WithdrawalEvent
from parhelion.store import Statement, Store
from parhelion.words import Clock, Grant, Hold, Rate, kin

ACCOUNTS_A_DAY = 20
"""Token accounts opened at our cost: 0.002 SOL each, that the wallet's owner gets by closing it. So
once a wallet, and 0.04 SOL a day for all of them together."""


class WithdrawalBook:
    """Rows of withdrawals, their holds, and what was signed for them."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        keys: Keys,
        clock: Clock,
        per_wallet_a_day: int = rows.PER_WALLET_A_DAY,
    ) -> None:
        self.per_wallet_a_day = per_wallet_a_day
        self._store = store
        self._ledger = ledger
        self._keys = keys
        self._clock = clock

    async def request(self, wanted: Withdrawal, idempotency_key: str) -> None:
        """Set the amount aside and write the withdrawal; Refused, or a Problem.

        Refused rows.REQUEST, or "key.reserve" where it is beyond the limit of the key that asks.
        """
        also = [rows.request(wanted, idempotency_key, self.per_wallet_a_day)]
        if wanted.key is not None:
            also.append(self._keys.reserve(wanted.key, wanted.amount_micro))
        await self._ledger.hold(
            _grant(wanted),
            wanted.id,
            prompt_tokens=0,
            expires_at_ms=NEVER_MS,
            also=also,
        )

    async def find(self, id: str, account: str) -> Withdrawal | None:
        """An account's withdrawal."""
        found = await self._store.read(rows.FIND, (id, account))
        return withdrawal_of(found[0]) if found else None

    async def asked(self, account: str, idempotency_key: str) -> Withdrawal | None:
        """What the account asked for under this key."""
        found = await self._store.read(rows.ASKED, (account, idempotency_key))
        return withdrawal_of(found[0]) if found else None

    async def paid_from(self, account: str) -> tuple[PaidFrom, ...]:
        """The wallets that paid to the account, whoever paid last first."""
        return tuple(map(rows.paid_from, await self._store.read(rows.PAID_FROM, (account,))))

    async def full_until_ms(self, wanted: Withdrawal) -> int | None:
        """When its wallet may have another one, where it has had all of a day; None otherwise."""
        since_ms = wanted.requested_at_ms - rows.DAY_MS
        asked = (wanted.network, wanted.wallet, since_ms)
        ((count, first_ms),) = await self._store.read(rows.OF_WALLET, asked)
        if first_ms is None or int(count or 0) < self.per_wallet_a_day:
            return None
        return int(first_ms) + rows.DAY_MS

    async def open(self, network: str) -> tuple[Withdrawal, ...]:
        """Those of a network that are not at their end."""
        return tuple(map(withdrawal_of, await self._store.read(rows.OPEN, (network,))))

    async def open_networks(self) -> dict[str, int]:
        """How many are not at their end, by network."""
        found = await self._store.read(rows.OPEN_NETWORKS)
        return {str(network): int(count or 0) for network, count in found}

    async def payouts(self, found: Withdrawal) -> tuple[Signed, ...]:
        """What was signed for it, the newest first."""
        return tuple(map(rows.signed_of, await self._store.read(rows.PAYOUTS, (found.id,))))

    async def committed_micro(self, network: str) -> int:
        """What was signed away on a network and is not known to have landed."""
        ((amount_micro,),) = await self._store.read(rows.COMMITTED, (network,))
        return int(amount_micro or 0)

    async def may_open(self, found: Withdrawal) -> bool:
        """Whether its wallet's token account may be opened at our cost."""
        since_ms = self._clock.now_ms() - rows.DAY_MS
        asked = (since_ms, found.network, found.wallet)
        ((today, ever),) = await self._store.read(rows.OPENED, asked)
        return int(today or 0) < ACCOUNTS_A_DAY and int(ever or 0) == 0

    async def totals(self) -> tuple[WithdrawalTotals, ...]:
        """How many stand where, and what they come to."""
        names = WithdrawalTotals.__struct_fields__
        return tuple(
            msgspec.convert(dict(zip(names, row, strict=True)), WithdrawalTotals)
            for row in await self._store.read(rows.TOTALS)
        )

    async def signed(self, found: Withdrawal, signed: Signed, event: WithdrawalEvent) -> Withdrawal:
        """Store what was signed; nothing of it is sent before this returns."""
        now_ms = self._clock.now_ms()
        after, step = rows.step(found, event, now_ms=now_ms, attempts=1)
        await self._store.commit([step, rows.sign(found, signed, now_ms)])
        return after

    async def noted(
        self, found: Withdrawal, event: WithdrawalEvent, reason: str = ""
    ) -> Withdrawal:
        """A step that moves no money: it was sent, or it expired."""
        after, step = rows.step(found, event, now_ms=self._clock.now_ms(), reason=reason)
        await self._store.commit([step])
        return after

    async def confirmed(self, found: Withdrawal, landed: Landed, address: str) -> Withdrawal:
        """Post the hold to the mirror of our address, in the unit that says confirmed."""
        after, step = rows.step(
            found,
            WithdrawalEvent.LANDED,
            now_ms=self._clock.now_ms(),
            transaction=landed.transaction,
        )
        await self._ledger.withdraw(
            _hold(found),
            mirror=f"{found.network}:{address}",
            memo=f"{LANDED_MEMO}{landed.transaction}",
            also=[step, *self._spent(found, found.amount_micro)],
        )
        return after

    async def returned(
        self, found: Withdrawal, event: WithdrawalEvent, reason: str, transaction: str = ""
    ) -> Withdrawal:
        """Give the hold back, in the unit that says returned."""
        after, step = rows.step(
            found,
            event,
            now_ms=self._clock.now_ms(),
            reason=reason,
            transaction=transaction or None,
        )
        await self._ledger.void(_hold(found), reason, [step, *self._spent(found, 0)])
        return after

    def _spent(self, found: Withdrawal, spent_micro: int) -> tuple[Statement, ...]:
        """What becomes of the part of its key's limit that was reserved."""
        if found.key is None:
            return ()
        return (self._keys.settle(found.key, found.amount_micro, spent_micro),)


def _grant(wanted: Withdrawal) -> Grant:
    """A withdrawal as the ledger takes holds: no model, and a rate of nothing."""
    rate = Rate(model="", asset=wanted.asset, version=0, prompt_micro=0, completion_micro=0)
    return Grant(
        account=wanted.account,
        key=wanted.key,
        rate=rate,
        amount_micro=wanted.amount_micro,
        seed=0,
    )


def _hold(found: Withdrawal) -> Hold:
    """The hold that `request` took."""
    return Hold(
        id=kin("hold", found.id),
        account=found.account,
        key=found.key,
        asset=found.asset,
        amount_micro=found.amount_micro,
        state=HoldState.HELD,
        accepted_ids=0,
        attempt=0,
        expires_at_ms=NEVER_MS,
    )
