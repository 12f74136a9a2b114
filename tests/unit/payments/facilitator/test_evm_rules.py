"""Each rule of the EVM policy, with the authorization that attacks it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.payments.facilitator import Code, EvmPayment, Refused
from parhelion.payments.facilitator.evm import HALF_ORDER, call_data, digest, judge
from tests.unit.payments.facilitator.sketches import (
    AMOUNT,
    BUYER,
    EVM_OFFER,
    NOW_S,
    PAYEE,
    THIEF,
    USDC,
    authorization,
)

HONEST = authorization()
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def _malleated() -> str:
    """The other signature of the same message: s and v mirrored."""
    raw = bytes.fromhex(HONEST["signature"][2:])
    s = ORDER - int.from_bytes(raw[32:64], "big")
    return "0x" + (raw[:32] + s.to_bytes(32, "big") + bytes([27 + 28 - raw[64]])).hex()


def _wrapped() -> str:
    return "0x" + "00" * 96 + "6492" * 16


ATTACKS: dict[str, tuple[dict[str, Any], Code]] = {
    "short amount": (authorization(value=str(AMOUNT - 1)), Code.WRONG_AMOUNT),
    "over amount": (authorization(value=str(AMOUNT + 1)), Code.WRONG_AMOUNT),
    "zero amount": (authorization(value="0"), Code.WRONG_AMOUNT),
    "wrong payee": (authorization(to=THIEF.address), Code.WRONG_PAYEE),
    "payee changed after signing": (authorization(told={"to": THIEF.address}), Code.WRONG_PAYEE),
    "amount changed after signing": (
        authorization(value="1", told={"value": str(AMOUNT)}),
        Code.BAD_SIGNATURE,
    ),
    "nonce changed after signing": (
        authorization(told={"nonce": "0x" + "08" * 32}),
        Code.BAD_SIGNATURE,
    ),
    "signed by another": (authorization(THIEF), Code.BAD_SIGNATURE),
    "another chain": (authorization(domain={"chainId": 8453}), Code.BAD_SIGNATURE),
    "another token": (authorization(domain={"verifyingContract": PAYEE}), Code.BAD_SIGNATURE),
    "another domain name": (authorization(domain={"name": "USD Coin"}), Code.BAD_SIGNATURE),
    "another version": (authorization(domain={"version": "1"}), Code.BAD_SIGNATURE),
    "another purpose": (
        authorization(primary="ReceiveWithAuthorization"),
        Code.BAD_SIGNATURE,
    ),
    "mirrored signature": (authorization(signature=_malleated()), Code.BAD_SIGNATURE),
    "v of 29": (
        authorization(signature=HONEST["signature"][:-2] + "1d"),
        Code.BAD_SIGNATURE,
    ),
    "r and s of zero": (authorization(signature="0x" + "00" * 64 + "1b"), Code.BAD_SIGNATURE),
    "not yet valid": (authorization(after=str(NOW_S + 1)), Code.NOT_YET_VALID),
    "valid from this second": (authorization(after=str(NOW_S)), Code.NOT_YET_VALID),
    "expired": (authorization(before=str(NOW_S - 1)), Code.EXPIRED),
    "expires while settling": (authorization(before=str(NOW_S + 20)), Code.EXPIRED),
    "valid for ever": (authorization(before=str(2**256 - 1)), Code.VALID_TOO_LONG),
    "not deployed wallet": (authorization(signature=_wrapped()), Code.SMART_WALLET_UNSUPPORTED),
    "contract wallet": (
        authorization(signature="0x" + "11" * 130),
        Code.SMART_WALLET_UNSUPPORTED,
    ),
    "permit2": ({"permit2Authorization": {}, "signature": "0x"}, Code.PERMIT2_UNSUPPORTED),
    "no authorization": ({"signature": HONEST["signature"]}, Code.MALFORMED),
    "no signature": ({"authorization": HONEST["authorization"]}, Code.MALFORMED),
    "signature of a megabyte": (authorization(signature="0x" + "1" * 2**20), Code.MALFORMED),
    "signature that is no hex": (authorization(signature="0xzz"), Code.MALFORMED),
    "signed parts out of range": (
        authorization(signature={"v": 99, "r": "0x" + "01" * 32, "s": "0x" + "01" * 32}),
        Code.MALFORMED,
    ),
    "negative amount": (authorization(told={"value": "-1"}), Code.MALFORMED),
    "amount as a number": (authorization(told={"value": AMOUNT}), Code.MALFORMED),
    "amount in other digits": (authorization(told={"value": "１００００"}), Code.MALFORMED),
    "amount beyond 256 bits": (authorization(told={"value": str(2**256)}), Code.MALFORMED),
    "amount of a thousand digits": (authorization(told={"value": "1" * 1000}), Code.MALFORMED),
    "short nonce": (authorization(told={"nonce": "0x07"}), Code.MALFORMED),
    "address that is none": (authorization(told={"from": "0x12"}), Code.MALFORMED),
    "address with a space": (authorization(told={"from": "0x " + "1" * 39}), Code.MALFORMED),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_each_attack_is_refused_by_its_rule(name: str) -> None:
    payload, code = ATTACKS[name]
    found = judge(payload, EVM_OFFER, NOW_S)
    assert isinstance(found, Refused), found
    assert found.code is code
    assert found.reason


def test_contract_wallets_hear_which_of_the_two_kinds_is_meant() -> None:
    for name, kind in (("not deployed wallet", "ERC-6492"), ("contract wallet", "ERC-1271")):
        found = judge(ATTACKS[name][0], EVM_OFFER, NOW_S)
        assert isinstance(found, Refused) and kind in found.reason


def test_an_honest_authorization_is_a_payment() -> None:
    found = judge(HONEST, EVM_OFFER, NOW_S)
    assert isinstance(found, EvmPayment)
    assert found.payer == BUYER.address.lower()
    assert found.key == f"{found.payer}:0x{'07' * 32}"
    assert (found.amount_micro, found.asset) == (AMOUNT, USDC.lower())


def test_both_writings_of_a_signature_are_one_payment() -> None:
    raw = bytes.fromhex(HONEST["signature"][2:])
    parts = {"r": "0x" + raw[:32].hex(), "s": "0x" + raw[32:64].hex(), "v": raw[64]}
    low = "0x" + (raw[:64] + bytes([raw[64] - 27])).hex()
    wanted = judge(HONEST, EVM_OFFER, NOW_S)
    assert isinstance(wanted, EvmPayment)
    for signature in (parts, low):
        assert judge(authorization(signature=signature), EVM_OFFER, NOW_S) == wanted


def test_addresses_in_either_case_are_one_payment() -> None:
    upper = {"from": "0x" + BUYER.address[2:].upper(), "to": "0x" + PAYEE[2:].upper()}
    assert judge(authorization(told=upper), EVM_OFFER, NOW_S) == judge(HONEST, EVM_OFFER, NOW_S)


def test_who_pays_himself_is_refused() -> None:
    offer = replace(EVM_OFFER, pay_to=BUYER.address)
    found = judge(authorization(to=BUYER.address), offer, NOW_S)
    assert isinstance(found, Refused) and found.code is Code.SELF_PAYMENT


def test_an_offer_of_nothing_is_never_paid() -> None:
    found = judge(authorization(value="0"), replace(EVM_OFFER, amount_micro=0), NOW_S)
    assert isinstance(found, Refused) and found.code is Code.WRONG_AMOUNT


def test_the_digest_is_the_one_that_eth_account_signs() -> None:
    found = judge(HONEST, EVM_OFFER, NOW_S)
    assert isinstance(found, EvmPayment)
    signer = Account._recover_hash(digest(found, EVM_OFFER), signature=found.signature)
    assert signer == BUYER.address
    assert int.from_bytes(found.signature[32:64], "big") <= HALF_ORDER


def test_the_call_is_the_one_that_x402_encodes() -> None:
    from eth_abi import encode
    from eth_utils import keccak

    found = judge(HONEST, EVM_OFFER, NOW_S)
    assert isinstance(found, EvmPayment)
    kinds = "address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32"
    arguments = encode(
        kinds.split(","),
        [
            found.payer,
            found.payee,
            found.amount_micro,
            found.valid_after_s,
            found.valid_before_s,
            bytes.fromhex(found.nonce[2:]),
            found.signature[64],
            found.signature[:32],
            found.signature[32:64],
        ],
    )
    selector = keccak(text=f"transferWithAuthorization({kinds})")[:4]
    assert call_data(found) == selector + arguments


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from([*HONEST["authorization"], "signature"]), value=_JSON)
def test_any_field_may_be_anything_and_it_is_never_an_exception(name: str, value: Any) -> None:
    told = {**HONEST["authorization"]}
    payload = {"authorization": told, "signature": HONEST["signature"]}
    (payload if name == "signature" else told)[name] = value
    assert isinstance(judge(payload, EVM_OFFER, NOW_S), Refused)


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 64), value=st.integers(0, 255))
def test_a_mutated_signature_is_refused_and_never_an_exception(place: int, value: int) -> None:
    raw = bytearray(bytes.fromhex(HONEST["signature"][2:]))
    same = raw[place] == value or (place == 64 and value + 27 == raw[64])
    raw[place] = value
    found = judge(authorization(signature="0x" + raw.hex()), EVM_OFFER, NOW_S)
    assert isinstance(found, EvmPayment if same else Refused)
