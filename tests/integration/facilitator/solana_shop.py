"""A shop on a minisol: a buyer with x402's own client, a seller, the embedded facilitator."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass, field

from solders.keypair import Keypair
from x402.mechanisms.svm.exact.client import ExactSvmScheme
from x402.mechanisms.svm.signers import KeypairSigner
from x402.schemas import PaymentPayload, PaymentRequirements

from parhelion.chain.local.minisol import CAIP2, USDC_MINT
from parhelion.payments.facilitator import (
    Embedded,
    EmbeddedSolana,
    Payload,
    SolanaOffer,
    SolanaPayment,
    read_header,
    requirements,
)
from parhelion.testing.minisol import MinisolProcess
from tests.integration.facilitator.faults import FaultyRpc

PRICE = 10_000
SOL = 10**9
SLOT_MS = 40
"""A tenth of the real one: a blockhash lives for 6 s here."""


@dataclass
class Shop:
    """A buyer, a seller, and the facilitator between them."""

    minisol: MinisolProcess
    rpc: FaultyRpc
    buyer: Keypair = field(default_factory=Keypair)
    seller: Keypair = field(default_factory=Keypair)
    fee_payer: Keypair = field(default_factory=Keypair)
    carrier: EmbeddedSolana = field(init=False)

    def __post_init__(self) -> None:
        self.carrier = EmbeddedSolana(self.rpc, self.fee_payer, look_every_s=0.01)

    def open(self, usdc_micro: int) -> Shop:
        self.minisol.fund(str(self.buyer.pubkey()), usdc_micro=usdc_micro)
        self.minisol.fund(str(self.seller.pubkey()), usdc_micro=1)
        self.minisol.fund(str(self.fee_payer.pubkey()), lamports=SOL)
        return self

    def facilitator(self, *, budget_s: float = 10.0) -> Embedded:
        networks = {CAIP2: self.carrier}
        return Embedded(networks, verify_budget_s=budget_s, settle_budget_s=budget_s)

    @property
    def offer(self) -> SolanaOffer:
        return SolanaOffer(
            network=CAIP2,
            asset=USDC_MINT,
            amount_micro=PRICE,
            pay_to=str(self.seller.pubkey()),
            max_timeout_s=60,
            fee_payer=str(self.fee_payer.pubkey()),
        )

    def pay(self, offer: SolanaOffer | None = None) -> Payload:
        """A header as x402's own client makes it, read."""
        accepted = PaymentRequirements.model_validate(requirements(offer or self.offer))
        client = ExactSvmScheme(KeypairSigner(self.buyer), rpc_url=self.minisol.url)
        inner = client.create_payment_payload(accepted)
        whole = PaymentPayload(x402_version=2, payload=inner, accepted=accepted)
        text = whole.model_dump_json(by_alias=True, exclude_none=True)
        found = read_header(base64.b64encode(text.encode()))
        assert isinstance(found, Payload)
        return found

    async def verified(self, offer: SolanaOffer | None = None) -> SolanaPayment:
        payload = await asyncio.to_thread(self.pay, offer)
        found = await self.facilitator().verify(payload, offer or self.offer)
        assert isinstance(found, SolanaPayment), found
        return found

    def earned(self) -> int:
        """What the seller got."""
        owner, of = str(self.seller.pubkey()), {"mint": USDC_MINT}
        how = {"encoding": "jsonParsed", "commitment": "processed"}
        held = self.minisol.call("getTokenAccountsByOwner", owner, of, how)["value"]
        amount = held[0]["account"]["data"]["parsed"]["info"]["tokenAmount"]["amount"]
        return int(amount) - 1

    def lamports(self) -> int:
        return self.minisol.call(
            "getBalance", str(self.fee_payer.pubkey()), {"commitment": "processed"}
        )["value"]
