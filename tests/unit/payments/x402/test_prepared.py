"""What is prepared for a wallet is a payment once it is signed, and says what it is."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from solders.keypair import Keypair
from solders.message import to_bytes_versioned
from solders.transaction import VersionedTransaction

from parhelion.chain.wallet import Wallet
from parhelion.chain.wallet import solana as ours
from parhelion.config import X402Network
from parhelion.payments.facilitator import evm, solana
from parhelion.payments.facilitator.outcomes import Code, EvmPayment, Refused, SolanaPayment
from parhelion.payments.x402 import Desk, Hint, PaymentRequired, payees, payment_required
from parhelion.payments.x402.networks import Network
from parhelion.payments.x402.offers import for_facilitator
from parhelion.payments.x402.prepared import (
    BLOCKHASH_LIFE_S,
    SIGNING_S,
    Prepared,
    Transaction,
    TypedData,
    check_holds,
    check_payer,
    for_evm,
    for_solana,
    offer_on,
    spoken,
)
from parhelion.payments.x402.prices import topup_price
from parhelion.words import AssetClass, Problem, ProblemCode

SELLER, FEES, BUYER = (Keypair.from_seed(bytes([each] * 32)) for each in (1, 2, 3))
ACCOUNT = Account.from_key(bytes([5] * 32))
EVM_PAY_TO = "0x" + "Ab" * 20
NOW_MS = 1_800_000_000_000
BLOCKHASH = "EkSnNWid2cvwEVnVx9aBqawnmiCNiDgp3gUdkDPTKN1N"


def world(asset_class: AssetClass) -> tuple[Network, Network, PaymentRequired]:
    rpc = {"rpc_url": "http://127.0.0.1:1"}
    settings: list[Any] = [
        {"id": "solana-testnet", "pay_to": str(SELLER.pubkey())},
        {"id": "base-sepolia", "pay_to": EVM_PAY_TO},
    ]
    made = payees(
        tuple(X402Network(**each, **rpc, fee_payer_key_file="k") for each in settings), asset_class
    )
    hint = Hint(blockhash=BLOCKHASH, last_valid_block_height=7)
    desks = (Desk(payee=made[0], fee_payer=str(FEES.pubkey()), hint=hint), Desk(payee=made[1]))
    required = payment_required(
        topup_price("0.25"), desks, url="http://h/x", now_ms=NOW_MS, entropy=bytes(10)
    )
    return made[0].network, made[1].network, required


SOLANA, EVM, REQUIRED = world(AssetClass.LOCAL)


def on_evm(entropy: Any = lambda size: bytes(range(size))) -> Prepared:
    address = ACCOUNT.address.lower()
    return for_evm(REQUIRED, EVM, address, now_ms=NOW_MS, entropy=entropy)


def on_solana(hint_age_s: float = 0.0) -> Prepared:
    payer = str(BUYER.pubkey())
    return for_solana(REQUIRED, SOLANA, payer, now_ms=NOW_MS, hint_age_s=hint_age_s)


def judged_evm(prepared: Prepared, at_s: float) -> EvmPayment | Refused:
    assert isinstance(prepared.sign, TypedData)
    data = prepared.sign.typed_data
    signed = ACCOUNT.sign_message(encode_typed_data(full_message=data))
    payload = {"signature": "0x" + signed.signature.hex(), "authorization": data["message"]}
    offer: Any = for_facilitator(prepared.accepted, EVM)
    return evm.judge(payload, offer, at_s)


def test_typed_data_that_a_wallet_signs_is_the_payment_until_it_expires_and_no_longer() -> None:
    prepared = on_evm()
    for at_s in (NOW_MS / 1000, prepared.expires_at_ms / 1000):
        payment = judged_evm(prepared, at_s)
        assert isinstance(payment, EvmPayment)
        assert (payment.payer, payment.amount_micro) == (ACCOUNT.address.lower(), 250_000)
        assert payment.payee == EVM_PAY_TO.lower()
    late = judged_evm(prepared, prepared.expires_at_ms / 1000 + 1)
    assert isinstance(late, Refused) and late.code is Code.EXPIRED
    assert prepared.expires_at_ms == NOW_MS + 1000 * SIGNING_S


def test_each_authorization_has_a_nonce_of_its_own_from_the_entropy() -> None:
    first, other = (on_evm(lambda size, by=by: bytes([by]) * size).sign for by in (1, 2))
    assert isinstance(first, TypedData) and isinstance(other, TypedData)
    assert first.typed_data["message"]["nonce"] == "0x" + "01" * 32
    assert other.typed_data["message"]["nonce"] == "0x" + "02" * 32


def test_a_transaction_that_a_wallet_signs_is_the_payment_and_without_it_is_none() -> None:
    prepared = on_solana()
    assert isinstance(prepared.sign, Transaction)
    offer: Any = for_facilitator(prepared.accepted, SOLANA)
    empty = solana.judge(prepared.sign.wire, offer)
    assert isinstance(empty, Refused) and empty.code is Code.BAD_SIGNATURE
    given = VersionedTransaction.from_bytes(prepared.sign.wire)
    signature = BUYER.sign_message(to_bytes_versioned(given.message))
    whole = VersionedTransaction.populate(given.message, [given.signatures[0], signature])
    payment = solana.judge(bytes(whole), offer)
    assert isinstance(payment, SolanaPayment)
    assert (payment.payer, payment.amount_micro) == (str(BUYER.pubkey()), 250_000)
    assert payment.blockhash == BLOCKHASH


def test_our_own_command_and_a_browser_sign_the_same_bytes() -> None:
    offer = offer_on(REQUIRED, SOLANA)
    path: Any = None
    wallet = Wallet(path, str(BUYER.pubkey()), ACCOUNT.address, bytes([3] * 32), bytes(32))
    paid = ours.payment(
        wallet,
        mint=offer.asset,
        decimals=6,
        amount_micro=250_000,
        pay_to=offer.pay_to,
        fee_payer=offer.extra["feePayer"],
        memo=offer.extra["memo"],
        blockhash=BLOCKHASH,
    )
    prepared = on_solana().sign
    assert isinstance(prepared, Transaction)
    messages = [
        to_bytes_versioned(VersionedTransaction.from_bytes(each).message)
        for each in (paid, prepared.wire)
    ]
    assert messages[0] == messages[1]


def test_an_older_blockhash_leaves_less_time() -> None:
    fresh, old = on_solana(0.0).expires_at_ms, on_solana(20.0).expires_at_ms
    assert fresh - old == 20_000
    assert NOW_MS < old < fresh < NOW_MS + 1000 * BLOCKHASH_LIFE_S


def test_the_words_say_amount_payee_network_and_end() -> None:
    said = on_solana().words
    assert said == (
        "Pay 0.25 USDC for $0.25 of credits.",
        f"It goes to {SELLER.pubkey()}.",
        "It is paid on Solana testnet (LOCAL). It is play money on a chain of this machine.",
        "It is good until 08:00:55 UTC; nothing moves before it is signed and sent.",
    )
    _, real, required = world(AssetClass.TEST)
    told = for_evm(required, real, ACCOUNT.address, now_ms=NOW_MS, entropy=bytes)
    assert told.words[2] == "It is paid on Base Sepolia."
    assert spoken(EVM) == "Base Sepolia (LOCAL)"


@pytest.mark.parametrize(
    ("network", "address"),
    [
        (SOLANA, ACCOUNT.address),
        (SOLANA, "1" * 31),
        (SOLANA, str(SELLER.pubkey())),
        (SOLANA, str(FEES.pubkey())),
        (EVM, str(BUYER.pubkey())),
        (EVM, "0x" + "g" * 40),
        (EVM, EVM_PAY_TO.lower()),
        (EVM, ""),
    ],
)
def test_what_cannot_pay_is_told_before_its_chain_is_asked(network: Network, address: str) -> None:
    with pytest.raises(Problem) as caught:
        check_payer(network, address, offer_on(REQUIRED, network))
    assert (caught.value.code, caught.value.param) == (ProblemCode.INVALID_REQUEST, "address")
    assert caught.value.hint


def test_a_wallet_with_too_little_hears_both_amounts() -> None:
    price = topup_price("0.25")
    check_holds(SOLANA, price, 250_000, has_account=True)
    for held, has_account, says in (
        (249_999, True, "this wallet has 0.249999 USDC on Solana testnet (LOCAL); this costs"),
        (0, True, "has 0 USDC on"),
        (0, False, "has no USDC account yet"),
    ):
        with pytest.raises(Problem) as caught:
            check_holds(SOLANA, price, held, has_account=has_account)
        assert caught.value.code is ProblemCode.INSUFFICIENT_CREDIT
        assert says in caught.value.message and "this costs 0.25 USDC" in caught.value.message
        assert "faucet" in caught.value.hint


def test_a_real_network_names_no_faucet() -> None:
    _, real, _ = world(AssetClass.TEST)
    with pytest.raises(Problem) as caught:
        check_holds(real, topup_price("1"), 0, has_account=True)
    assert "faucet" not in caught.value.hint
    assert "Base Sepolia" in caught.value.hint


def test_what_a_page_sends_is_as_long_as_a_header_may_be() -> None:
    prepared = on_solana()
    assert isinstance(prepared.sign, Transaction)
    assert len(base64.b64encode(prepared.sign.wire)) < 1_644
