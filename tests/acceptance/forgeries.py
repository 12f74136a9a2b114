"""Payments that are none: tables of what is changed in an honest one, and the code it is refused
with. `tests/acceptance/test_x402_attacks.py` brings each to a running pool."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from eth_account import Account
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.token.associated import get_associated_token_address

from parhelion.payments.facilitator.offers import TOKEN_PROGRAM
from tests.acceptance.stall import EvmWallet, SolanaWallet, encoded, told
from tests.unit.payments.facilitator.sketches import (
    MINT,
    SYSTEM,
    Sketch,
    limit,
    memo,
    price,
)

Offer = dict[str, Any]
OnSolana = Callable[[SolanaWallet, Offer], Sketch]
OnEvm = Callable[[EvmWallet, Offer], dict[str, Any]]
Header = Callable[[Offer], str]
STRANGER = Keypair()
PROGRAM = Pubkey.from_string(TOKEN_PROGRAM)
TABLE = Pubkey.new_unique()


# --- Solana: what is signed ---------------------------------------------------------------------


def honest(wallet: SolanaWallet, offer: Offer, **changed: Any) -> Sketch:
    return wallet.sketch(offer, **changed)


def fee_payer(offer: Offer) -> Pubkey:
    return Pubkey.from_string(offer["extra"]["feePayer"])


def burn(wallet: SolanaWallet) -> Instruction:
    """Another instruction of the token's program, which would burn."""
    source = get_associated_token_address(wallet.key.pubkey(), MINT, PROGRAM)
    accounts = [
        AccountMeta(source, False, True),
        AccountMeta(MINT, False, True),
        AccountMeta(wallet.key.pubkey(), True, False),
    ]
    return Instruction(PROGRAM, bytes([8]) + (1).to_bytes(8, "little"), accounts)


def lamports_from(payer: Pubkey, to: Pubkey) -> Instruction:
    data = (2).to_bytes(4, "little") + (1_000_000).to_bytes(8, "little")
    return Instruction(SYSTEM, data, [AccountMeta(payer, True, True), AccountMeta(to, False, True)])


def with_table(wallet: SolanaWallet, offer: Offer) -> Sketch:
    sketch = honest(wallet, offer)
    keys = [sketch.steps[2].accounts[2].pubkey, MINT]
    return replace(sketch, tables=(AddressLookupTableAccount(TABLE, keys),))


def with_signer(wallet: SolanaWallet, offer: Offer) -> Sketch:
    more = [AccountMeta(STRANGER.pubkey(), True, False)]
    return replace(honest(wallet, offer, more=more), signers=(wallet.key, STRANGER))


def from_the_fee_payer(wallet: SolanaWallet, offer: Offer) -> Sketch:
    payer = fee_payer(offer)
    source = get_associated_token_address(payer, MINT, PROGRAM)
    return honest(wallet, offer, payer=payer, source=source)


ON_SOLANA: dict[str, tuple[OnSolana, str]] = {
    "short": (lambda w, o: honest(w, o, amount=999), "wrong_amount"),
    "over": (lambda w, o: honest(w, o, amount=1001), "wrong_amount"),
    "zero": (lambda w, o: honest(w, o, amount=0), "wrong_amount"),
    "huge": (lambda w, o: honest(w, o, amount=2**64 - 1), "wrong_amount"),
    "another mint": (lambda w, o: honest(w, o, mint=Pubkey.new_unique()), "wrong_asset"),
    "other decimals": (lambda w, o: honest(w, o, decimals=9), "wrong_asset"),
    "another payee": (lambda w, o: honest(w, o, payee=STRANGER.pubkey()), "wrong_payee"),
    "to the payer itself": (lambda w, o: honest(w, o, payee=w.key.pubkey()), "wrong_payee"),
    "another token program": (lambda w, o: honest(w, o, program=SYSTEM), "no_transfer"),
    "a plain transfer": (
        lambda w, o: honest(w, o, data=bytes([3]) + (1000).to_bytes(8, "little")),
        "no_transfer",
    ),
    "no transfer": (lambda w, o: honest(w, o).without(2), "no_transfer"),
    "two transfers": (
        lambda w, o: honest(w, o).adding(honest(w, o, payee=STRANGER.pubkey()).steps[2]),
        "extra_instruction",
    ),
    "a burn beside it": (lambda w, o: honest(w, o).adding(burn(w)), "extra_instruction"),
    "lamports beside it": (
        lambda w, o: honest(w, o).adding(lamports_from(w.key.pubkey(), STRANGER.pubkey())),
        "extra_instruction",
    ),
    "lookup table": (with_table, "lookup_table"),
    "extra signer": (with_signer, "too_many_signers"),
    "another fee payer": (
        lambda w, o: replace(honest(w, o), fee_payer=STRANGER.pubkey()),
        "wrong_fee_payer",
    ),
    "the payer pays fees": (
        lambda w, o: replace(honest(w, o), fee_payer=w.key.pubkey()),
        "wrong_fee_payer",
    ),
    "fee payer as source": (from_the_fee_payer, "fee_payer_in_instruction"),
    "fee payer in a memo": (
        lambda w, o: honest(w, o).at(3, memo(o["extra"]["memo"], fee_payer(o))),
        "fee_payer_in_instruction",
    ),
    "fee payer's lamports": (
        lambda w, o: honest(w, o).adding(lamports_from(fee_payer(o), w.key.pubkey())),
        "fee_payer_in_instruction",
    ),
    "another's account": (
        lambda w, o: honest(
            w, o, source=get_associated_token_address(STRANGER.pubkey(), MINT, PROGRAM)
        ),
        "foreign_source",
    ),
    "huge compute limit": (lambda w, o: honest(w, o).at(0, limit(1_400_001)), "compute_limit"),
    "huge compute price": (lambda w, o: honest(w, o).at(1, price(2**63)), "fee_too_high"),
    "compute price of 0.0001 SOL": (
        lambda w, o: honest(w, o).at(0, limit(200_000)).at(1, price(500_000)),
        "fee_too_high",
    ),
    "no compute price": (lambda w, o: honest(w, o).without(1), "compute_price"),
    "another memo": (lambda w, o: honest(w, o).at(3, memo("offer_1")), "wrong_memo"),
    "no memo": (lambda w, o: honest(w, o).without(3), "wrong_memo"),
    "two memos": (
        lambda w, o: honest(w, o).adding(memo(o["extra"]["memo"])),
        "extra_instruction",
    ),
    "unknown blockhash": (
        lambda w, o: replace(honest(w, o), blockhash=Hash.new_unique()),
        "expired",
    ),
    "another's signature": (
        lambda w, o: replace(honest(w, o), signers=()),
        "bad_signature",
    ),
}


# --- EVM: what is signed --------------------------------------------------------------------------


def later(seconds: int) -> str:
    return str(int(time.time()) + seconds)


def mirrored(signature: str) -> str:
    """The other signature of the same message, with the high s."""
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    raw = bytes.fromhex(signature[2:])
    s = order - int.from_bytes(raw[32:64], "big")
    return "0x" + (raw[:32] + s.to_bytes(32, "big") + bytes([55 - raw[64]])).hex()


def high_s(wallet: EvmWallet, offer: Offer) -> dict[str, Any]:
    made = wallet.signed(offer)
    return {**made, "signature": mirrored(made["signature"])}


def changed(wallet: EvmWallet, offer: Offer, **fields: Any) -> dict[str, Any]:
    """Signed honestly, and changed afterwards."""
    return wallet.signed(offer, told=fields)


OTHER = "0x" + "ab" * 20
ON_EVM: dict[str, tuple[OnEvm, str]] = {
    "short": (lambda w, o: w.signed(o, value="999"), "wrong_amount"),
    "over": (lambda w, o: w.signed(o, value="1001"), "wrong_amount"),
    "zero": (lambda w, o: w.signed(o, value="0"), "wrong_amount"),
    "huge": (lambda w, o: w.signed(o, value=str(2**256 - 1)), "wrong_amount"),
    "more than uint256": (lambda w, o: changed(w, o, value=str(2**256)), "malformed"),
    "negative": (lambda w, o: changed(w, o, value="-1000"), "malformed"),
    "amount changed after signing": (
        lambda w, o: w.signed({**o, "amount": "1"}, told={"value": o["amount"]}),
        "bad_signature",
    ),
    "another payee": (lambda w, o: w.signed(o, to=OTHER), "wrong_payee"),
    "to the payer itself": (lambda w, o: w.signed(o, to=w.key.address), "wrong_payee"),
    "another token": (
        lambda w, o: w.signed(o, domain={"verifyingContract": OTHER}),
        "bad_signature",
    ),
    "another chain": (lambda w, o: w.signed(o, domain={"chainId": 8453}), "bad_signature"),
    "another token's name": (lambda w, o: w.signed(o, domain={"name": "USD"}), "bad_signature"),
    "wrong key": (lambda w, o: w.signed(o, signer=Account.create()), "bad_signature"),
    "no signature": (lambda w, o: {**w.signed(o), "signature": "0x" + "00" * 65}, "bad_signature"),
    "high s": (high_s, "bad_signature"),
    "receive instead of transfer": (
        lambda w, o: w.signed(o, primary="ReceiveWithAuthorization"),
        "bad_signature",
    ),
    "expired": (lambda w, o: w.signed(o, before=later(-1)), "expired"),
    "expires within 20 s": (lambda w, o: w.signed(o, before=later(15)), "expired"),
    "valid too long": (lambda w, o: w.signed(o, before=later(3800)), "valid_too_long"),
    "valid for ever": (lambda w, o: w.signed(o, before=str(2**256 - 1)), "valid_too_long"),
    "not valid yet": (lambda w, o: w.signed(o, after=later(30)), "not_yet_valid"),
    "contract wallet": (
        lambda w, o: {**w.signed(o), "signature": "0x" + "11" * 200},
        "smart_wallet_unsupported",
    ),
    "wallet to be deployed": (
        lambda w, o: {**w.signed(o), "signature": "0x" + "11" * 64 + "6492" * 16},
        "smart_wallet_unsupported",
    ),
    "signature that is not hex": (
        lambda w, o: {**w.signed(o), "signature": "0x" + "zz" * 65},
        "malformed",
    ),
}


# --- what is said of the payment ------------------------------------------------------------------

SAID: dict[str, dict[str, Any]] = {
    "amount short": {"amount": "999"},
    "amount over": {"amount": "1001"},
    "amount zero": {"amount": "0"},
    "amount negative": {"amount": "-1000"},
    "amount with a plus": {"amount": "+1000"},
    "asset": {"asset": "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"},
    "payee": {"payTo": str(STRANGER.pubkey())},
    "network": {"network": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"},
    "scheme": {"scheme": "upto"},
    "timeout": {"maxTimeoutSeconds": 3600},
}


# --- headers --------------------------------------------------------------------------------------


def raw(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def deep(offer: Offer) -> str:
    return raw('{"x402Version":2,"accepted":' + "[" * 4000 + "]" * 4000 + ',"payload":{}}')


HEADERS: dict[str, tuple[Header, str]] = {
    "empty": (lambda o: "", ""),
    "not base64": (lambda o: "!!!!", "not base64"),
    "not base64 at its end": (lambda o: told(o, {})[:-2] + "%%", "not base64"),
    "not JSON": (lambda o: raw("hello"), "not x402 v2 JSON"),
    "not UTF-8": (lambda o: base64.b64encode(b'{"x402Version":2,"a":"\xff"}').decode(), ""),
    "not an object": (lambda o: raw("[1,2,3]"), "not x402 v2 JSON"),
    "null": (lambda o: raw("null"), "not x402 v2 JSON"),
    "cut": (lambda o: raw(json.dumps({"x402Version": 2, "accepted": o})[:-9]), "JSON"),
    "version 1": (
        lambda o: encoded(
            {
                "x402Version": 1,
                "scheme": "exact",
                "network": "solana",
                "payload": {"transaction": "AAAA"},
            }
        ),
        "version 1",
    ),
    "version 3": (lambda o: encoded({"x402Version": 3, "accepted": o, "payload": {}}), "version 3"),
    "no version": (lambda o: encoded({"accepted": o, "payload": {}}), ""),
    "version is text": (lambda o: encoded({"x402Version": "2"}), ""),
    "no payload": (lambda o: encoded({"x402Version": 2, "accepted": o}), "payload"),
    "payload is text": (lambda o: encoded({"x402Version": 2, "accepted": o, "payload": "x"}), ""),
    "empty payload": (lambda o: told(o, {}), "transaction"),
    "transaction is a number": (lambda o: told(o, {"transaction": 7}), "transaction"),
    "transaction is not base64": (lambda o: told(o, {"transaction": "&&&&"}), "not base64"),
    "transaction is empty": (lambda o: told(o, {"transaction": ""}), "no message"),
    "amount is a number": (lambda o: told({**o, "amount": 1000}, {"transaction": "AAAA"}), ""),
    "extra is a list": (lambda o: told({**o, "extra": []}, {"transaction": "AAAA"}), ""),
    "extra is null": (lambda o: told({**o, "extra": None}, {"transaction": "AAAA"}), ""),
    "memo is a number": (
        lambda o: told({**o, "extra": {**o["extra"], "memo": 7}}, {"transaction": "AAAA"}),
        "",
    ),
    "deep": (deep, ""),
    "over 16 kB": (lambda o: told(o, {"transaction": "A" * 20_000}), "at most 16384"),
    "surrogates": (lambda o: raw('{"x402Version":2,"accepted":{"scheme":"\\ud800"}}'), ""),
    "a huge number": (lambda o: raw('{"x402Version":' + "9" * 5000 + "}"), ""),
}
