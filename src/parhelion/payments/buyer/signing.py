"""One payment of one offer: signed, and then held against every rule of our own facilitator.

What we refuse to carry for others we do not sign either; and what comes out of that judgement is
what the chain is asked for later. Import it lazily: a payment loads its chain's libraries.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from parhelion.chain.wallet import Wallet
from parhelion.identity import Entropy
from parhelion.payments.buyer.offers import Choice, Offered
from parhelion.payments.facilitator.offers import EvmOffer, SolanaOffer
from parhelion.payments.facilitator.outcomes import EvmPayment, Payment, Refused
from parhelion.payments.x402.authorization import NONCE_BYTES, authorization
from parhelion.payments.x402.networks import Family
from parhelion.payments.x402.offers import IDENTIFIER, VERSION, identifier_declaration
from parhelion.words import Problem, ProblemCode, Record

MEMO_BYTES = 16
"""Where a seller gives no memo: two equal payments within one blockhash are else one."""

IDENTIFIER_BYTES = 16


class Signed(Record, frozen=True, kw_only=True):
    """A payment ready to be sent: the header's value, and what to look for on the chain."""

    choice: Choice
    header: str
    payment: Payment


def sign(
    choice: Choice,
    offered: Offered,
    wallet: Wallet,
    *,
    now_s: int,
    entropy: Entropy,
    blockhash: str = "",
    seen_block: int = 0,
) -> Signed:
    """The wallet's payment of an offer; Problem for one that our own rules would refuse."""
    if choice.network.family is Family.SOLANA:
        payload, payment = _on_solana(choice, wallet, blockhash, entropy)
    else:
        payload, payment = _on_evm(choice, wallet, now_s, seen_block, entropy)
    whole: dict[str, Any] = {
        "x402Version": VERSION,
        "payload": payload,
        "accepted": choice.accepted,
    }
    if offered.resource is not None:
        whole["resource"] = offered.resource
    if offered.names_payments:
        declared = identifier_declaration()
        declared["info"] = {**declared["info"], "id": f"pay_{entropy(IDENTIFIER_BYTES).hex()}"}
        whole["extensions"] = {IDENTIFIER: declared}
    header = base64.b64encode(msgspec.json.encode(whole)).decode()
    return Signed(choice=choice, header=header, payment=payment)


def _on_solana(
    choice: Choice, wallet: Wallet, blockhash: str, entropy: Entropy
) -> tuple[dict[str, Any], Payment]:
    from parhelion.chain.wallet import solana
    from parhelion.payments.facilitator.solana import judge

    memo = choice.memo or entropy(MEMO_BYTES).hex()
    wire = solana.payment(
        wallet,
        mint=choice.network.token,
        decimals=choice.network.decimals,
        amount_micro=choice.amount_micro,
        pay_to=choice.pay_to,
        fee_payer=choice.fee_payer,
        memo=memo,
        blockhash=blockhash,
    )
    offer = SolanaOffer(
        network=choice.network.id,
        asset=choice.network.token,
        amount_micro=choice.amount_micro,
        pay_to=choice.pay_to,
        max_timeout_s=choice.timeout_s,
        fee_payer=choice.fee_payer,
        memo=memo,
        decimals=choice.network.decimals,
    )
    return {"transaction": base64.b64encode(wire).decode()}, _approved(judge(wire, offer))


def _on_evm(
    choice: Choice, wallet: Wallet, now_s: int, seen_block: int, entropy: Entropy
) -> tuple[dict[str, Any], Payment]:
    from parhelion.payments.facilitator import evm

    offer = EvmOffer(
        network=choice.network.id,
        asset=choice.network.token,
        amount_micro=choice.amount_micro,
        pay_to=choice.pay_to,
        max_timeout_s=choice.timeout_s,
        name=choice.network.token_name,
        version=choice.network.token_version,
    )
    nonce = "0x" + entropy(NONCE_BYTES).hex()
    draft = EvmPayment(
        network=offer.network,
        asset=offer.asset.lower(),
        payer=wallet.evm.lower(),
        payee=offer.pay_to.lower(),
        amount_micro=offer.amount_micro,
        key=f"{wallet.evm.lower()}:{nonce}",
        nonce=nonce,
        valid_after_s=0,
        valid_before_s=now_s + choice.timeout_s,
        signature=b"",
    )
    signature = wallet.sign_digest(evm.digest(draft, offer))
    payload: dict[str, Any] = {
        "signature": "0x" + signature.hex(),
        "authorization": authorization(
            offer, wallet.evm, nonce=nonce, valid_before_s=draft.valid_before_s
        ),
    }
    judged = _approved(evm.judge(payload, offer, now_s))
    return payload, msgspec.structs.replace(judged, seen_block=seen_block)


def _approved(found: Payment | Refused) -> Payment:
    if isinstance(found, Refused):
        raise Problem(
            ProblemCode.PAYMENT_INVALID,
            f"the seller's offer cannot be paid safely ({found.code}): {found.reason}",
            hint="nothing was sent, nothing was paid",
        )
    return found
