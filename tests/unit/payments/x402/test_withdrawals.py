"""Withdrawals over a real store and a chain that does what a test says: each is paid once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from parhelion.identity import Keys
from parhelion.payments.facilitator.outcomes import EvmPayment
from parhelion.payments.x402 import Expired, FailedOnChain, Landed, Unknown
from parhelion.payments.x402.payouts import Impossible, Order, Signed
from parhelion.payments.x402.withdrawal_drive import ATTEMPTS, Drive
from parhelion.payments.x402.withdrawal_rows import PER_WALLET_A_DAY
from parhelion.payments.x402.withdrawal_states import WithdrawalState
from parhelion.payments.x402.withdrawals import Withdrawals
from parhelion.words import Problem, ProblemCode
from tests.unit.payments.x402.conftest import ASSET, MIRROR, NETWORK, PAYEE

S = WithdrawalState
WALLET = "0x" + "aa" * 20
OTHER = "0x" + "bb" * 20
VALID_S = 60


@dataclass
class Sent:
    """A payout whose chain spends each withdrawal's nonce once, or as often as it is sent."""

    clock: Any
    has_micro: int = 10**9
    landed_at: dict[str, Landed] = field(default_factory=dict)
    paid: list[tuple[str, int]] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    signed: list[Order] = field(default_factory=list)
    sends: int = 0
    is_away: bool = False
    lands: bool = True
    renews: bool = False
    network: Any = NETWORK
    address: str = PAYEE
    resend_s: float = 2.0

    async def landed(self, order: Order) -> Landed | None:
        self.check()
        return self.landed_at.get(order.id)

    async def sign(self, order: Order) -> EvmPayment:
        self.check()
        if self.has_micro - order.committed_micro < order.amount_micro:
            raise Impossible("too little lies there")
        self.signed.append(order)
        return EvmPayment(
            network=NETWORK.id,
            asset=NETWORK.token.lower(),
            payer=PAYEE,
            payee=order.wallet,
            amount_micro=order.amount_micro,
            key=order.id,
            nonce=f"0x{len(self.signed):064x}",
            valid_after_s=0,
            valid_before_s=self.clock.now_ms() // 1000 + VALID_S,
            signature=b"",
        )

    def is_stale(self, signed: Signed) -> bool:
        assert isinstance(signed, EvmPayment)
        return self.renews and self.clock.now_ms() // 1000 > signed.valid_before_s - 10

    async def send(self, signed: Signed) -> bool:
        self.check()
        assert isinstance(signed, EvmPayment)
        self.sends += 1
        if self.lands:
            self.carry(signed)
        return True

    async def look(self, signed: Signed) -> Any:
        self.check()
        assert isinstance(signed, EvmPayment)
        if signed.key in self.landed_at:
            return self.landed_at[signed.key]
        if signed.key in self.failed:
            return FailedOnChain(transaction="0x" + "44" * 32, reason="no")
        over = self.clock.now_ms() // 1000 > signed.valid_before_s
        return Expired() if over else Unknown()

    def carry(self, signed: EvmPayment) -> None:
        if signed.key not in self.landed_at:
            transaction = f"0x{len(self.paid) + 1:064x}"
            self.landed_at[signed.key] = Landed(
                transaction=transaction, amount_micro=signed.amount_micro, payer=PAYEE
            )
            self.paid.append((signed.payee, signed.amount_micro))
            self.has_micro -= signed.amount_micro

    def check(self) -> None:
        if self.is_away:
            raise OSError("no route to the chain")


@dataclass
class Desk:
    """A seller that sends back."""

    world: Any
    chain: Sent

    def __post_init__(self) -> None:
        self.keys = Keys(self.world.store, self.world.clock)
        self.withdrawals = self.again()

    def again(self) -> Withdrawals:
        """As after a restart."""
        w = self.world
        payouts = {NETWORK.id: self.chain}
        return Withdrawals(w.store, w.ledger, self.keys, payouts, w.clock, self.entropy)

    def entropy(self, count: int) -> bytes:
        self.world.made += 1
        return self.world.made.to_bytes(count, "big")

    async def deposit(
        self, amount_micro: int, payer: str = WALLET, account: str | None = None
    ) -> str:
        """A payment that bought nothing: all of it is credited."""
        world = self.world
        payment = world.payment(world.signed(amount_micro, payer))
        request = world.request()
        claim = await world.cashier.claim(payment, request=request, body_hash="b", account=account)
        world.clock.advance(1)
        return (await world.cashier.settle(claim, request, None)).settlement.account

    async def ask(self, account: str, **more: Any) -> Any:
        """Ask, with the drive's steps made by hand."""
        more.setdefault("wait_s", 0)
        return await self.withdrawals.request(account, **more)

    async def round(self, withdrawals: Withdrawals | None = None) -> None:
        for drive in (withdrawals or self.withdrawals)._drives.values():
            assert isinstance(drive, Drive)
            for pace in drive._paces.values():
                pace.due_s = 0.0
            await drive.round()

    async def rounds(self, count: int = 4) -> None:
        for _ in range(count):
            await self.round()

    async def books_agree(self, deposits_micro: int) -> None:
        """The mirror is what was paid in less what was paid out."""
        mirror = await self.world.has(MIRROR)
        assert -mirror[0] == deposits_micro - sum(amount for _, amount in self.chain.paid)
        assert await self.world.ledger.audit() == ()


@pytest.fixture
async def desk(world: Any) -> AsyncIterator[Desk]:
    yield Desk(world, Sent(world.clock))


async def refused(code: ProblemCode, asked: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        await asked
    assert caught.value.code is code, caught.value
    return caught.value


async def test_all_that_is_available_goes_back_to_the_wallet_and_leaves_the_books(
    desk: Desk,
) -> None:
    account = await desk.deposit(500_000)
    asked = await desk.ask(account)
    assert (asked.state, asked.amount_micro, asked.wallet) == (S.REQUESTED, 500_000, WALLET)
    assert await desk.world.has(account) == (0, 500_000)
    await desk.rounds()
    ended = await desk.withdrawals.find(asked.id, account)
    assert (ended.state, ended.transaction) == (S.CONFIRMED, "0x" + "1".rjust(64, "0"))
    assert desk.chain.paid == [(WALLET, 500_000)]
    assert await desk.world.has(account) == (0, 0)
    await desk.books_agree(500_000)
    entries = await desk.world.ledger.history(account, limit=10)
    assert [(e.kind, e.amount_micro, e.request) for e in entries[:2]] == [
        ("withdrawal", -500_000, asked.id),
        ("hold", -500_000, asked.id),
    ]
    assert ended.transaction in entries[0].memo


async def test_whoever_waits_is_told_when_it_landed(desk: Desk) -> None:
    account = await desk.deposit(500_000)
    driving = asyncio.create_task(desk.withdrawals.run())
    ended = await desk.withdrawals.request(account, wait_s=5)
    assert ended.state is S.CONFIRMED
    driving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await driving
    assert desk.withdrawals._waiting == {}


async def test_the_same_key_and_body_is_the_same_withdrawal_however_often(desk: Desk) -> None:
    account = await desk.deposit(500_000)
    same = {"amount_micro": 200_000, "idempotency_key": "k", "body_hash": "h"}
    asked = await asyncio.gather(*(desk.ask(account, **same) for _ in range(8)))
    assert len({one.id for one in asked}) == 1
    await desk.rounds()
    assert (await desk.ask(account, **same)).state is S.CONFIRMED
    assert desk.chain.paid == [(WALLET, 200_000)]
    assert await desk.world.has(account) == (300_000, 0)
    await refused(
        ProblemCode.IDEMPOTENCY_MISMATCH, desk.ask(account, **{**same, "body_hash": "other"})
    )


async def test_of_many_that_race_for_one_balance_no_more_is_sent_than_there_is(
    desk: Desk,
) -> None:
    account = await desk.deposit(500_000)
    asked = await asyncio.gather(
        *(desk.ask(account, amount_micro=200_000) for _ in range(6)), return_exceptions=True
    )
    assert len([one for one in asked if not isinstance(one, BaseException)]) == 2
    assert {one.code for one in asked if isinstance(one, Problem)} == {ProblemCode.INVALID_REQUEST}
    await desk.rounds()
    assert sum(amount for _, amount in desk.chain.paid) == 400_000
    await desk.books_agree(500_000)


async def test_a_wallet_gets_back_no_more_than_it_paid(desk: Desk) -> None:
    """A thief with a key who pays a little in must not get all out."""
    account = await desk.deposit(5_000_000)
    assert await desk.deposit(200_000, OTHER, account) == account
    problem = await refused(
        ProblemCode.INVALID_REQUEST, desk.ask(account, to=OTHER, amount_micro=200_001)
    )
    assert problem.param == "amount"
    racing = (desk.ask(account, to=OTHER, amount_micro=150_000) for _ in range(4))
    raced = await asyncio.gather(*racing, return_exceptions=True)
    assert len([one for one in raced if not isinstance(one, BaseException)]) == 1
    everything = await desk.ask(account)
    assert (everything.wallet, everything.amount_micro) == (WALLET, 5_000_000)
    await desk.rounds()
    assert sum(amount for to, amount in desk.chain.paid if to == OTHER) <= 200_000


async def test_only_wallets_that_paid_get_anything(desk: Desk) -> None:
    account = await desk.deposit(500_000)
    await refused(ProblemCode.INVALID_REQUEST, desk.ask(account, to=OTHER))
    await refused(ProblemCode.INVALID_REQUEST, desk.ask(account, network="eip155:8453"))
    await refused(ProblemCode.INVALID_REQUEST, desk.ask("guest"))
    assert (await desk.ask(account, network="base-sepolia", amount_micro=100_000)).wallet == WALLET
    checksummed = "0x" + "Aa" * 20
    assert (await desk.ask(account, to=f"{NETWORK.id}:{checksummed}")).wallet == WALLET


@pytest.mark.parametrize("amount_micro", [99_999, 1, 0])
async def test_less_than_the_minimum_is_refused(desk: Desk, amount_micro: int) -> None:
    account = await desk.deposit(500_000)
    problem = await refused(
        ProblemCode.INVALID_REQUEST, desk.ask(account, amount_micro=amount_micro)
    )
    assert "0.100000" in problem.message
    assert await desk.world.has(account) == (500_000, 0)


async def test_too_little_on_the_chain_gives_the_amount_back(desk: Desk) -> None:
    account = await desk.deposit(500_000)
    desk.chain.has_micro = 499_999
    asked = await desk.ask(account)
    await desk.round()
    ended = await desk.withdrawals.find(asked.id, account)
    assert (ended.state, ended.reason) == (S.RETURNED, "too little lies there")
    assert ended.refusal is not None
    assert ended.refusal.code is ProblemCode.PAYMENT_UNAVAILABLE
    assert await desk.world.has(account) == (500_000, 0)
    assert desk.chain.sends == 0
    await desk.books_agree(500_000)


async def test_what_is_not_seen_is_sent_again_and_never_signed_anew_while_it_may_land(
    desk: Desk,
) -> None:
    account = await desk.deposit(500_000)
    desk.chain.lands = False
    asked = await desk.ask(account)
    for _ in range(10):
        await desk.round()
        desk.world.clock.advance(3)
    assert len(desk.chain.signed) == 1
    assert desk.chain.sends > 5
    assert (await desk.withdrawals.find(asked.id, account)).state is S.SENT
    assert await desk.world.has(account) == (0, 500_000)


async def test_what_expired_is_signed_anew_and_at_last_given_back(desk: Desk) -> None:
    account = await desk.deposit(500_000)
    desk.chain.lands = False
    asked = await desk.ask(account)
    for _ in range(ATTEMPTS * 4):
        await desk.round()
        desk.world.clock.advance(VALID_S / 2 + 1)
    ended = await desk.withdrawals.find(asked.id, account)
    assert (ended.state, ended.attempt) == (S.RETURNED, ATTEMPTS)
    assert await desk.world.has(account) == (500_000, 0)
    await desk.books_agree(500_000)


async def test_what_had_landed_after_all_is_not_signed_again(desk: Desk) -> None:
    """The chain's node was wrong about the expiry: the last net under it holds."""
    account = await desk.deposit(500_000)
    desk.chain.lands = False
    asked = await desk.ask(account)
    await desk.round()
    desk.world.clock.advance(VALID_S + 1)
    await desk.round()
    assert (await desk.withdrawals.find(asked.id, account)).state is S.REQUESTED
    signed = (await desk.withdrawals._book.payouts(asked))[0]
    assert isinstance(signed, EvmPayment)
    desk.chain.carry(signed)
    await desk.rounds()
    assert (await desk.withdrawals.find(asked.id, account)).state is S.CONFIRMED
    assert desk.chain.paid == [(WALLET, 500_000)]
    assert len(desk.chain.signed) == 1
    await desk.books_agree(500_000)


async def test_where_the_chain_takes_one_of_both_it_is_renewed_before_it_ends(desk: Desk) -> None:
    account = await desk.deposit(500_000)
    desk.chain.lands, desk.chain.renews = False, True
    asked = await desk.ask(account)
    await desk.round()
    desk.world.clock.advance(VALID_S - 5)
    await desk.round()
    found = await desk.withdrawals.find(asked.id, account)
    assert (len(desk.chain.signed), found.attempt, found.state) == (2, 2, S.SENT)
    assert desk.chain.signed[1].committed_micro == 0, "its own amount is not somebody else's"
    desk.chain.lands = True
    desk.world.clock.advance(3)
    await desk.rounds()
    assert desk.chain.paid == [(WALLET, 500_000)]


async def test_what_failed_on_the_chain_is_given_back(desk: Desk) -> None:
    account = await desk.deposit(500_000)
    desk.chain.lands = False
    asked = await desk.ask(account)
    await desk.round()
    desk.chain.failed.add(asked.id)
    await desk.rounds()
    ended = await desk.withdrawals.find(asked.id, account)
    assert (ended.state, ended.transaction) == (S.RETURNED, "0x" + "44" * 32)
    assert await desk.world.has(account) == (500_000, 0)


async def test_a_chain_that_is_away_gives_nothing_back_that_was_signed_however_long(
    desk: Desk,
) -> None:
    account = await desk.deposit(1_000_000)
    desk.chain.lands = False
    signed = await desk.ask(account, amount_micro=500_000)
    await desk.round()
    desk.chain.is_away = True
    unsigned = await desk.ask(account, amount_micro=200_000)
    for _ in range(20):
        await desk.round()
        desk.world.clock.advance(600)
    assert (await desk.withdrawals.find(signed.id, account)).state is S.SENT
    given_up = await desk.withdrawals.find(unsigned.id, account)
    assert given_up.state is S.RETURNED, "what was never signed is not kept for ever"
    assert await desk.world.has(account) == (500_000, 500_000)


async def test_a_chain_that_brings_less_than_was_sent_moves_nothing(desk: Desk) -> None:
    account = await desk.deposit(500_000)
    asked = await desk.ask(account)
    short = Landed(transaction="0x" + "1" * 64, amount_micro=499_999, payer=PAYEE)
    desk.chain.lands = False
    await desk.round()
    desk.chain.landed_at[asked.id] = short
    await desk.rounds()
    assert not (await desk.withdrawals.find(asked.id, account)).is_final
    assert await desk.world.has(account) == (0, 500_000)


async def test_an_account_has_few_on_their_way_at_once(desk: Desk) -> None:
    account = await desk.deposit(5_000_000)
    for _ in range(4):
        await desk.ask(account, amount_micro=100_000)
    await refused(ProblemCode.RATE_LIMITED, desk.ask(account, amount_micro=100_000))
    await desk.rounds()
    await desk.ask(account, amount_micro=100_000)


async def test_the_earlier_process_is_gone_and_its_withdrawals_end(desk: Desk) -> None:
    account = await desk.deposit(500_000)
    desk.chain.lands = False
    asked = await desk.ask(account)
    await desk.round()
    desk.chain.lands = True
    later = desk.again()
    await desk.round(later)
    await desk.round(later)
    assert (await later.find(asked.id, account)).state is S.CONFIRMED
    assert desk.chain.paid == [(WALLET, 500_000)]
    assert len(desk.chain.signed) == 1


async def test_recovery_and_sweeper_leave_withdrawals_alone(desk: Desk) -> None:
    account = await desk.deposit(500_000)
    await desk.ask(account)
    assert await desk.world.ledger.open_holds() == ()
    desk.world.clock.advance(10 * 365 * 24 * 3600)
    assert await desk.world.ledger.run_out() == ()
    assert (await desk.world.ledger.balance(account, ASSET)).held_micro == 500_000


async def test_the_limit_of_the_key_that_asks_holds_and_is_spent(desk: Desk) -> None:
    account = await desk.deposit(500_000)
    _, view = await desk.keys.create(account, name="k", asset=ASSET, limit_micro=250_000)
    key = view.id
    await refused(ProblemCode.KEY_LIMIT_REACHED, desk.ask(account, key=key, amount_micro=250_001))
    desk.chain.has_micro = 0
    await desk.ask(account, key=key, amount_micro=250_000)
    await desk.rounds()
    desk.chain.has_micro = 10**9
    await desk.ask(account, key=key, amount_micro=250_000)
    await desk.rounds()
    await refused(ProblemCode.KEY_LIMIT_REACHED, desk.ask(account, key=key, amount_micro=100_000))
    rows = await desk.world.store.read("SELECT reserved_micro, spent_micro FROM keys")
    assert rows == [(0, 250_000)]


async def test_a_key_with_a_limit_withdraws_its_part_and_hears_of_no_more(desk: Desk) -> None:
    account = await desk.deposit(5_000_000)
    _, view = await desk.keys.create(account, name="k", asset=ASSET, limit_micro=250_000)
    asked = await desk.ask(account, key=view.id)
    assert asked.amount_micro == 250_000, "all that can be withdrawn is all that the key has"
    told = await refused(ProblemCode.INVALID_REQUEST, desk.ask(account, key=view.id))
    assert "0.000000" in told.message
    wrong = desk.ask(account, key=view.id, to=OTHER, amount_micro=100_000)
    assert WALLET not in (await refused(ProblemCode.INVALID_REQUEST, wrong)).hint
    whole = await desk.ask(account, idempotency_key="one")
    await refused(ProblemCode.NOT_FOUND, desk.withdrawals.find(whole.id, account, key=view.id))
    assert (await desk.withdrawals.find(asked.id, account, key=view.id)).id == asked.id
    again = desk.ask(account, key=view.id, idempotency_key="one")
    told = await refused(ProblemCode.IDEMPOTENCY_MISMATCH, again)
    assert whole.id not in told.message


async def test_a_topups_key_sends_back_to_the_wallet_of_its_topup_only(desk: Desk) -> None:
    account = await desk.deposit(500_000)
    await desk.deposit(500_000, OTHER, account)
    until_ms = desk.world.clock.now_ms() + 60_000
    named = f"{NETWORK.id}:{WALLET}"
    _, view, insert = desk.keys.issue(
        *(account,),
        **{"name": "k", "asset": ASSET, "limit_micro": 400_000},
        **{"expires_at_ms": until_ms, "wallet": named},
    )
    await desk.world.store.commit([insert])
    told = await refused(ProblemCode.INVALID_REQUEST, desk.ask(account, key=view.id, to=OTHER))
    assert WALLET in told.hint and OTHER not in told.hint
    assert (await desk.ask(account, key=view.id)).wallet == WALLET, "not the one that paid last"


async def test_another_accounts_withdrawal_is_not_there(desk: Desk) -> None:
    account = await desk.deposit(500_000)
    other = await desk.deposit(500_000, OTHER)
    asked = await desk.ask(account)
    await refused(ProblemCode.NOT_FOUND, desk.withdrawals.find(asked.id, other))


async def test_what_was_signed_is_on_the_disk_before_it_is_sent(desk: Desk) -> None:
    account = await desk.deposit(500_000)
    asked = await desk.ask(account)
    seen: list[int] = []
    send = desk.chain.send

    async def looks(signed: Signed) -> bool:
        rows = await desk.world.store.read("SELECT count(*) FROM x402_payouts")
        seen.append(rows[0][0])
        return await send(signed)

    desk.chain.send = looks  # type: ignore[method-assign]
    await desk.rounds()
    assert seen == [1]
    assert (await desk.withdrawals.find(asked.id, account)).state is S.CONFIRMED


async def test_a_wallet_has_ten_withdrawals_in_a_day_whatever_accounts_it_paid_to(
    desk: Desk,
) -> None:
    """The least paid in and withdrawn in a circle costs us two network fees at each turn."""
    clock = desk.world.clock
    await desk.world.ledger.open_account("acct_key", "user")
    own = await desk.deposit(1_000_000)
    other = await desk.deposit(1_000_000, account="acct_key")
    for number in range(PER_WALLET_A_DAY):
        await desk.ask(own if number % 2 else other, amount_micro=100_000)
        await desk.rounds()
        clock.advance(60)
    assert len(desk.chain.paid) == PER_WALLET_A_DAY
    for account in (own, other):
        told = await refused(ProblemCode.RATE_LIMITED, desk.ask(account, amount_micro=100_000))
        assert "10 withdrawals" in told.message
        assert told.retry_after_s == 24 * 3600 - 600
    another = await desk.deposit(500_000, payer=OTHER)
    assert (await desk.ask(another, to=OTHER)).state is S.REQUESTED
    clock.advance(24 * 3600 - 599)
    assert (await desk.ask(own, amount_micro=100_000)).state is S.REQUESTED


async def test_what_was_returned_unsigned_counts_for_no_day(desk: Desk) -> None:
    account = await desk.deposit(500_000)
    desk.chain.has_micro = 0
    for _ in range(PER_WALLET_A_DAY + 1):
        asked = await desk.ask(account)
        await desk.rounds()
        assert (await desk.withdrawals.find(asked.id, account)).state is S.RETURNED
