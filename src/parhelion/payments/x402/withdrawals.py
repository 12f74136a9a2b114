"""Sending credits back to the wallet that paid, on the chain that they came from.

The amount is set aside by a hold, a transaction is signed and stored, then sent, and the hold is
posted when we read on the chain that it landed. Only what a wallet paid goes back to it: nobody can
use an account, or a key that he found, to move money from one wallet to another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from parhelion.config import X402Config
from parhelion.identity import Keys, Standing, caip10
from parhelion.ledger import WITHDRAWAL, Ledger, amount_text
from parhelion.payments.part import balance_of
from parhelion.payments.rules import Payer, check_idempotency_key
from parhelion.payments.x402 import withdrawal_rows as rows
from parhelion.payments.x402.networks import asset_of
from parhelion.payments.x402.payouts import Payout
from parhelion.payments.x402.withdrawal_book import WithdrawalBook
from parhelion.payments.x402.withdrawal_drive import Drive
from parhelion.payments.x402.withdrawal_rows import PaidFrom, Withdrawal, WithdrawalTotals
from parhelion.payments.x402.withdrawal_states import WithdrawalState
from parhelion.store import Refused, Store
from parhelion.words import ID_ENTROPY_BYTES, Clock, Problem, ProblemCode, mint

log = logging.getLogger("parhelion.payments")

WAIT_S = 5.0
"""How long an answer waits for the chain: a local one confirms at once, a real one in seconds."""

TRIES = 3
"""All that is available is read and then held: somebody may spend of it in between."""


class Withdrawals:
    """Asking for withdrawals, and driving them; `payouts` are by CAIP-2 id."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        keys: Keys,
        payouts: Mapping[str, Payout],
        clock: Clock,
        entropy: Callable[[int], bytes],
        *,
        minimum_micro: int = X402Config().min_withdrawal_micro,
        per_wallet_a_day: int = rows.PER_WALLET_A_DAY,
    ) -> None:
        self.minimum_micro = minimum_micro
        self._book = WithdrawalBook(store, ledger, keys, clock, per_wallet_a_day)
        self._ledger = ledger
        self._keys = keys
        self._clock = clock
        self._entropy = entropy
        self._asset = asset_of(store.asset_class)
        self._drives = {
            network: Drive(self._book, payout, clock, self._ended)
            for network, payout in payouts.items()
        }
        self._names = {
            name: network for network, payout in payouts.items() for name in payout.network.names
        }
        self._waiting: dict[str, asyncio.Event] = {}
        self._is_closed = False

    async def request(
        self,
        account: str,
        *,
        key: str | None = None,
        amount_micro: int | None = None,
        network: str | None = None,
        to: str | None = None,
        idempotency_key: str | None = None,
        body_hash: str = "",
        wait_s: float = WAIT_S,
    ) -> Withdrawal:
        """Withdraw so much, or all that can be, and wait a while for the chain.

        Back to `to` on `network`, or to whoever paid last; `key` is the API key that asks. One
        that a top-up made sends to the wallet of that top-up only, and no key with a limit hears
        more of its account than its own part. The same Idempotency-Key and body are the same
        withdrawal, whatever became of it.
        """
        if self._is_closed:
            raise Problem(ProblemCode.DRAINING, "This server is stopping.", retry_after_s=5)
        standing = None if key is None else await self._keys.standing(key)
        if idempotency_key is not None:
            check_idempotency_key(idempotency_key)
            earlier = await self._book.asked(account, idempotency_key)
            if earlier is not None:
                if standing is not None and earlier.key != key:
                    raise _asked_before()
                return await self._repeated(earlier, body_hash, wait_s)
        wallet = await self._wallet(account, standing, amount_micro, network, to)
        for _ in range(TRIES if amount_micro is None else 1):
            wanted = await self._wanted(account, key, wallet, amount_micro, body_hash)
            event = self._waiting.setdefault(wanted.id, asyncio.Event())
            try:
                await self._book.request(wanted, idempotency_key or wanted.id)
            except Refused as refused:
                del self._waiting[wanted.id]
                return await self._refused(refused, wanted, idempotency_key, wait_s)
            except Problem as problem:
                del self._waiting[wanted.id]
                if problem.code is not ProblemCode.INSUFFICIENT_CREDIT:
                    raise
                continue
            self._drives[wanted.network].wake.set()
            return await self._waited(wanted, event, wait_s)
        raise await self._too_much(account, key, amount_micro)

    async def find(self, id: str, account: str, *, key: str | None = None) -> Withdrawal:
        """An account's withdrawal; Problem NOT_FOUND, also for another account's or key's."""
        found = await self._book.find(id, account)
        if found is None or (key is not None and key != found.key):
            raise Problem(
                ProblemCode.NOT_FOUND,
                f"no withdrawal {id[:64]} of this account",
                hint="POST /v1/credits/withdraw answers with its id; GET /v1/credits/history "
                "names it as `request`",
                param="id",
            )
        return found

    async def totals(self) -> tuple[WithdrawalTotals, ...]:
        """How many stand where, and what they come to."""
        return await self._book.totals()

    async def run(self) -> None:
        """Drive every open withdrawal, those of earlier processes too, until cancelled."""
        for network, count in (await self._book.open_networks()).items():
            if network not in self._drives:
                log.error("%d withdrawals wait for the key of %s to be configured", count, network)
        tasks = [asyncio.create_task(drive.run()) for drive in self._drives.values()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Take no more, and let go of who waits: what is open goes on at the next start."""
        self._is_closed = True
        for event in self._waiting.values():
            event.set()
        self._waiting.clear()

    async def _wallet(
        self,
        account: str,
        standing: Standing | None,
        amount_micro: int | None,
        network: str | None,
        to: str | None,
    ) -> PaidFrom:
        """The wallet that gets it: the last that paid of those that were named."""
        paid = [one for one in await self._book.paid_from(account) if one.network in self._drives]
        own = None if standing is None else standing.wallet
        if own is not None:
            paid = [one for one in paid if caip10(f"{one.network}:{one.wallet}") == own]
        id = self._names.get(network, network) if network is not None else None
        named = [one for one in paid if id in (None, one.network) and _is_to(one, to)]
        if named:
            # Whoever paid last may have had it all back; one before has not.
            least_micro = amount_micro or self.minimum_micro
            return next((one for one in named if one.left_micro >= least_micro), named[0])
        wallets = ", ".join(f"{one.network}:{one.wallet}" for one in paid[:4])
        if standing is not None and own is None:
            wallets = "who they are is told to a key without a limit, or to the wallet itself"
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            "no such wallet has paid to this account"
            if paid
            else "no wallet has paid to this account on a network that is sent back on",
            hint=f"these have: {wallets}" if paid else "credits go back only to a wallet that paid",
            param="to" if to is not None else "network",
        )

    async def _wanted(
        self,
        account: str,
        key: str | None,
        wallet: PaidFrom,
        amount_micro: int | None,
        body_hash: str,
    ) -> Withdrawal:
        if amount_micro is None:
            available = await balance_of(Payer(account, key, self._asset), self._ledger, self._keys)
            amount_micro = min(available.available_micro, wallet.left_micro)
        elif amount_micro > wallet.left_micro:
            raise _beyond(wallet, self._asset)
        if amount_micro < self.minimum_micro:
            raise Problem(
                ProblemCode.INVALID_REQUEST,
                f"{amount_text(amount_micro, self._asset)} is less than the least that is sent, "
                f"{amount_text(self.minimum_micro, self._asset)}",
                hint="each withdrawal costs network fees, which the seller pays",
                param="amount",
            )
        now_ms = self._clock.now_ms()
        return Withdrawal(
            id=mint(WITHDRAWAL.rstrip("_"), now_ms, self._entropy(ID_ENTROPY_BYTES)),
            account=account,
            key=key,
            body_hash=body_hash,
            network=wallet.network,
            wallet=wallet.wallet,
            asset=self._asset,
            amount_micro=amount_micro,
            state=WithdrawalState.REQUESTED,
            requested_at_ms=now_ms,
        )

    async def _refused(
        self, refused: Refused, wanted: Withdrawal, idempotency_key: str | None, wait_s: float
    ) -> Withdrawal:
        """Why nothing was written: the same key was faster, or a limit says no."""
        if refused.name == "key.reserve":
            raise _beyond_key(refused, wanted) from refused
        if refused.name != rows.REQUEST:
            raise refused
        if refused.kind == "unique" and idempotency_key is not None:
            earlier = await self._book.asked(wanted.account, idempotency_key)
            if earlier is not None:
                return await self._repeated(earlier, wanted.body_hash, wait_s)
        if refused.kind != "rows":
            raise refused
        found = await self._book.paid_from(wanted.account)
        for one in found:
            same = (one.network, one.wallet) == (wanted.network, wanted.wallet)
            if same and one.left_micro < wanted.amount_micro:
                raise _beyond(one, self._asset) from refused
        until_ms = await self._book.full_until_ms(wanted)
        if until_ms is not None:
            left_s = -(-(until_ms - wanted.requested_at_ms) // 1000)
            raise Problem(
                ProblemCode.RATE_LIMITED,
                f"{self._book.per_wallet_a_day} withdrawals have gone to this wallet in a day",
                hint="without `amount` one sends all that is available; nothing is lost meanwhile",
                retry_after_s=max(1, left_s),
            ) from refused
        raise Problem(
            ProblemCode.RATE_LIMITED,
            f"{rows.OPEN_PER_ACCOUNT} withdrawals of this account are on their way",
            hint="ask again when one of them has ended",
            retry_after_s=rows.RETRY_AFTER_S,
        ) from refused

    async def _repeated(self, earlier: Withdrawal, body_hash: str, wait_s: float) -> Withdrawal:
        if earlier.body_hash != body_hash:
            raise Problem(
                ProblemCode.IDEMPOTENCY_MISMATCH,
                f"this Idempotency-Key came with another body before, for {earlier.id}",
                hint="a new withdrawal needs a new Idempotency-Key",
                param="Idempotency-Key",
            )
        if earlier.is_final:
            return earlier
        event = self._waiting.setdefault(earlier.id, asyncio.Event())
        # It may have ended between the reading and now, and nobody would tell.
        again = await self.find(earlier.id, earlier.account)
        if again.is_final:
            self._waiting.pop(earlier.id, None)
            return again
        return await self._waited(again, event, wait_s)

    async def _waited(self, asked: Withdrawal, event: asyncio.Event, wait_s: float) -> Withdrawal:
        try:
            async with asyncio.timeout(wait_s):
                await event.wait()
        except TimeoutError:
            # Whoever waits for it besides us has the same event, and it goes when it ends.
            log.debug("%s is still on its way", asked.id)
        return await self.find(asked.id, asked.account)

    async def _too_much(self, account: str, key: str | None, amount_micro: int | None) -> Problem:
        has = await balance_of(Payer(account, key, self._asset), self._ledger, self._keys)
        wanted = "all" if amount_micro is None else amount_text(amount_micro, self._asset)
        return Problem(
            ProblemCode.INVALID_REQUEST,
            f"{wanted} cannot be withdrawn: {amount_text(has.available_micro, self._asset)} is "
            "available",
            hint="what is held by running requests is not available until they end",
            param="amount",
        )

    def _ended(self, ended: Withdrawal) -> None:
        event = self._waiting.pop(ended.id, None)
        if event is not None:
            event.set()


def _is_to(paid: PaidFrom, to: str | None) -> bool:
    if to is None or to in (paid.wallet, f"{paid.network}:{paid.wallet}"):
        return True
    try:
        named = to if to.startswith(f"{paid.network}:") else f"{paid.network}:{to}"
        return caip10(named) == caip10(f"{paid.network}:{paid.wallet}")
    except Problem:
        return False


def _asked_before() -> Problem:
    return Problem(
        ProblemCode.IDEMPOTENCY_MISMATCH,
        "this Idempotency-Key came before, with another credential",
        hint="a new withdrawal needs a new Idempotency-Key",
        param="Idempotency-Key",
    )


def _beyond_key(refused: Refused, wanted: Withdrawal) -> Problem:
    if refused.kind == "check":
        return Problem(
            ProblemCode.KEY_LIMIT_REACHED,
            f"{amount_text(wanted.amount_micro, wanted.asset)} is more than is left of this key's "
            "spending limit",
            hint="name a smaller `amount`, or sign in with the wallet",
        )
    return Problem(ProblemCode.INVALID_API_KEY, "this API key was revoked")


def _beyond(paid: PaidFrom, asset: str) -> Problem:
    return Problem(
        ProblemCode.INVALID_REQUEST,
        f"{paid.wallet} paid {amount_text(max(0, paid.left_micro), asset)} that it has not got "
        "back: no more can go there",
        hint="credits go back to the wallets that paid them, each up to what it paid; name "
        "another with `to` and `network`",
        param="amount",
    )
