"""Looking at the chain for a payment to be prepared: bounded, with deadlines, and nothing kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from parhelion.chain.rpc import RpcRefused, RpcUnavailable
from parhelion.chain.solana import associated_account
from parhelion.config import X402Network
from parhelion.identity import Caller, site_of
from parhelion.payments.x402 import payees, payment_required
from parhelion.payments.x402 import preparing as module
from parhelion.payments.x402.desks import Desks
from parhelion.payments.x402.faucet import GIFT_MICRO, GIFTS_PER_HOUR_LIMIT, HOUR_S, Faucet
from parhelion.payments.x402.prepared import Prepared, Transaction
from parhelion.payments.x402.preparing import (
    HIDDEN_AT_ONCE,
    HIDDEN_PER_S,
    LOOKS_BURST,
    LOOKS_HIDDEN_LIMIT,
    LOOKS_LIMIT,
    LOOKS_OF_ONE_LIMIT,
    LOOKS_PER_S,
    PREPARED_AT_ONCE,
    Preparing,
)
from parhelion.payments.x402.prices import Price, topup_price
from parhelion.testing.clock import ManualClock
from parhelion.words import AssetClass, Problem, ProblemCode

SOLANA, EVM = "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z", "eip155:84532"
BLOCKHASH = "EkSnNWid2cvwEVnVx9aBqawnmiCNiDgp3gUdkDPTKN1N"
FEE_PAYER = "4uQeVj5tqViQh7yWWGStvkEG1Zmhx6uasJtWCJziofM"
PAYER = "8WhRUyy7JkbW7ZdJ2mQ4pZ6hPXY2Hw7dFyCE2xWnGq2d"
EVM_PAYER = "0x" + "11" * 20
PAYEES = payees(
    (
        X402Network(
            id=SOLANA,
            pay_to="7oYKnwHxzXitcxJuPV7EP9mPaLbkubgcT3jZa63E1gWA",
            fee_payer_key_file="k",
            rpc_url="http://127.0.0.1:1",
        ),
        X402Network(
            id=EVM, pay_to="0x" + "Ab" * 20, fee_payer_key_file="k", rpc_url="http://127.0.0.1:2"
        ),
    ),
    AssetClass.LOCAL,
)
PRICE = topup_price("0.25")
MINT = PAYEES[0].network.token


class Node:
    """A chain's node: what the payer holds, and what it does instead of answering."""

    def __init__(self) -> None:
        self.token_micro = 1_000_000
        self.asked: list[str] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.fails: dict[str, Exception] = {}

    async def __call__(self, method: str, params: Sequence[Any]) -> Any:
        self.asked.append(method)
        await self.go_on.wait()
        if method in self.fails:
            raise self.fails[method]
        if method.endswith("_fund"):
            self.token_micro += int(params[1]["usdc"])
            return {"signature": "sig"} if method == "minisol_fund" else {"usdc": "0xhash"}
        if method == "eth_call":
            return hex(self.token_micro)
        if method == "getTokenAccountsByOwner":
            amount = {"tokenAmount": {"amount": str(self.token_micro)}}
            row = {
                "pubkey": associated_account(str(params[0]), MINT),
                "account": {"data": {"parsed": {"info": amount}}},
            }
            return {"value": [row]}
        return {
            "getBalance": {"value": 0},
            "eth_getBalance": "0x0",
            "getLatestBlockhash": {
                "value": {"blockhash": BLOCKHASH, "lastValidBlockHeight": 9},
            },
        }[method]


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.node = Node()
        rpcs = {SOLANA: self.node, EVM: self.node}
        self.desks = Desks(PAYEES, {SOLANA: FEE_PAYER}, rpcs, self.clock)
        checkout: Any = SimpleNamespace(offered=self.offered)
        self.preparing = Preparing(PAYEES, self.desks, checkout, rpcs, self.clock, bytes)
        self.faucet = Faucet(PAYEES, rpcs, self.clock, seen_wait_s=0.05)

    def offered(self, price: Price, url: str) -> Any:
        now_ms = self.clock.now_ms()
        return payment_required(price, self.desks.now(), url=url, now_ms=now_ms, entropy=bytes(10))

    async def prepare(
        self, network: str = SOLANA, payer: str = PAYER, address: str = "", account: str = ""
    ) -> Any:
        caller = Caller(site_of(address), account)
        return await self.preparing.prepare(network, payer, PRICE, "http://h/x", caller=caller)

    async def hang(self, *callers: tuple[str, str]) -> list[asyncio.Task[Any]]:
        """Those of these (address, account) who look, all at once, until the node goes on."""
        self.node.go_on.clear()
        wanted = len(self.node.asked) + len(callers)
        looking = [asyncio.create_task(self.prepare(SOLANA, PAYER, *each)) for each in callers]
        async with asyncio.timeout(5):
            while len(self.node.asked) < wanted:  # noqa: ASYNC110 - the node has no event for it
                await asyncio.sleep(0)
        return looking

    async def refusal(self, *asked: Any) -> Problem:
        with pytest.raises(Problem) as caught:
            await self.prepare(*asked)
        return caught.value


@pytest.fixture
def world() -> World:
    return World()


async def test_a_cold_pool_waits_for_the_blockhash_that_it_prepares_with(world: World) -> None:
    prepared = await world.prepare()
    assert isinstance(prepared, Prepared) and isinstance(prepared.sign, Transaction)
    assert prepared.accepted.extra["recentBlockhash"] == BLOCKHASH
    assert prepared.resource.url == "http://h/x"
    # Read from the chain a moment ago: the page says what is left after it.
    assert prepared.holds_micro == world.node.token_micro > 0


async def test_no_network_and_no_address_asks_no_chain(world: World) -> None:
    assert (await world.refusal("eip155:1")).param == "network"
    assert (await world.refusal(SOLANA, EVM_PAYER)).param == "address"
    assert (await world.refusal(EVM, PAYER)).param == "address"
    await asyncio.sleep(0)
    # An offer that was looked at asks for the hint of those after it, as every 402 does.
    assert set(world.node.asked) <= {"getLatestBlockhash"}


@pytest.mark.parametrize(("network", "payer"), [(SOLANA, PAYER), (EVM, EVM_PAYER)])
async def test_too_little_is_told_with_what_there_is(
    world: World, network: str, payer: str
) -> None:
    world.node.token_micro = 100_000
    problem = await world.refusal(network, payer)
    assert problem.code is ProblemCode.INSUFFICIENT_CREDIT
    assert "this wallet has 0.1 USDC" in problem.message
    assert "this costs 0.25 USDC" in problem.message


@pytest.mark.parametrize("error", [RpcUnavailable("away"), RpcRefused(-32005, "too many")])
@pytest.mark.parametrize("method", ["getTokenAccountsByOwner", "getLatestBlockhash"])
async def test_a_chain_that_does_not_answer_is_a_503_and_never_a_payment(
    world: World, method: str, error: Exception
) -> None:
    world.node.fails[method] = error
    problem = await world.refusal()
    assert (problem.code, problem.retry_after_s) == (ProblemCode.PAYMENT_UNAVAILABLE, 2)


async def test_a_chain_that_hangs_is_given_up_in_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_WAIT_S", 0.01)
    world.node.go_on.clear()
    async with asyncio.timeout(5):
        assert (await world.refusal()).code is ProblemCode.PAYMENT_UNAVAILABLE
        assert (await world.refusal(EVM, EVM_PAYER)).code is ProblemCode.PAYMENT_UNAVAILABLE
    await world.desks.close()


async def test_more_than_may_look_at_once_are_sent_away_and_none_is_queued(world: World) -> None:
    inside = await world.hang(*((f"203.0.113.{at}", "") for at in range(LOOKS_LIMIT)))
    assert (await world.refusal()).code is ProblemCode.OVERLOADED
    world.node.go_on.set()
    assert len(await asyncio.gather(*inside)) == LOOKS_LIMIT
    await world.prepare()


async def test_one_address_prepares_so_many_and_takes_nothing_from_another(world: World) -> None:
    for _ in range(int(PREPARED_AT_ONCE)):
        await world.prepare(EVM, EVM_PAYER, "203.0.113.7")
    refused = await world.refusal(EVM, EVM_PAYER, "203.0.113.7")
    assert refused.code is ProblemCode.RATE_LIMITED
    await world.prepare(EVM, EVM_PAYER, "203.0.113.8")
    world.clock.advance(1.0)
    await world.prepare(EVM, EVM_PAYER, "203.0.113.7")


async def test_one_caller_cannot_hold_every_place_while_a_chain_is_slow(world: World) -> None:
    one, hidden = ("203.0.113.7", ""), ("", "")
    inside = await world.hang(*[one] * LOOKS_OF_ONE_LIMIT, *[hidden] * LOOKS_HIDDEN_LIMIT)
    for address in ("203.0.113.7", ""):
        refused = await world.refusal(SOLANA, PAYER, address)
        assert refused.code is ProblemCode.RATE_LIMITED and refused.retry_after_s
    inside += await world.hang(("203.0.113.8", ""))
    world.node.go_on.set()
    await asyncio.gather(*inside)
    assert not world.preparing._looking, "nothing is kept of who has left"


async def test_one_stranger_behind_a_proxy_leaves_room_for_who_is_signed_in(world: World) -> None:
    """All strangers there look alike, so they share; an account tells its owner from them."""
    for _ in range(int(HIDDEN_AT_ONCE)):
        await world.prepare(EVM, EVM_PAYER, "")
    refused = await world.refusal(EVM, EVM_PAYER, "")
    assert refused.code is ProblemCode.RATE_LIMITED and refused.retry_after_s
    assert "proxy" in refused.message
    await world.prepare(EVM, EVM_PAYER, "", "acct_1")
    await world.prepare(EVM, EVM_PAYER, "203.0.113.7")
    world.clock.advance(1.0)
    for _ in range(int(HIDDEN_PER_S)):
        await world.prepare(EVM, EVM_PAYER, "")
    assert (await world.refusal(EVM, EVM_PAYER, "")).code is ProblemCode.RATE_LIMITED


async def test_accounts_are_no_way_round_the_share_of_an_address(world: World) -> None:
    for at in range(int(PREPARED_AT_ONCE)):
        await world.prepare(EVM, EVM_PAYER, "203.0.113.7", f"acct_{at}")
    refused = await world.refusal(EVM, EVM_PAYER, "203.0.113.7", "acct_new")
    assert refused.code is ProblemCode.RATE_LIMITED


async def test_all_addresses_together_look_at_the_chains_only_so_often(world: World) -> None:
    for at in range(int(LOOKS_BURST)):
        await world.prepare(EVM, EVM_PAYER, f"203.0.113.{at}")
    asked = len(world.node.asked)
    refused = await world.refusal(EVM, EVM_PAYER, "198.51.100.1")
    assert (refused.code, refused.retry_after_s) == (ProblemCode.OVERLOADED, 2)
    assert len(world.node.asked) == asked, "no chain hears of it"
    world.clock.advance(1.0)
    for at in range(int(LOOKS_PER_S)):
        await world.prepare(EVM, EVM_PAYER, f"198.51.100.{at}")
    assert (await world.refusal(EVM, EVM_PAYER, "192.0.2.1")).code is ProblemCode.OVERLOADED


@pytest.mark.parametrize(("network", "payer"), [(SOLANA, PAYER), (EVM, EVM_PAYER)])
async def test_what_the_wallet_has_of_the_networks_coin_is_asked_of_nobody(
    world: World, network: str, payer: str
) -> None:
    await world.prepare(network, payer)
    assert not {"getBalance", "eth_getBalance"} & set(world.node.asked)


@pytest.mark.parametrize(
    ("network", "payer", "transaction"), [(SOLANA, PAYER, "sig"), (EVM, EVM_PAYER, "0xhash")]
)
async def test_a_gift_is_there_when_it_is_told_of(
    world: World, network: str, payer: str, transaction: str
) -> None:
    gift = await world.faucet.give(network, payer)
    assert (gift.transaction, gift.amount_micro, gift.asset) == (
        transaction,
        GIFT_MICRO,
        "USDC.local",
    )
    assert world.node.token_micro == 1_000_000 + GIFT_MICRO


async def test_an_hour_has_so_many_gifts_and_no_more(world: World) -> None:
    for _ in range(GIFTS_PER_HOUR_LIMIT):
        await world.faucet.give(EVM, EVM_PAYER)
        world.clock.advance(10.0)
    with pytest.raises(Problem) as caught:
        await world.faucet.give(SOLANA, PAYER)
    assert caught.value.code is ProblemCode.RATE_LIMITED
    assert caught.value.retry_after_s == HOUR_S - 10 * GIFTS_PER_HOUR_LIMIT + 1
    world.clock.advance(float(caught.value.retry_after_s or 0))
    await world.faucet.give(EVM, EVM_PAYER)
    with pytest.raises(Problem):
        await world.faucet.give(EVM, EVM_PAYER)


async def test_no_real_network_gives_money_away(world: World) -> None:
    real = payees(
        (X402Network(id="base-sepolia", pay_to="0x" + "Ab" * 20, fee_payer_key_file="k"),),
        AssetClass.TEST,
    )
    faucet = Faucet(real, {EVM: world.node}, world.clock)
    with pytest.raises(Problem) as caught:
        await faucet.give(EVM, EVM_PAYER)
    assert caught.value.code is ProblemCode.NOT_FOUND
    assert world.node.asked == []


async def test_a_chain_without_our_faucet_is_a_refusal_and_one_that_is_away_a_503(
    world: World,
) -> None:
    world.node.fails["parhelion_fund"] = RpcRefused(-32601, "the method does not exist")
    with pytest.raises(Problem) as caught:
        await world.faucet.give(EVM, EVM_PAYER)
    assert caught.value.code is ProblemCode.INVALID_REQUEST
    world.node.fails["parhelion_fund"] = RpcUnavailable("away")
    with pytest.raises(Problem) as caught:
        await world.faucet.give(EVM, EVM_PAYER)
    assert caught.value.code is ProblemCode.PAYMENT_UNAVAILABLE
