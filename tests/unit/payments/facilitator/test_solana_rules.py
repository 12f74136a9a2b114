"""Each rule of the Solana policy, with the transaction that attacks it."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageHeader, MessageV0
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.token.associated import get_associated_token_address
from solders.transaction import VersionedTransaction

from parhelion.payments.facilitator import Code, Refused, SolanaOffer, SolanaPayment
from parhelion.payments.facilitator.offers import TOKEN_2022_PROGRAM
from parhelion.payments.facilitator.solana import judge, judge_payload
from tests.unit.payments.facilitator.sketches import (
    AMOUNT,
    BUDGET,
    FEE_PAYER,
    LIGHTHOUSE,
    MEMO,
    MINT,
    PAYER,
    SELLER,
    SOLANA_OFFER,
    STRANGER,
    SYSTEM,
    Sketch,
    lighthouse,
    limit,
    memo,
    price,
    transfer,
)

HONEST = Sketch()
TOKEN_2022 = Pubkey.from_string(TOKEN_2022_PROGRAM)
ANY_MEMO = replace(SOLANA_OFFER, memo="")
THIRD = AccountMeta(STRANGER.pubkey(), True, False)


def _table() -> AddressLookupTableAccount:
    account = get_associated_token_address(PAYER.pubkey(), MINT)
    return AddressLookupTableAccount(STRANGER.pubkey(), [account, MINT])


def _steal() -> Instruction:
    fee_payer = FEE_PAYER.pubkey()
    metas = [AccountMeta(fee_payer, True, True), AccountMeta(PAYER.pubkey(), False, True)]
    return Instruction(SYSTEM, bytes([2, 0, 0, 0]) + (10**9).to_bytes(8, "little"), metas)


def _foreign_payer() -> Instruction:
    """The source is another's; the payer would be his delegate."""
    return transfer(source=get_associated_token_address(STRANGER.pubkey(), MINT))


def _unsigned() -> Instruction:
    """A transfer whose owner does not sign."""
    step = transfer()
    owner = AccountMeta(PAYER.pubkey(), False, False)
    return Instruction(step.program_id, step.data, [*step.accounts[:3], owner])


def _asserting(*metas: AccountMeta) -> Instruction:
    return Instruction(LIGHTHOUSE, bytes([5]), list(metas))


ATTACKS: dict[str, tuple[Sketch, Code]] = {
    "short amount": (HONEST.at(2, transfer(amount=AMOUNT - 1)), Code.WRONG_AMOUNT),
    "over amount": (HONEST.at(2, transfer(amount=AMOUNT + 1)), Code.WRONG_AMOUNT),
    "zero amount": (HONEST.at(2, transfer(amount=0)), Code.WRONG_AMOUNT),
    "huge amount": (HONEST.at(2, transfer(amount=2**64 - 1)), Code.WRONG_AMOUNT),
    "wrong decimals": (HONEST.at(2, transfer(decimals=9)), Code.WRONG_ASSET),
    "wrong mint": (HONEST.at(2, transfer(mint=STRANGER.pubkey())), Code.WRONG_ASSET),
    "wrong payee": (HONEST.at(2, transfer(payee=STRANGER.pubkey())), Code.WRONG_PAYEE),
    "payee's wallet": (HONEST.at(2, transfer(to=SELLER)), Code.WRONG_PAYEE),
    "another token program": (HONEST.at(2, transfer(program=TOKEN_2022)), Code.NO_TRANSFER),
    "plain transfer": (
        HONEST.at(2, transfer(data=bytes([3]) + AMOUNT.to_bytes(8, "little"))),
        Code.NO_TRANSFER,
    ),
    "approve instead": (
        HONEST.at(2, transfer(data=bytes([13]) + AMOUNT.to_bytes(8, "little") + b"\6")),
        Code.NO_TRANSFER,
    ),
    "trailing bytes": (
        HONEST.at(2, transfer(data=bytes([12]) + AMOUNT.to_bytes(8, "little") + b"\6\0")),
        Code.NO_TRANSFER,
    ),
    "no transfer": (HONEST.without(2), Code.NO_TRANSFER),
    "two instructions": (HONEST.without(3).without(2), Code.NO_TRANSFER),
    "hook accounts": (
        HONEST.at(2, transfer(more=[AccountMeta(STRANGER.pubkey(), False, True)])),
        Code.NO_TRANSFER,
    ),
    "delegate": (HONEST.at(2, _foreign_payer()), Code.FOREIGN_SOURCE),
    "fee payer's account by a delegate": (
        HONEST.at(2, transfer(source=get_associated_token_address(FEE_PAYER.pubkey(), MINT))),
        Code.FOREIGN_SOURCE,
    ),
    "another fee payer": (replace(HONEST, fee_payer=STRANGER.pubkey()), Code.WRONG_FEE_PAYER),
    "payer pays the fee": (replace(HONEST, fee_payer=PAYER.pubkey()), Code.WRONG_FEE_PAYER),
    "fee payer pays": (
        HONEST.at(2, transfer(payer=FEE_PAYER.pubkey())),
        Code.FEE_PAYER_IN_INSTRUCTION,
    ),
    "fee payer's lamports": (HONEST.at(2, _steal()), Code.FEE_PAYER_IN_INSTRUCTION),
    "fee payer after the transfer": (HONEST.adding(_steal()), Code.FEE_PAYER_IN_INSTRUCTION),
    "fee payer in the memo": (
        HONEST.at(3, memo("offer_1", FEE_PAYER.pubkey())),
        Code.FEE_PAYER_IN_INSTRUCTION,
    ),
    "fee payer in an assertion": (
        HONEST.adding(
            Instruction(LIGHTHOUSE, b"\5", [AccountMeta(FEE_PAYER.pubkey(), True, True)])
        ),
        Code.FEE_PAYER_IN_INSTRUCTION,
    ),
    "extra signer": (
        replace(HONEST.at(2, transfer(more=[THIRD])), signers=(PAYER, STRANGER)),
        Code.TOO_MANY_SIGNERS,
    ),
    "lookup table": (replace(HONEST, tables=(_table(),)), Code.LOOKUP_TABLE),
    "extra instruction": (
        HONEST.adding(Instruction(SYSTEM, bytes([2, 0, 0, 0]) + bytes(8), [])),
        Code.EXTRA_INSTRUCTION,
    ),
    "second transfer": (HONEST.adding(transfer(amount=1)), Code.EXTRA_INSTRUCTION),
    "instruction in front": (
        replace(HONEST, steps=(memo(), *HONEST.steps[:3])),
        Code.COMPUTE_LIMIT,
    ),
    "second memo": (HONEST.adding(memo("again")), Code.EXTRA_INSTRUCTION),
    "third assertion": (
        HONEST.adding(lighthouse(), lighthouse(), lighthouse()),
        Code.EXTRA_INSTRUCTION,
    ),
    "lighthouse writes": (HONEST.adding(lighthouse(b"\0")), Code.EXTRA_INSTRUCTION),
    "lighthouse closes": (HONEST.adding(lighthouse(b"\1")), Code.EXTRA_INSTRUCTION),
    "lighthouse of nothing": (HONEST.adding(lighthouse(b"")), Code.EXTRA_INSTRUCTION),
    "another memo": (HONEST.at(3, memo("offer_2")), Code.WRONG_MEMO),
    "no memo": (HONEST.without(3), Code.WRONG_MEMO),
    "memo with accounts": (HONEST.at(3, memo("offer_1", PAYER.pubkey())), Code.WRONG_MEMO),
    "no limit": (HONEST.without(0), Code.COMPUTE_LIMIT),
    "limit and price changed places": (
        replace(HONEST, steps=(price(), limit(), *HONEST.steps[2:])),
        Code.COMPUTE_LIMIT,
    ),
    "heap frame for a limit": (
        HONEST.at(0, Instruction(BUDGET, bytes([1, 0, 0, 1, 0]), [])),
        Code.COMPUTE_LIMIT,
    ),
    "memo for a limit": (HONEST.at(0, memo("\2abcd")), Code.COMPUTE_LIMIT),
    "units with a fee for a price": (
        HONEST.at(1, Instruction(BUDGET, bytes(9), [])),
        Code.COMPUTE_PRICE,
    ),
    "memo for a price": (HONEST.at(1, memo("\3abcdefgh")), Code.COMPUTE_PRICE),
    "huge limit": (HONEST.at(0, limit(1_400_001)), Code.COMPUTE_LIMIT),
    "long limit": (HONEST.at(0, limit(extra=b"\0")), Code.COMPUTE_LIMIT),
    "no price": (HONEST.without(1), Code.COMPUTE_PRICE),
    "long price": (HONEST.at(1, price(extra=b"\0")), Code.COMPUTE_PRICE),
    "huge price": (HONEST.at(1, price(2**64 - 1)), Code.FEE_TOO_HIGH),
    "a fee of a lamport too much": (HONEST.at(1, price(2_500_001)), Code.FEE_TOO_HIGH),
    "unsigned": (replace(HONEST, signers=()), Code.BAD_SIGNATURE),
    "payer is no signer": (HONEST.at(2, _unsigned()), Code.BAD_SIGNATURE),
    "another signs in the payer's stead": (
        replace(HONEST.at(2, _unsigned()).adding(_asserting(THIRD)), signers=(STRANGER,)),
        Code.BAD_SIGNATURE,
    ),
    "payer is the payee": (
        replace(
            HONEST.at(2, transfer(payer=PAYER.pubkey(), payee=PAYER.pubkey())), signers=(PAYER,)
        ),
        Code.SELF_PAYMENT,
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_each_attack_is_refused_by_its_rule(name: str) -> None:
    sketch, code = ATTACKS[name]
    offer = SOLANA_OFFER
    if code is Code.SELF_PAYMENT:
        offer = replace(offer, pay_to=str(PAYER.pubkey()))
    found = judge(sketch.raw(), offer)
    assert isinstance(found, Refused), found
    assert found.code is code
    assert found.reason


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "more", [(), (lighthouse(),), (lighthouse(), lighthouse(b"\x04\x00"))], ids=len
)
def test_what_stock_clients_and_wallets_send_is_a_payment(
    legacy: bool, more: tuple[Instruction, ...]
) -> None:
    sketch = replace(HONEST.adding(*more), legacy=legacy)
    found = judge(sketch.raw(), SOLANA_OFFER)
    assert isinstance(found, SolanaPayment), found
    assert (found.payer, found.amount_micro) == (str(PAYER.pubkey()), AMOUNT)
    assert found.blockhash == str(sketch.blockhash)
    assert found.source == str(get_associated_token_address(PAYER.pubkey(), MINT))


def test_a_memo_is_the_payers_own_where_none_was_offered() -> None:
    for sketch in (HONEST.at(3, memo("any")), HONEST.without(3)):
        assert isinstance(judge(sketch.raw(), ANY_MEMO), SolanaPayment)
    long = HONEST.at(3, memo("m" * 257))
    assert _code(long.raw(), ANY_MEMO) is Code.WRONG_MEMO


def test_a_token_2022_mint_is_paid_at_its_own_accounts() -> None:
    offer = replace(SOLANA_OFFER, token_program=TOKEN_2022_PROGRAM)
    sketch = HONEST.at(2, transfer(program=TOKEN_2022))
    assert isinstance(judge(sketch.raw(), offer), SolanaPayment)
    assert _code(HONEST.raw(), offer) is Code.NO_TRANSFER


def test_the_highest_fee_that_is_paid_is_50_000_lamports() -> None:
    assert isinstance(judge(HONEST.at(1, price(2_500_000)).raw(), SOLANA_OFFER), SolanaPayment)


def test_an_offer_of_nothing_is_never_paid() -> None:
    sketch = HONEST.at(2, transfer(amount=0))
    assert _code(sketch.raw(), replace(SOLANA_OFFER, amount_micro=0)) is Code.WRONG_AMOUNT


def test_a_signature_over_another_message_is_no_payment() -> None:
    other = HONEST.at(2, transfer(amount=1)).signed()
    message = HONEST.message()
    forged = VersionedTransaction.populate(message, list(other.signatures))
    assert _code(bytes(forged), SOLANA_OFFER) is Code.BAD_SIGNATURE


def test_the_payers_signature_in_anothers_place_is_no_payment() -> None:
    message = HONEST.at(2, _unsigned()).adding(_asserting(THIRD)).message()
    assert message.account_keys[1] == STRANGER.pubkey()
    signature = PAYER.sign_message(bytes([0x80]) + bytes(message))
    forged = VersionedTransaction.populate(message, [Signature.default(), signature])
    assert _code(bytes(forged), SOLANA_OFFER) is Code.BAD_SIGNATURE


def test_a_header_that_lets_the_fee_payer_sign_alone_is_no_payment() -> None:
    message = HONEST.message()
    readonly = message.header.num_readonly_unsigned_accounts
    alone = MessageV0(
        MessageHeader(1, 0, readonly),
        message.account_keys,
        message.recent_blockhash,
        message.instructions,
        [],
    )
    assert alone.account_keys[1] == PAYER.pubkey()
    raw = bytes(VersionedTransaction.populate(alone, [Signature.default()]))
    assert _code(raw, SOLANA_OFFER) is Code.BAD_SIGNATURE


def test_who_else_signs_for_the_payer_is_no_payer() -> None:
    message = HONEST.message()
    signature = STRANGER.sign_message(bytes([0x80]) + bytes(message))
    forged = VersionedTransaction.populate(message, [Signature.default(), signature])
    assert _code(bytes(forged), SOLANA_OFFER) is Code.BAD_SIGNATURE


def test_the_fee_payers_empty_place_makes_no_second_payment() -> None:
    plain = judge(HONEST.raw(), SOLANA_OFFER)
    filled = judge(bytes(HONEST.signed(Signature.new_unique())), SOLANA_OFFER)
    assert plain == filled


def test_another_message_is_another_payment() -> None:
    first = judge(HONEST.raw(), ANY_MEMO)
    second = judge(HONEST.at(3, memo("two")).raw(), ANY_MEMO)
    assert isinstance(first, SolanaPayment) and isinstance(second, SolanaPayment)
    assert first.key != second.key


def test_an_account_that_is_named_twice_is_refused() -> None:
    message = HONEST.message()
    assert isinstance(message, MessageV0)
    twice = MessageV0(
        message.header,
        [*message.account_keys, FEE_PAYER.pubkey()],
        message.recent_blockhash,
        message.instructions,
        [],
    )
    signature = PAYER.sign_message(bytes([0x80]) + bytes(twice))
    raw = bytes(VersionedTransaction.populate(twice, [Signature.default(), signature]))
    assert _code(raw, SOLANA_OFFER) is Code.MALFORMED


def test_a_message_that_contradicts_itself_is_refused() -> None:
    signed = HONEST.signed()
    short = VersionedTransaction.populate(signed.message, signed.signatures[:1])
    assert _code(bytes(short), SOLANA_OFFER) is Code.MALFORMED
    raw = bytearray(HONEST.raw())
    # The last instruction is the memo: its program's index, no accounts, 7 bytes, no tables.
    place = raw.rindex(b"\x00\x07offer_1") - 1
    assert raw[place] < len(signed.message.account_keys)
    raw[place] = 99
    assert _code(bytes(raw), SOLANA_OFFER) is Code.MALFORMED


def test_sizes_are_looked_at_before_anything_is_decoded() -> None:
    assert _code(bytes(1_233), SOLANA_OFFER) is Code.TOO_LARGE
    # Were it decoded, it would be malformed.
    megabyte = {"transaction": "!" * 2**20}
    refused = judge_payload(megabyte, SOLANA_OFFER)
    assert isinstance(refused, Refused) and refused.code is Code.TOO_LARGE


@pytest.mark.parametrize("payload", [{}, {"transaction": 7}, {"transaction": "not base64!"}])
def test_a_payload_without_a_transaction_is_malformed(payload: dict[str, object]) -> None:
    refused = judge_payload(payload, SOLANA_OFFER)
    assert isinstance(refused, Refused) and refused.code is Code.MALFORMED


def test_bytes_after_the_transaction_are_refused() -> None:
    assert _code(HONEST.raw() + b"\0", SOLANA_OFFER) is Code.MALFORMED
    assert _code(b"", SOLANA_OFFER) is Code.MALFORMED


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_mutated_bytes_are_refused_and_never_an_exception(data: st.DataObject) -> None:
    raw = bytearray(HONEST.raw())
    honest = judge(bytes(raw), SOLANA_OFFER)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    found = judge(bytes(raw), SOLANA_OFFER)
    # The fee payer's place is the one thing that nobody signed.
    assert isinstance(found, Refused) or found == honest


@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=1_300))
def test_any_bytes_are_refused_and_never_an_exception(raw: bytes) -> None:
    assert isinstance(judge(raw, SOLANA_OFFER), Refused)


def test_a_real_stock_payload_is_a_payment() -> None:
    """As x402's own client builds it: v0, its limit and price, a random memo in hex."""
    keypair = Keypair()
    steps = (limit(), price(), transfer(payer=keypair.pubkey()), memo("0f" * 16))
    raw = Sketch(steps=steps, signers=(keypair,)).raw()
    found = judge_payload({"transaction": base64.b64encode(raw).decode()}, ANY_MEMO)
    assert isinstance(found, SolanaPayment)
    assert found.payer == str(keypair.pubkey())


def test_the_programs_are_the_ones_that_x402_names() -> None:
    from x402.mechanisms.svm import constants as stock

    from parhelion.payments.facilitator import solana

    assert str(solana.COMPUTE_BUDGET) == stock.COMPUTE_BUDGET_PROGRAM_ADDRESS
    assert str(solana.MEMO) == stock.MEMO_PROGRAM_ADDRESS == str(MEMO)
    assert str(solana.LIGHTHOUSE) == stock.LIGHTHOUSE_PROGRAM_ADDRESS
    assert SOLANA_OFFER.token_program == stock.TOKEN_PROGRAM_ADDRESS
    assert TOKEN_2022_PROGRAM == stock.TOKEN_2022_PROGRAM_ADDRESS


def _code(raw: bytes, offer: SolanaOffer) -> Code:
    found = judge(raw, offer)
    assert isinstance(found, Refused), found
    return found.code
