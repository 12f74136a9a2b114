"""Offers as stock x402 clients read them, and payments as they make them."""

from __future__ import annotations

import base64
import json
import time
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.config import X402Network
from parhelion.payments import refuse_v1
from parhelion.payments.facilitator import evm, solana
from parhelion.payments.facilitator.offers import EvmOffer, SolanaOffer
from parhelion.payments.facilitator.outcomes import EvmPayment, SolanaPayment
from parhelion.payments.x402 import (
    CUSTODY,
    Desk,
    Hint,
    Payment,
    PaymentRequired,
    accept,
    payees,
    payment_required,
    read,
    request_price,
)
from parhelion.payments.x402.payload import identifier_of
from parhelion.words import AssetClass, Problem, ProblemCode, Rate

RATE = Rate(
    model="m", asset="USDC.test", version=1, prompt_micro=4_000_000, completion_micro=4_000_000
)
PAY_TO = "7oYKnwHxzXitcxJuPV7EP9mPaLbkubgcT3jZa63E1gWA"
FEE_PAYER = "4uQeVj5tqViQh7yWWGStvkEG1Zmhx6uasJtWCJziofM"
EVM_PAY_TO = "0x" + "Ab" * 20
BLOCKHASH = "EkSnNWid2cvwEVnVx9aBqawnmiCNiDgp3gUdkDPTKN1N"
NOW_MS = 1_800_000_000_000
PAYEES = payees(
    (
        X402Network(id="solana-devnet", pay_to=PAY_TO, fee_payer_key_file="k"),
        X402Network(id="base-sepolia", pay_to=EVM_PAY_TO, fee_payer_key_file="k"),
    ),
    AssetClass.TEST,
)
NETWORKS = {each.network.id: each.network for each in PAYEES}


def offers(max_tokens: int = 1_000, entropy: bytes = bytes(10), **more: Any) -> PaymentRequired:
    solana_payee, evm_payee = PAYEES
    hint = Hint(blockhash=BLOCKHASH, last_valid_block_height=7)
    desks = (Desk(payee=solana_payee, fee_payer=FEE_PAYER, hint=hint), Desk(payee=evm_payee))
    price = request_price(RATE, 420, max_tokens, 1_000)
    return payment_required(
        price, desks, url="http://h/v1/chat/completions", now_ms=NOW_MS, entropy=entropy, **more
    )


def test_stock_clients_read_the_header() -> None:
    from x402.http.utils import decode_payment_required_header

    required = offers()
    told = decode_payment_required_header(required.header().decode())
    assert told.x402_version == 2
    first, second = told.accepts
    assert (first.amount, second.amount) == ("5680", "5680")
    assert first.extra["feePayer"] == FEE_PAYER and first.extra["recentBlockhash"] == BLOCKHASH
    assert (second.extra["name"], second.extra["version"]) == ("USDC", "2")
    assert told.resource is not None and CUSTODY in (told.resource.description or "")
    assert "$0.00568" in required.error


def test_the_header_fits_where_servers_and_proxies_take_headers() -> None:
    assert len(offers().header()) < 4_096, "nginx gives all headers of an answer 4 or 8 kB"


def test_above_a_dollar_the_offer_says_that_stock_clients_refuse_and_what_fits() -> None:
    hint = offers(max_tokens=400_000).hint
    assert "stock x402 clients refuse" in hint and "max_tokens 249580 would fit" in hint
    assert "stock x402 clients refuse" not in offers().hint


def test_local_money_is_labelled_in_offer_description_and_message() -> None:
    local = payees(
        (
            X402Network(
                id="solana-testnet",
                pay_to=PAY_TO,
                fee_payer_key_file="k",
                rpc_url="http://127.0.0.1:1",
            ),
        ),
        AssetClass.LOCAL,
    )
    required = payment_required(
        request_price(RATE, 1, 1, 1_000),
        (Desk(payee=local[0], fee_payer=FEE_PAYER),),
        url="http://h",
        now_ms=NOW_MS,
        entropy=bytes(10),
    )
    assert required.error.startswith("LOCAL") and required.resource.description.startswith("LOCAL")
    assert required.accepts[0].extra["label"] == "LOCAL"
    assert "label" not in offers().accepts[0].extra


def test_a_refused_payment_gets_the_same_offers_and_the_reason() -> None:
    told = offers().refusing("the payer holds too little")
    assert "too little" in told.error and told.accepts == offers().accepts


# --- payments ---------------------------------------------------------------------------------


def evm_header(required: PaymentRequired, **more: Any) -> str:
    """What the stock client makes of our EVM offer."""
    from eth_account import Account
    from x402.client import x402ClientSync
    from x402.http.utils import (
        decode_payment_required_header,
        encode_payment_signature_header,
    )
    from x402.mechanisms.evm.exact.client import ExactEvmScheme

    client = x402ClientSync()
    signer = ExactEvmScheme(Account.from_key("0x" + "11" * 32))
    client.register("eip155:*", signer)
    told = decode_payment_required_header(required.header().decode())
    payload = client.create_payment_payload(told)  # type: ignore[arg-type]
    if more:
        payload = payload.model_copy(update=more)
    return encode_payment_signature_header(payload)


def solana_header(required: PaymentRequired) -> str:
    """What the stock client makes of our Solana offer; with mint and blockhash it asks no chain."""
    from solders.keypair import Keypair
    from solders.pubkey import Pubkey
    from x402.http.utils import encode_payment_signature_header
    from x402.mechanisms.svm.constants import TOKEN_PROGRAM_ADDRESS
    from x402.mechanisms.svm.exact.client import ExactSvmScheme
    from x402.mechanisms.svm.mint_cache import MintMetadata
    from x402.mechanisms.svm.signers import KeypairSigner
    from x402.schemas import PaymentPayload, PaymentRequirements

    first = json.loads(base64.b64decode(required.header()))["accepts"][0]
    told = PaymentRequirements.model_validate(first)
    scheme = ExactSvmScheme(KeypairSigner(Keypair.from_seed(bytes(32))), rpc_url="http://[::1]:1")
    program = Pubkey.from_string(TOKEN_PROGRAM_ADDRESS)
    scheme._mint_cache[(told.network, told.asset)] = MintMetadata(6, program)
    inner = scheme.create_payment_payload(told)
    payload = PaymentPayload(x402_version=2, payload=inner, accepted=told)
    return encode_payment_signature_header(payload)


def accepted(header: str, required: PaymentRequired | None = None) -> Payment:
    return accept(read(header), required or offers(), NETWORKS)


def test_the_stock_evm_clients_payment_is_ours_and_its_key_the_facilitators() -> None:
    payment = accepted(evm_header(offers()))
    assert isinstance(payment.offer, EvmOffer)
    judged = evm.judge(payment.payload.payload, payment.offer, time.time())
    assert isinstance(judged, EvmPayment)
    assert (judged.key, judged.amount_micro) == (payment.key, 5_680)


def test_the_stock_solana_clients_payment_is_ours_and_its_key_the_facilitators() -> None:
    payment = accepted(solana_header(offers()))
    assert isinstance(payment.offer, SolanaOffer)
    judged = solana.judge_payload(payment.payload.payload, payment.offer)
    assert isinstance(judged, SolanaPayment), judged
    assert (judged.key, judged.amount_micro) == (payment.key, 5_680)
    assert judged.blockhash == BLOCKHASH, "the hint saved a call"


def test_a_payment_of_an_older_402_of_the_same_price_is_taken_with_its_own_memo() -> None:
    older = offers(entropy=b"0123456789")
    payment = accepted(solana_header(older), offers(entropy=b"9876543210"))
    assert isinstance(payment.offer, SolanaOffer)
    assert payment.offer.memo == older.accepts[0].extra["memo"]
    assert not payment.requirement.extra.keys() & {"recentBlockhash", "lastValidBlockHeight"}


def test_another_signature_over_the_same_message_is_the_same_payment() -> None:
    header = solana_header(offers())

    def resigned(document: Any) -> None:
        raw = bytearray(base64.b64decode(document["payload"]["transaction"]))
        raw[1:129] = bytes(128)
        document["payload"]["transaction"] = base64.b64encode(raw).decode()

    assert accepted(edited(header, resigned)).key == accepted(header).key


@pytest.mark.parametrize("memo", [None, "mine", "offer_" + "Z" * 26, "offer_" + "0" * 27])
def test_a_memo_that_is_no_offers_of_ours_is_402(memo: str | None) -> None:
    def change(document: Any) -> None:
        document["accepted"]["extra"]["memo"] = memo
        if memo is None:
            del document["accepted"]["extra"]["memo"]

    with pytest.raises(Problem) as caught:
        accepted(edited(solana_header(offers()), change))
    assert caught.value.code is ProblemCode.PAYMENT_REQUIRED


@pytest.mark.parametrize("transaction", [None, 7, "", "AA==", "A" * 4_000, "!", "gAAA"])
def test_a_payload_without_a_transaction_is_400(transaction: Any) -> None:
    change = lambda d: d.update(payload={"transaction": transaction})  # noqa: E731
    with pytest.raises(Problem) as caught:
        accepted(edited(solana_header(offers()), change))
    assert caught.value.code is ProblemCode.PAYMENT_INVALID


@cache
def stock_header() -> str:
    """One payment of the stock EVM client, for tests that change it."""
    return evm_header(offers())


def edited(header: str, change: Any) -> str:
    document = json.loads(base64.b64decode(header))
    change(document)
    return base64.b64encode(json.dumps(document).encode()).decode()


CHANGES: dict[str, Any] = {
    "amount": lambda d: d["accepted"].update(amount="1"),
    "more": lambda d: d["accepted"].update(amount="5681"),
    "leading zero": lambda d: d["accepted"].update(amount="05680"),
    "payee": lambda d: d["accepted"].update(payTo="0x" + "cd" * 20),
    "asset": lambda d: d["accepted"].update(asset="0x" + "cd" * 20),
    "scheme": lambda d: d["accepted"].update(scheme="upto"),
    "network": lambda d: d["accepted"].update(network="eip155:8453"),
    "timeout": lambda d: d["accepted"].update(maxTimeoutSeconds=3_600),
    "domain": lambda d: d["accepted"]["extra"].update(name="USD Coin"),
    "more extra": lambda d: d["accepted"]["extra"].update(assetTransferMethod="permit2"),
    "flow": lambda d: d["accepted"]["extra"].pop("paymentFlow"),
    "memo": lambda d: d["accepted"]["extra"].update(memo="offer_" + "0" * 26),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_offer_that_is_not_ours_to_the_letter_is_402(change: Any) -> None:
    with pytest.raises(Problem) as caught:
        accepted(edited(stock_header(), change))
    assert caught.value.code is ProblemCode.PAYMENT_REQUIRED


def test_an_offer_for_another_request_of_ours_does_not_pay_for_this_one() -> None:
    cheap = evm_header(offers(max_tokens=1))
    with pytest.raises(Problem) as caught:
        accepted(cheap)
    assert "offered is '5680'" in caught.value.message


MALFORMED: dict[str, Any] = {
    "empty": "",
    "no base64": "!!!!",
    "not ascii": "é" * 40,
    "no JSON": base64.b64encode(b"{").decode(),
    "a list": base64.b64encode(b"[]").decode(),
    "a number": base64.b64encode(b"1").decode(),
    "deep": base64.b64encode(b'{"x402Version":2,"a":' + b"[" * 9_000).decode(),
    "no version": edited(base64.b64encode(b"{}").decode(), lambda d: d.update(accepted={})),
    "not utf-8": base64.b64encode(b'{"x402Version":2,"a":"\xff"}').decode(),
    "1 MB": "A" * 1_000_000,
    "version 3": base64.b64encode(b'{"x402Version":3}').decode(),
}


@pytest.mark.parametrize("header", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_header_is_400_and_says_so(header: str) -> None:
    with pytest.raises(Problem) as caught:
        read(header)
    assert caught.value.code is ProblemCode.PAYMENT_INVALID


def test_the_size_limit_is_named() -> None:
    with pytest.raises(Problem) as caught:
        read("A" * 20_000)
    assert "16384" in caught.value.message


def test_version_1_is_refused_by_name_in_either_header() -> None:
    v1 = base64.b64encode(b'{"x402Version":1,"scheme":"exact","network":"base"}').decode()
    with pytest.raises(Problem) as caught:
        read(v1)
    assert "version 1" in caught.value.message and "version 2" in caught.value.hint
    told = refuse_v1()
    assert "X-PAYMENT" in told.message and told.code is ProblemCode.PAYMENT_INVALID


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"authorization": "x"},
        {"authorization": {"from": "0x12", "nonce": "0x" + "0" * 64}},
        {"authorization": {"from": "0x" + "a" * 40, "nonce": 7}},
        {"permit2Authorization": {}},
    ],
)
def test_a_payload_without_an_authorization_is_400(payload: Any) -> None:
    with pytest.raises(Problem) as caught:
        accepted(edited(stock_header(), lambda d: d.update(payload=payload)))
    assert caught.value.code is ProblemCode.PAYMENT_INVALID


@given(st.binary(max_size=400))
def test_no_bytes_in_the_header_are_more_than_a_problem(raw: bytes) -> None:
    for header in (raw, base64.b64encode(raw)):
        with pytest.raises(Problem):
            accept(read(header), offers(), NETWORKS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.sampled_from(["accepted", "payload", "extensions", "x402Version"]), JSON)
def test_no_json_in_any_field_is_more_than_a_problem(field: str, value: Any) -> None:
    document = json.loads(base64.b64decode(stock_header()))
    document[field] = value
    header = base64.b64encode(json.dumps(document).encode())
    try:
        payment = accept(read(header), offers(), NETWORKS)
    except Problem:
        return
    assert payment.offer.amount_micro == 5_680


def test_a_clients_own_name_for_its_payment_is_read() -> None:
    from x402.extensions.payment_identifier import append_payment_identifier_to_extensions

    extensions = json.loads(base64.b64decode(offers().header()))["extensions"]
    append_payment_identifier_to_extensions(extensions, "pay_0123456789abcdef")
    header = edited(stock_header(), lambda d: d.update(extensions=extensions))
    assert accepted(header).identifier == "pay_0123456789abcdef"
    assert accepted(stock_header()).identifier is None


@pytest.mark.parametrize("id", ["short", "x" * 129, "a b" * 10, 7])
def test_a_name_that_cannot_be_is_400(id: Any) -> None:
    with pytest.raises(Problem) as caught:
        identifier_of({"payment-identifier": {"info": {"required": False, "id": id}}})
    assert caught.value.code is ProblemCode.PAYMENT_INVALID


def test_an_extension_that_names_nothing_is_none() -> None:
    for extension in (None, 1, [], {}, {"info": None}, {"info": {}}):
        assert identifier_of({"payment-identifier": extension}) is None
