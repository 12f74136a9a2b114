"""What was claimed, what landed, and whether the chains hold what the books say: for who looks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from parhelion.chain.rpc import RpcRefused, RpcUnavailable
from parhelion.chain.solana import RpcCall
from parhelion.chain.wallet.holdings import on_evm, on_solana
from parhelion.ledger import Ledger
from parhelion.payments.x402.claim_book import ClaimBook, TotalsRow
from parhelion.payments.x402.losses import Loss
from parhelion.payments.x402.networks import Family, Payee
from parhelion.payments.x402.withdrawal_rows import WithdrawalTotals
from parhelion.payments.x402.withdrawal_states import FINAL
from parhelion.words import Clock, Record

log = logging.getLogger("parhelion.payments")

READ_EVERY_S = 30.0
"""A scraper comes every 15 s or so; a provider of RPC counts what it is asked."""

READ_WAIT_S = 10.0
"""In the background, where nobody waits."""


BEGUN_ANEW = (
    "this LOCAL chain was begun anew (a backup holds no chains, or DATA/chains was removed): its "
    "play money is new, and what wallets paid before is in the books only"
)


class PayeeTotals(Record, frozen=True, kw_only=True):
    """One payee's balance on its chain, and what the books have from there that did not go back.

    `onchain_micro` is None where the chain does not tell. It may be more than the books have: what
    was there before, and payments that are not booked yet.
    """

    network: str
    pay_to: str
    asset: str
    onchain_micro: int | None
    mirror_micro: int


class Totals(Record, frozen=True, kw_only=True):
    """Claims and withdrawals by network and state, and payees, as they were at `read_at_ms`.

    `losses` are what payments that failed on the chain cost us since the start.
    """

    read_at_ms: int
    claims: tuple[TotalsRow, ...]
    payees: tuple[PayeeTotals, ...]
    withdrawals: tuple[WithdrawalTotals, ...] = ()
    losses: tuple[Loss, ...] = ()


class Tally:
    """Reads the totals, at most one reading at a time; `rpcs` are by CAIP-2 id.

    `withdrawals` tells those of the book; None where nothing is sent back from here.
    """

    def __init__(
        self,
        payees: Sequence[Payee],
        rpcs: Mapping[str, RpcCall],
        book: ClaimBook,
        ledger: Ledger,
        clock: Clock,
        withdrawals: Callable[[], Awaitable[tuple[WithdrawalTotals, ...]]] | None = None,
    ) -> None:
        self._withdrawals = withdrawals
        self._payees = tuple(payees)
        self._local = {payee.network.id for payee in payees if payee.network.is_local}
        self._short: set[str] = set()
        self._rpcs = rpcs
        self._book = book
        self._ledger = ledger
        self._clock = clock
        self._last: Totals | None = None
        self._begun_s: float | None = None
        self._reading: asyncio.Task[Totals] | None = None

    async def read(self) -> Totals:
        """The totals as they are now; whoever asks meanwhile gets the same ones."""
        return await asyncio.shield(self._begin())

    def glance(self) -> Totals | None:
        """What was read last, None at first; old totals are read anew in the background."""
        now_s = self._clock.monotonic_s()
        if self._begun_s is None or now_s - self._begun_s >= READ_EVERY_S:
            self._begin()
        return self._last

    async def close(self) -> None:
        """End a reading that is under way."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    def _begin(self) -> asyncio.Task[Totals]:
        if self._reading is None or self._reading.done():
            self._begun_s = self._clock.monotonic_s()
            self._reading = asyncio.create_task(self._read(), name="x402 totals")
            self._reading.add_done_callback(_say_what_failed)
        return self._reading

    async def _read(self) -> Totals:
        claims = await self._book.totals()
        # Before the chains are: what leaves in between is missed there, and still open here.
        withdrawals = () if self._withdrawals is None else await self._withdrawals()
        payees = await asyncio.gather(*map(self._payee, self._payees))
        self._last = Totals(
            read_at_ms=self._clock.now_ms(),
            claims=claims,
            payees=tuple(payees),
            withdrawals=withdrawals,
            losses=self._book.losses.read(),
        )
        self._say_what_is_short(self._last)
        return self._last

    def _say_what_is_short(self, totals: Totals) -> None:
        """Say once of each network that it holds less than the books have from there."""
        short = {payee.network for payee in totals.payees if missing_micro(payee, totals) > 0}
        for payee in totals.payees:
            if payee.network in short - self._short:
                local = payee.network in self._local
                log.warning(
                    "the chain holds less at the payee than the books have from there: credits "
                    "can be spent, but not all of them can be sent back",
                    extra={
                        "network": payee.network,
                        "onchain_micro": payee.onchain_micro,
                        "mirror_micro": payee.mirror_micro,
                        "hint": BEGUN_ANEW
                        if local
                        else "did somebody else send from that address?",
                    },
                )
        self._short = short

    async def _payee(self, payee: Payee) -> PayeeTotals:
        network = payee.network
        onchain_micro = await self._onchain_micro(payee)
        found = await self._ledger.balance(mirror_of(payee), network.asset)
        return PayeeTotals(
            network=network.id,
            pay_to=payee.pay_to,
            asset=network.asset,
            onchain_micro=onchain_micro,
            # What came from there was debited there: the account stands below zero.
            mirror_micro=-(found.available_micro + found.held_micro),
        )

    async def _onchain_micro(self, payee: Payee) -> int | None:
        network, rpc = payee.network, self._rpcs[payee.network.id]
        holding = on_solana if network.family is Family.SOLANA else on_evm
        try:
            async with asyncio.timeout(READ_WAIT_S):
                return (await holding(rpc, payee.pay_to, network.token)).token_micro
        except (RpcRefused, RpcUnavailable, TimeoutError) as error:
            log.info("no balance", extra={"network": network.id, "cause": str(error)})
            return None


def missing_micro(payee: PayeeTotals, totals: Totals) -> int:
    """What the books have of a payee that its chain has not, but for what is being sent back."""
    if payee.onchain_micro is None:
        return 0
    leaving_micro = sum(
        row.amount_micro
        for row in totals.withdrawals
        if row.network == payee.network and row.state not in FINAL
    )
    return payee.mirror_micro - leaving_micro - payee.onchain_micro


def mirror_of(payee: Payee) -> str:
    """The account of the books that mirrors a payee's: EVM addresses are booked in lower case."""
    is_evm = payee.network.family is Family.EVM
    pay_to = payee.pay_to.lower() if is_evm else payee.pay_to
    return f"chain:{payee.network.id}:{pay_to}"


def _say_what_failed(task: asyncio.Task[Totals]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("the totals of x402 cannot be read", exc_info=error)
