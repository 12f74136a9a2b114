"""Real transactions and authorizations: an honest one, and any part of it changed."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace
from typing import Any

from eth_account import Account
from eth_account.signers.local import LocalAccount
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.token.associated import get_associated_token_address
from solders.transaction import VersionedTransaction

from parhelion.payments.facilitator import EvmOffer, SolanaOffer
from parhelion.payments.facilitator.offers import TOKEN_PROGRAM

SOLANA = "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z"
MINT = Pubkey.from_string("4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU")
BASE_SEPOLIA = "eip155:84532"
USDC = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
AMOUNT = 10_000
NOW_S = 1_900_000_000

BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
LIGHTHOUSE = Pubkey.from_string("L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95")
SYSTEM = Pubkey.from_string("11111111111111111111111111111111")

FEE_PAYER = Keypair.from_seed(bytes([1] * 32))
PAYER = Keypair.from_seed(bytes([2] * 32))
SELLER = Keypair.from_seed(bytes([3] * 32)).pubkey()
FEES = FEE_PAYER.pubkey()
BLOCKHASH = Hash.from_bytes(bytes([9] * 32))
STRANGER = Keypair.from_seed(bytes([4] * 32))

BUYER: LocalAccount = Account.from_key(bytes([5] * 32))
THIEF: LocalAccount = Account.from_key(bytes([6] * 32))
PAYEE = "0x" + "ab" * 20

SOLANA_OFFER = SolanaOffer(
    network=SOLANA,
    asset=str(MINT),
    amount_micro=AMOUNT,
    pay_to=str(SELLER),
    max_timeout_s=60,
    fee_payer=str(FEE_PAYER.pubkey()),
    memo="offer_1",
)
EVM_OFFER = EvmOffer(
    network=BASE_SEPOLIA,
    asset=USDC,
    amount_micro=AMOUNT,
    pay_to=PAYEE,
    max_timeout_s=60,
    name="USDC",
    version="2",
)


def limit(units: int = 20_000, extra: bytes = b"") -> Instruction:
    return Instruction(BUDGET, bytes([2]) + units.to_bytes(4, "little") + extra, [])


def price(micro_lamports: int = 1, extra: bytes = b"") -> Instruction:
    return Instruction(BUDGET, bytes([3]) + micro_lamports.to_bytes(8, "little") + extra, [])


def memo(text: str = "offer_1", *accounts: Pubkey) -> Instruction:
    metas = [AccountMeta(account, False, False) for account in accounts]
    return Instruction(MEMO, text.encode(), metas)


def lighthouse(data: bytes = b"\x0e\x00") -> Instruction:
    return Instruction(LIGHTHOUSE, data, [AccountMeta(PAYER.pubkey(), False, False)])


def transfer(**changed: Any) -> Instruction:
    """TransferChecked; `data` and each account can be another."""
    program = changed.get("program", Pubkey.from_string(TOKEN_PROGRAM))
    payer = changed.get("payer", PAYER.pubkey())
    mint = changed.get("mint", MINT)
    source = changed.get("source", get_associated_token_address(payer, mint, program))
    to = get_associated_token_address(changed.get("payee", SELLER), mint, program)
    amount, decimals = changed.get("amount", AMOUNT), changed.get("decimals", 6)
    data = bytes([12]) + amount.to_bytes(8, "little") + bytes([decimals])
    accounts = [
        AccountMeta(source, False, True),
        AccountMeta(mint, False, False),
        AccountMeta(changed.get("to", to), False, True),
        AccountMeta(payer, True, False),
        *changed.get("more", []),
    ]
    return Instruction(program, changed.get("data", data), accounts)


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """A transaction to be; `replace` makes the attack."""

    steps: tuple[Instruction, ...] = field(
        default_factory=lambda: (limit(), price(), transfer(), memo())
    )
    fee_payer: Pubkey = FEES
    signers: tuple[Keypair, ...] = (PAYER,)
    tables: tuple[AddressLookupTableAccount, ...] = ()
    legacy: bool = False
    blockhash: Hash = BLOCKHASH

    def without(self, place: int) -> Sketch:
        return replace(self, steps=self.steps[:place] + self.steps[place + 1 :])

    def at(self, place: int, step: Instruction) -> Sketch:
        return replace(self, steps=(*self.steps[:place], step, *self.steps[place + 1 :]))

    def adding(self, *steps: Instruction) -> Sketch:
        return replace(self, steps=(*self.steps, *steps))

    def message(self) -> Message | MessageV0:
        if self.legacy:
            return Message.new_with_blockhash(list(self.steps), self.fee_payer, self.blockhash)
        return MessageV0.try_compile(
            self.fee_payer, list(self.steps), list(self.tables), self.blockhash
        )

    def signed(self, first: Signature | None = None) -> VersionedTransaction:
        """Signed by whoever signs; every other place is empty."""
        message = self.message()
        text = to_bytes_versioned(message)
        keys = message.account_keys[: message.header.num_required_signatures]
        known = {signer.pubkey(): signer for signer in self.signers}
        signatures = [
            known[key].sign_message(text) if key in known else Signature.default() for key in keys
        ]
        if first is not None:
            signatures[0] = first
        return VersionedTransaction.populate(message, signatures)

    def raw(self) -> bytes:
        return bytes(self.signed())

    def payload(self) -> dict[str, Any]:
        return {"transaction": base64.b64encode(self.raw()).decode()}


def authorization(signer: LocalAccount = BUYER, **changed: Any) -> dict[str, Any]:
    """An x402 payload with what `signer` signed; `domain` and `told` change what is signed over.

    `told` changes fields after signing.
    """
    told = {
        "from": changed.get("payer", BUYER.address),
        "to": changed.get("to", PAYEE),
        "value": changed.get("value", str(AMOUNT)),
        "validAfter": changed.get("after", "0"),
        "validBefore": changed.get("before", str(NOW_S + 60)),
        "nonce": changed.get("nonce", "0x" + "07" * 32),
    }
    domain = {
        "name": "USDC",
        "version": "2",
        "chainId": 84532,
        "verifyingContract": USDC,
        **changed.get("domain", {}),
    }
    names = ("from", "to", "value", "validAfter", "validBefore", "nonce")
    kinds = ("address", "address", "uint256", "uint256", "uint256", "bytes32")
    signed = signer.sign_typed_data(
        domain_data=domain,
        message_types={
            changed.get("primary", "TransferWithAuthorization"): [
                {"name": name, "type": kind} for name, kind in zip(names, kinds, strict=True)
            ]
        },
        message_data={
            **{name: told[name] for name in ("from", "to")},
            **{name: int(told[name]) for name in names[2:5]},
            "nonce": bytes.fromhex(told["nonce"][2:]),
        },
    )
    signature = changed.get("signature", "0x" + bytes(signed.signature).hex())
    return {"authorization": {**told, **changed.get("told", {})}, "signature": signature}
