"""A shop on an EVM node: a buyer with x402's own client, a seller, the embedded facilitator."""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import dataclass, field

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils import keccak
from x402.mechanisms.evm.exact import ExactEvmClientScheme
from x402.mechanisms.evm.signers import EthAccountSigner
from x402.schemas import PaymentPayload, PaymentRequirements

from parhelion.payments.facilitator import (
    Embedded,
    EmbeddedEvm,
    EvmOffer,
    EvmPayment,
    Payload,
    Settled,
    read_header,
    requirements,
)
from parhelion.payments.facilitator import evm as rules
from tests.integration.chain.minievm.processes import USDC, Evm
from tests.integration.facilitator.faults import FaultyRpc

NETWORK = "eip155:84532"
PRICE = 10_000
ETHER = 10**18


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
        return self.evm.usdc(self.seller)

    def send(self, sender: LocalAccount, data: str) -> str:
        """A call of the token by anybody, in a block; its hash."""
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
        # anvil answers before it has mined.
        sent = self.evm.ask("eth_sendRawTransaction", "0x" + bytes(raw).hex())
        return str(self.evm.receipt(sent)["transactionHash"])

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
