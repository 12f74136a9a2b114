"""Stock x402 parts pointed at a minisol: a buyer, a facilitator, and offers for them."""

from __future__ import annotations

from dataclasses import dataclass, field

from solders.keypair import Keypair
from x402.mechanisms.svm.exact.client import ExactSvmScheme
from x402.mechanisms.svm.exact.facilitator import ExactSvmScheme as Facilitator
from x402.mechanisms.svm.signers import FacilitatorKeypairSigner, KeypairSigner
from x402.schemas import PaymentPayload, PaymentRequirements

from parhelion.chain.local.minisol import CAIP2, USDC_MINT
from parhelion.testing.minisol import MinisolProcess

SOL = 10**9
USDC = 10**6


@dataclass
class Market:
    """A buyer with money, a seller with an account, and who pays the fees."""

    minisol: MinisolProcess
    buyer: Keypair = field(default_factory=Keypair)
    seller: Keypair = field(default_factory=Keypair)
    fee_payer: Keypair = field(default_factory=Keypair)

    def open(self, usdc_micro: int = 10 * USDC) -> Market:
        """Give everybody what he needs."""
        self.minisol.fund(str(self.buyer.pubkey()), usdc_micro=usdc_micro)
        self.minisol.fund(str(self.seller.pubkey()), usdc_micro=1)
        self.minisol.fund(str(self.fee_payer.pubkey()), lamports=SOL)
        return self

    def offer(self, amount_micro: int = 10_000, blockhash: str = "") -> PaymentRequirements:
        """What a seller asks for."""
        extra = {"feePayer": str(self.fee_payer.pubkey())}
        if blockhash:
            extra["recentBlockhash"] = blockhash
        return PaymentRequirements(
            scheme="exact",
            network=CAIP2,
            asset=USDC_MINT,
            amount=str(amount_micro),
            pay_to=str(self.seller.pubkey()),
            max_timeout_seconds=60,
            extra=extra,
        )

    def pay(self, offer: PaymentRequirements) -> PaymentPayload:
        """What a stock client makes of an offer."""
        scheme = ExactSvmScheme(KeypairSigner(self.buyer), rpc_url=self.minisol.url)
        payload = scheme.create_payment_payload(offer)
        return PaymentPayload(x402_version=2, payload=payload, accepted=offer)

    def facilitator(self) -> Facilitator:
        """A stock facilitator, with no memory of what it has settled."""
        return Facilitator(FacilitatorKeypairSigner(self.fee_payer, rpc_url=self.minisol.url))

    def signed(self, payment: PaymentPayload) -> str:
        """A payment's transaction with the fee payer's signature, in base64."""
        signer = FacilitatorKeypairSigner(self.fee_payer, rpc_url=self.minisol.url)
        text = payment.payload["transaction"]
        return signer.sign_transaction(text, str(self.fee_payer.pubkey()), CAIP2)
