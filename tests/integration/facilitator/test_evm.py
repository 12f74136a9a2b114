"""The embedded facilitator on a real minievm, paid by x402's own client, and its chain failing."""

from __future__ import annotations

import asyncio
import base64
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils import keccak
from x402.mechanisms.evm.exact import ExactEvmClientScheme
from x402.mechanisms.evm.signers import EthAccountSigner
from x402.schemas import PaymentPayload, PaymentRequirements

from parhelion.chain.rpc import JsonRpc, RpcRefused
from parhelion.payments.facilitator import (
    Ambiguous,
    Code,
    Embedded,
    EmbeddedEvm,
    EvmOffer,
    EvmPayment,
    Outcome,
    Payload,
    Refused,
    Settled,
    read_header,
    requirements,
)
from parhelion.payments.facilitator import evm as rules
from parhelion.words import Problem, ProblemCode
from tests.integration.chain.minievm.processes import USDC, Evm, minievm
from tests.integration.facilitator.faults import (
    FaultyRpc,
    answers_nothing_after,
    hangs,
    is_away,
    is_lost,
    says,
)

NETWORK = "eip155:84532"
PRICE = 10_000
ETHER = 10**18


@pytest.fixture(scope="module")
def evm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evm]:
    with minievm(tmp_path_factory.mktemp("minievm")) as node:
        yield node


@dataclass
class Shop:
    """A buyer, a seller, and the facilitator between them."""

    evm: Evm
    rpc: FaultyRpc
    buyer: LocalAccount = field(default_factory=Account.create)
    relay: LocalAccount = field(default_factory=Account.create)
    seller: str = field(default_factory=lambda: Account.create().address)
    carrier: EmbeddedEvm = field(init=False)

    def __post_init__(self) -> None:
        self.carrier = EmbeddedEvm(self.rpc, self.relay, time.time, look_every_s=0.01)

    def open(self, usdc: int) -> Shop:
        self.evm.fund(self.buyer.address, usdc=usdc)
        self.evm.fund(self.relay.address, wei=ETHER // 100)
        return self

    def facilitator(self, *, budget_s: float = 10.0) -> Embedded:
        networks = {NETWORK: self.carrier}
        return Embedded(networks, verify_budget_s=budget_s, settle_budget_s=budget_s)

    @property
    def offer(self) -> EvmOffer:
        return EvmOffer(
            network=NETWORK,
            asset=USDC,
            amount_micro=PRICE,
            pay_to=self.seller,
            max_timeout_s=60,
            name="USDC",
            version="2",
        )

    def pay(self, offer: EvmOffer | None = None) -> Payload:
        """A header as x402's own client makes it, read."""
        accepted = PaymentRequirements.model_validate(requirements(offer or self.offer))
        client = ExactEvmClientScheme(EthAccountSigner(self.buyer))
        inner = client.create_payment_payload(accepted)
        whole = PaymentPayload(x402_version=2, payload=inner, accepted=accepted)
        text = whole.model_dump_json(by_alias=True, exclude_none=True)
        found = read_header(base64.b64encode(text.encode()))
        assert isinstance(found, Payload)
        return found

    async def verified(self, offer: EvmOffer | None = None) -> EvmPayment:
        payload = await asyncio.to_thread(self.pay, offer)
        found = await self.facilitator().verify(payload, offer or self.offer)
        assert isinstance(found, EvmPayment), found
        return found

    async def settled(self, payment: EvmPayment) -> Settled:
        outcome = await self.facilitator().settle(payment)
        assert isinstance(outcome, Settled), outcome
        assert outcome.landed_micro == payment.amount_micro
        return outcome

    def earned(self) -> int:
        """What the seller got."""
        data = "0x70a08231" + self.seller[2:].rjust(64, "0")
        return int(self.evm.ask("eth_call", {"to": USDC, "data": data}, "latest"), 16)

    def send(self, sender: LocalAccount, data: str) -> str:
        """A call of the token by anybody; its hash."""
        count = self.evm.ask("eth_getTransactionCount", sender.address, "latest")
        call = {
            "type": 2,
            "chainId": 84532,
            "nonce": int(count, 16),
            "to": USDC,
            "value": 0,
            "data": data,
            "gas": 150_000,
            "maxFeePerGas": 4_000_000,
            "maxPriorityFeePerGas": 1_000_000,
        }
        raw = sender.sign_transaction(call).raw_transaction
        return self.evm.ask("eth_sendRawTransaction", "0x" + bytes(raw).hex())

    def carry(self, payment: EvmPayment) -> str:
        """Somebody else brings the authorization to the chain."""
        other = Account.create()
        self.evm.fund(other.address, wei=ETHER // 1000)
        return self.send(other, "0x" + rules.call_data(payment).hex())

    def cancel(self, payment: EvmPayment) -> None:
        """The buyer takes the authorization back."""
        signed = self.buyer.sign_typed_data(
            domain_data={
                "name": "USDC",
                "version": "2",
                "chainId": 84532,
                "verifyingContract": USDC,
            },
            message_types={
                "CancelAuthorization": [
                    {"name": "authorizer", "type": "address"},
                    {"name": "nonce", "type": "bytes32"},
                ]
            },
            message_data={
                "authorizer": self.buyer.address,
                "nonce": bytes.fromhex(payment.nonce[2:]),
            },
        )
        selector = keccak(text="cancelAuthorization(address,bytes32,uint8,bytes32,bytes32)")[:4]
        words = payment.payer[2:].rjust(64, "0") + payment.nonce[2:]
        parts = b"".join(each.to_bytes(32, "big") for each in (signed.v, signed.r, signed.s))
        other = Account.create()
        self.evm.fund(other.address, wei=ETHER // 1000)
        self.send(other, "0x" + selector.hex() + words + parts.hex())


@pytest_asyncio.fixture
async def shop(evm: Evm) -> AsyncIterator[Shop]:
    async with aiohttp.ClientSession() as session:
        rpc = FaultyRpc(JsonRpc(session, evm.rpc))
        yield await asyncio.to_thread(Shop(evm, rpc).open, 10 * PRICE)


async def test_a_stock_clients_payment_verifies_and_settles(shop: Shop) -> None:
    payment = await shop.verified()
    assert payment.payer == shop.buyer.address.lower()
    outcome = await shop.settled(payment)
    assert shop.earned() == PRICE
    assert await shop.facilitator().reconcile(payment) == outcome


async def test_what_has_been_spent_does_not_verify(shop: Shop) -> None:
    payload = shop.pay()
    payment = await shop.facilitator().verify(payload, shop.offer)
    assert isinstance(payment, EvmPayment)
    await shop.settled(payment)
    again = await shop.facilitator().verify(payload, shop.offer)
    assert isinstance(again, Refused) and again.code is Code.ALREADY_USED


async def test_five_payments_race_for_money_for_one_and_one_is_settled(shop: Shop) -> None:
    offer = replace(shop.offer, amount_micro=7 * PRICE)
    payments = [await shop.verified(offer) for _ in range(5)]
    facilitator = shop.facilitator()
    outcomes = await asyncio.gather(*(facilitator.settle(each) for each in payments))
    assert sum(isinstance(each, Settled) for each in outcomes) == 1
    refused = [each.code for each in outcomes if isinstance(each, Refused)]
    assert refused == [Code.INSUFFICIENT_BALANCE] * 4
    assert shop.earned() == 7 * PRICE
    # Tried out again in their turn, the losers cost us no gas.
    assert shop.evm.ask("eth_getTransactionCount", shop.relay.address, "latest") == "0x1"


@pytest.mark.slow
async def test_twenty_payments_at_once_all_settle(shop: Shop) -> None:
    offer = replace(shop.offer, amount_micro=7)
    payments = [await shop.verified(offer) for _ in range(20)]
    outcomes = await asyncio.gather(*(shop.settled(each) for each in payments))
    assert len({each.transaction for each in outcomes}) == 20
    assert shop.earned() == 140
    # One count of the chain's, the rest from memory: nobody waits for another's receipt.
    assert shop.rpc.calls.count("eth_getTransactionCount") == 1


async def test_a_call_that_reverts_is_no_payment(shop: Shop) -> None:
    offer = replace(shop.offer, amount_micro=7 * PRICE)
    first, second = await shop.verified(offer), await shop.verified(offer)
    await shop.settled(first)
    shop.rpc.fail("eth_call", says("0x"))
    # What reads after the revert is real again.
    original = shop.rpc.rpc

    async def heals(faulty: FaultyRpc, params: Sequence[Any]) -> Any:
        faulty.heal()
        return await original("eth_sendRawTransaction", params)

    shop.rpc.fail("eth_sendRawTransaction", heals)
    outcome = await shop.facilitator().settle(second)
    assert isinstance(outcome, Refused), outcome
    assert outcome.code is Code.FAILED_ON_CHAIN
    receipt = shop.evm.receipt(outcome.transaction)
    assert receipt["status"] == "0x0"
    assert shop.earned() == 7 * PRICE


async def test_too_little_money_is_refused_before_anything_is_sent(shop: Shop) -> None:
    offer = replace(shop.offer, amount_micro=11 * PRICE)
    found = await shop.facilitator().verify(shop.pay(offer), offer)
    assert isinstance(found, Refused) and found.code is Code.INSUFFICIENT_BALANCE


async def test_who_carries_an_authorization_first_pays_it_all_the_same(shop: Shop) -> None:
    payment = await shop.verified()
    theirs: list[str] = []

    async def overtaken(faulty: FaultyRpc, params: Sequence[Any]) -> Any:
        theirs.append(await asyncio.to_thread(shop.carry, payment))
        return await faulty.rpc("eth_sendRawTransaction", params)

    shop.rpc.fail("eth_sendRawTransaction", overtaken)
    outcome = await shop.settled(payment)
    assert outcome.transaction == theirs[0]
    assert shop.earned() == PRICE


async def test_a_canceled_authorization_is_refused(shop: Shop) -> None:
    payment = await shop.verified()
    await asyncio.to_thread(shop.cancel, payment)
    for outcome in (
        await shop.facilitator().reconcile(payment),
        await shop.facilitator().settle(payment),
    ):
        assert isinstance(outcome, Refused) and outcome.code is Code.ALREADY_USED
    assert shop.earned() == 0


async def test_the_nonce_after_a_failed_broadcast_is_right(shop: Shop) -> None:
    """Rejected, lost before the node and lost after it: whatever it was, the next one settles."""

    async def rejected(_: FaultyRpc, __: Sequence[Any]) -> Any:
        raise RpcRefused(-32000, "transaction underpriced")

    lost_after = answers_nothing_after("eth_sendRawTransaction")
    kinds: list[tuple[Any, type[Outcome]]] = [
        (rejected, Refused),
        (is_away, Refused),
        (is_lost, Ambiguous),
        (lost_after, Settled),
        (hangs, Ambiguous),
    ]
    await shop.settled(await shop.verified())
    for fault, kind in kinds:
        payment = await shop.verified()
        shop.rpc.fail("eth_sendRawTransaction", fault)
        outcome = await shop.facilitator(budget_s=0.4).settle(payment)
        assert isinstance(outcome, kind), (fault, outcome)
        shop.rpc.heal()
        await shop.settled(await shop.verified())
    assert shop.earned() == (1 + len(kinds) + 1) * PRICE


async def test_a_nonce_that_somebody_else_took_is_asked_for_again(shop: Shop) -> None:
    await shop.settled(await shop.verified())
    await asyncio.to_thread(shop.send, shop.relay, "0x06fdde03")
    await shop.settled(await shop.verified())


async def test_who_is_cancelled_while_he_broadcasts_leaves_a_right_nonce(shop: Shop) -> None:
    await shop.settled(await shop.verified())
    payment = await shop.verified()
    shop.rpc.fail("eth_sendRawTransaction", hangs)
    task = asyncio.create_task(shop.facilitator().settle(payment))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    shop.rpc.heal()
    await shop.settled(await shop.verified())


async def test_an_empty_purse_is_our_trouble_and_not_the_payers(shop: Shop) -> None:
    payment = await shop.verified()
    shop.relay = Account.create()
    shop.__post_init__()
    outcome = await shop.facilitator().settle(payment)
    assert isinstance(outcome, Refused)
    assert outcome.is_ours and outcome.code is Code.FACILITATOR_OUT_OF_FUNDS


async def test_gas_that_is_too_dear_is_our_trouble_and_nothing_is_sent(shop: Shop) -> None:
    payment = await shop.verified()
    shop.rpc.fail("eth_gasPrice", says(hex(10**9)))
    outcome = await shop.facilitator().settle(payment)
    assert isinstance(outcome, Refused)
    assert outcome.is_ours and outcome.code is Code.NETWORK_FEES_TOO_HIGH
    assert "eth_sendRawTransaction" not in shop.rpc.calls


@pytest.mark.slow
@pytest.mark.parametrize("fault", [hangs, is_lost, says({"status": "0x1"}), says("garbage")])
async def test_a_receipt_that_cannot_be_read_is_ambiguous_until_it_can(
    shop: Shop, fault: Any
) -> None:
    payment = await shop.verified()
    shop.rpc.fail("eth_getTransactionReceipt", fault)
    outcome = await shop.facilitator(budget_s=0.3).settle(payment)
    assert isinstance(outcome, Ambiguous) and outcome.transaction
    shop.rpc.heal()
    found = await shop.facilitator().reconcile(payment)
    assert found == Settled(transaction=outcome.transaction, landed_micro=PRICE)


async def test_what_is_unspent_is_open_while_it_is_valid_and_dead_afterwards(shop: Shop) -> None:
    payment = await shop.verified()
    assert isinstance(await shop.facilitator().reconcile(payment), Ambiguous)
    before = payment.valid_before_s + 59
    shop.rpc.fail("eth_getBlockByNumber", says({"timestamp": hex(before)}))
    assert isinstance(await shop.facilitator().reconcile(payment), Ambiguous)
    shop.rpc.fail("eth_getBlockByNumber", says({"timestamp": hex(before + 1)}))
    dead = await shop.facilitator().reconcile(payment)
    assert isinstance(dead, Refused) and dead.code is Code.EXPIRED


@pytest.mark.slow
@pytest.mark.parametrize("method", ["eth_call", "eth_blockNumber"])
@pytest.mark.parametrize("fault", [hangs, is_lost, is_away])
async def test_a_chain_that_is_away_refuses_nobody_and_grants_nothing(
    shop: Shop, method: str, fault: Any
) -> None:
    shop.rpc.fail(method, fault)
    begun = time.monotonic()
    with pytest.raises(Problem) as caught:
        await shop.facilitator(budget_s=0.3).verify(shop.pay(), shop.offer)
    assert caught.value.code is ProblemCode.PAYMENT_UNAVAILABLE
    assert caught.value.retry_after_s
    assert time.monotonic() - begun < 2


@pytest.mark.slow
async def test_another_chains_payment_is_refused(shop: Shop) -> None:
    other = replace(shop.offer, network="eip155:8453")
    carrier = Embedded({"eip155:8453": shop.carrier})
    found = await carrier.verify(shop.pay(), other)
    assert isinstance(found, Refused) and found.code is Code.WRONG_NETWORK
    accepted = replace(shop.pay(), accepted=shop.pay(other).accepted)
    found = await carrier.verify(accepted, other)
    assert isinstance(found, Refused) and found.code is Code.BAD_SIGNATURE


@pytest.mark.slow
async def test_verify_and_settle_take_milliseconds(shop: Shop) -> None:
    rows: list[dict[str, float]] = []
    facilitator, offer = shop.facilitator(), replace(shop.offer, amount_micro=1)
    for _ in range(30):
        payload = await asyncio.to_thread(shop.pay, offer)
        begun = time.perf_counter()
        payment = await facilitator.verify(payload, offer)
        verified = time.perf_counter()
        assert isinstance(payment, EvmPayment)
        assert isinstance(await facilitator.settle(payment), Settled)
        took = {"verify": verified - begun, "settle": time.perf_counter() - verified}
        rows.append({name: seconds * 1000 for name, seconds in took.items()} | shop.rpc.spent_ms)
    shown = {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]}
    print("median ms on minievm:", shown)
    assert shown["verify"] < 200
