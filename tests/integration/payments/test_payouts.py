"""Sending back on real local chains: what is looked at before, and what may be believed after."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from eth_account import Account
from solders.keypair import Keypair

from parhelion.chain.rpc import JsonRpc
from parhelion.chain.solana import associated_account
from parhelion.payments.facilitator import EmbeddedEvm, EvmPayment
from parhelion.payments.x402 import Expired, Landed, Unknown
from parhelion.payments.x402.networks import as_local, known
from parhelion.payments.x402.payout_evm import EvmPayout, nonce_of
from parhelion.payments.x402.payout_solana import SolanaPayout
from parhelion.payments.x402.payouts import Impossible, NotYet, Order
from parhelion.testing.minisol import MinisolProcess
from tests.integration.chain.minievm.processes import KINDS, Evm, started
from tests.integration.facilitator.faults import FaultyRpc, is_lost, says

SOLANA = as_local(known("solana-testnet"))
EVM = as_local(known("base-sepolia"))
HAS = 1_000_000
SLOT_MS = 20
LIFE_S = 190 * SLOT_MS / 1000
WAIT_S = 20.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def minisol(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinisolProcess]:
    process = MinisolProcess(tmp_path_factory.mktemp("minisol"), "--slot-ms", str(SLOT_MS))
    yield process
    process.close(kill=True)


@pytest.fixture(scope="module", params=KINDS)
def evm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evm]:
    with started(request.param, tmp_path_factory.mktemp("evm")) as node:
        yield node


@dataclass
class Sol:
    """A seller on Solana with HAS to send."""

    chain: MinisolProcess
    rpc: FaultyRpc

    def __post_init__(self) -> None:
        self.seller, self.payer = Keypair(), Keypair()
        self.chain.fund(str(self.seller.pubkey()), usdc_micro=HAS)
        self.chain.fund(str(self.payer.pubkey()), lamports=10**9)
        self.payout = SolanaPayout(SOLANA, self.rpc, self.seller, self.payer)
        self.made = 0

    def wallet(self, *, has_account: bool = True) -> Keypair:
        wallet = Keypair()
        if has_account:
            self.chain.fund(str(wallet.pubkey()), usdc_micro=1, lamports=10**8)
        return wallet

    def order(self, wallet: Keypair, amount_micro: int = 1_000, **more: Any) -> Order:
        self.made += 1
        id = f"wd_{self.made}{self.seller.pubkey()}"[:29]
        return Order(id=id, wallet=str(wallet.pubkey()), amount_micro=amount_micro, **more)

    async def until(self, signed: Any, kind: type[Any]) -> Any:
        ends_at_s = time.monotonic() + WAIT_S
        while not isinstance(sight := await self.payout.look(signed), kind):
            assert time.monotonic() < ends_at_s, sight
            await asyncio.sleep(0.02)
        return sight

    def lamports(self) -> int:
        how = {"commitment": "processed"}
        return int(self.chain.call("getBalance", str(self.payer.pubkey()), how)["value"])


@pytest_asyncio.fixture
async def sol(minisol: MinisolProcess) -> AsyncIterator[Sol]:
    async with aiohttp.ClientSession() as session:
        rpc = FaultyRpc(JsonRpc(session, minisol.url))
        made = await asyncio.to_thread(Sol, minisol, rpc)
        # What was just given is seen at `confirmed` a slot later.
        await asyncio.sleep(4 * SLOT_MS / 1000)
        yield made


async def landed_in_time(sol: Sol, order: Order) -> Landed | None:
    ends_at_s = time.monotonic() + WAIT_S
    while time.monotonic() < ends_at_s:
        found = await sol.payout.landed(order)
        if found is not None:
            return found
        await asyncio.sleep(0.02)
    return None


async def test_a_transfer_lands_once_however_often_it_is_sent_and_is_found_by_its_order(
    sol: Sol,
) -> None:
    order = sol.order(sol.wallet())
    await asyncio.sleep(4 * SLOT_MS / 1000)
    assert await sol.payout.landed(order) is None
    signed = await sol.payout.sign(order)
    for _ in range(3):
        assert await sol.payout.send(signed)
    landed = await sol.until(signed, Landed)
    assert (landed.transaction, landed.amount_micro) == (signed.transaction, 1_000)
    assert await landed_in_time(sol, order) == landed, "by the reference alone"
    other = sol.order(Keypair())
    assert await sol.payout.landed(other) is None


async def test_a_closed_account_is_opened_at_our_cost_only_where_that_is_allowed(
    sol: Sol,
) -> None:
    wallet = sol.wallet(has_account=False)
    with pytest.raises(Impossible, match="no USDC account"):
        await sol.payout.sign(sol.order(wallet))
    before = sol.lamports()
    signed = await sol.payout.sign(sol.order(wallet, may_open=True))
    assert signed.opens_account
    await sol.payout.send(signed)
    await sol.until(signed, Landed)
    assert 2_000_000 < before - sol.lamports() < 2_100_000, "an account's rent and a fee"
    again = await sol.payout.sign(sol.order(wallet, may_open=True))
    assert not again.opens_account


async def test_an_account_that_was_given_away_gets_nothing(sol: Sol) -> None:
    """The address is derived from the wallet's, but its owner may be another by now."""
    from solders.hash import Hash
    from solders.instruction import AccountMeta, Instruction
    from solders.message import MessageV0
    from solders.pubkey import Pubkey
    from solders.transaction import VersionedTransaction

    wallet, thief = sol.wallet(), Keypair()
    account = Pubkey.from_string(associated_account(str(wallet.pubkey()), SOLANA.token))
    token = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
    # SetAuthority of the account's owner.
    data = bytes([6, 2, 1]) + bytes(thief.pubkey())
    metas = [AccountMeta(account, False, True), AccountMeta(wallet.pubkey(), True, False)]
    latest = sol.chain.call("getLatestBlockhash", {"commitment": "processed"})["value"]
    message = MessageV0.try_compile(
        wallet.pubkey(),
        [Instruction(token, data, metas)],
        [],
        Hash.from_string(latest["blockhash"]),
    )
    wire = bytes(VersionedTransaction(message, [wallet]))
    how = {"encoding": "base64", "preflightCommitment": "processed"}
    sol.chain.call("sendTransaction", base64.b64encode(wire).decode(), how)
    await asyncio.sleep(4 * SLOT_MS / 1000)
    with pytest.raises(Impossible, match="another owner"):
        await sol.payout.sign(sol.order(wallet))


async def test_more_than_lies_there_is_refused_before_anything_is_signed(sol: Sol) -> None:
    wallet = sol.wallet()
    await asyncio.sleep(4 * SLOT_MS / 1000)
    with pytest.raises(Impossible, match="too little"):
        await sol.payout.sign(sol.order(wallet, HAS + 1))
    with pytest.raises(NotYet):
        await sol.payout.sign(sol.order(wallet, HAS, committed_micro=1))
    assert (await sol.payout.sign(sol.order(wallet, HAS))).wire


async def test_what_never_landed_is_expired_only_past_the_last_final_block(sol: Sol) -> None:
    wallet = sol.wallet()
    await asyncio.sleep(4 * SLOT_MS / 1000)
    sol.rpc.fail("sendTransaction", is_lost)
    signed = await sol.payout.sign(sol.order(wallet))
    signed_s = time.monotonic()
    assert await sol.payout.send(signed), "nobody knows whether it arrived"
    assert isinstance(await sol.payout.look(signed), Unknown)
    await sol.until(signed, Expired)
    assert time.monotonic() - signed_s > 150 * SLOT_MS / 1000
    sol.rpc.heal()


async def test_a_node_that_stands_behind_frees_nothing(sol: Sol) -> None:
    wallet = sol.wallet()
    await asyncio.sleep(4 * SLOT_MS / 1000)
    signed = await sol.payout.sign(sol.order(wallet))
    await asyncio.sleep(LIFE_S)
    await sol.until(signed, Expired)
    behind = {"context": {"slot": 1}, "value": [None]}
    sol.rpc.fail("getSignatureStatuses", says(behind))
    assert isinstance(await sol.payout.look(signed), Unknown)
    sol.rpc.heal()


async def test_one_key_may_hold_the_money_and_pay_the_fees(sol: Sol) -> None:
    both = Keypair()
    sol.chain.fund(str(both.pubkey()), usdc_micro=HAS, lamports=10**9)
    sol.payout = SolanaPayout(SOLANA, sol.rpc, both, both)
    wallet = sol.wallet()
    await asyncio.sleep(4 * SLOT_MS / 1000)
    signed = await sol.payout.sign(sol.order(wallet))
    await sol.payout.send(signed)
    await sol.until(signed, Landed)


@dataclass
class Eth:
    """A seller on an EVM chain with HAS to send."""

    evm: Evm
    rpc: FaultyRpc

    def __post_init__(self) -> None:
        self.seller, self.payer = Account.create(), Account.create()
        self.evm.fund(self.seller.address, usdc=HAS)
        self.evm.fund(self.payer.address, wei=10**16)
        self.later_s = 0.0
        self.payout = EvmPayout(EVM, self.rpc, self.seller, self.carrier(), self.now_s)

    def now_s(self) -> float:
        return time.time() + self.later_s

    def carrier(self) -> EmbeddedEvm:
        return EmbeddedEvm(self.rpc, self.payer, time.time, look_every_s=0.01)

    def order(self, id: str, amount_micro: int = 1_000, **more: Any) -> Order:
        wallet = Account.create().address
        return Order(id=id, wallet=wallet, amount_micro=amount_micro, **more)


@pytest_asyncio.fixture
async def eth(evm: Evm) -> AsyncIterator[Eth]:
    async with aiohttp.ClientSession() as session:
        yield Eth(evm, FaultyRpc(JsonRpc(session, evm.rpc)))


async def test_all_authorizations_of_one_withdrawal_share_a_nonce_and_one_lands(
    eth: Eth,
) -> None:
    order = eth.order("wd_a")
    assert await eth.payout.landed(order) is None
    signed: list[EvmPayment] = []
    for later_s in (0.0, 100.0, 200.0):
        eth.later_s = later_s
        signed.append(await eth.payout.sign(order))
    eth.later_s = 0.0
    assert {one.nonce for one in signed} == {nonce_of("wd_a")}
    assert len({one.valid_before_s for one in signed}) == 3
    assert await eth.payout.send(signed[1])
    for one in (signed[0], signed[2]):
        assert not await eth.payout.send(one), "the token has spent it"
    assert eth.evm.usdc(order.wallet) == 1_000
    for one in signed:
        assert isinstance(await eth.payout.look(one), Landed)
    landed = await eth.payout.landed(order)
    assert landed is not None and landed.transaction.startswith("0x")


async def test_an_authorization_that_soon_ends_is_stale_and_signed_anew(eth: Eth) -> None:
    signed = await eth.payout.sign(eth.order("wd_b"))
    assert not eth.payout.is_stale(signed)
    eth.later_s = 280.0
    assert eth.payout.is_stale(signed)


async def test_more_than_lies_there_is_refused_and_no_signature_leaves_for_that(
    eth: Eth,
) -> None:
    with pytest.raises(Impossible, match="too little"):
        await eth.payout.sign(eth.order("wd_c", HAS + 1))
    with pytest.raises(NotYet):
        await eth.payout.sign(eth.order("wd_c", HAS, committed_micro=1))
    await eth.payout.sign(eth.order("wd_c", HAS))
    assert "eth_sendRawTransaction" not in eth.rpc.calls


async def test_whoever_carries_it_it_is_paid(eth: Eth) -> None:
    """A stranger who saw it may send it first: ours then fails, and the wallet has it once."""
    order = eth.order("wd_d")
    signed = await eth.payout.sign(order)
    stranger = Account.create()
    eth.evm.fund(stranger.address, wei=10**16)
    carrier = EmbeddedEvm(eth.rpc, stranger, time.time, look_every_s=0.01)
    outcome = await carrier.settle(signed, asyncio.get_running_loop().time() + 5)
    assert isinstance(await eth.payout.look(signed), Landed), outcome
    assert not await eth.payout.send(signed)
    assert eth.evm.usdc(order.wallet) == 1_000


def test_the_ids_of_withdrawals_and_their_nonces_are_apart() -> None:
    assert nonce_of("wd_a") != nonce_of("wd_b")
    assert len(nonce_of("wd_a")) == 66
