"""Token accounts, mints and fees as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.account import Account
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import Instruction
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.token.state import Mint, TokenAccount, TokenAccountState

from parhelion.chain.local.minisol.fees import fee_of
from parhelion.chain.local.minisol.tokens import (
    SYSTEM,
    TOKEN,
    TOKEN_2022,
    amount_json,
    holding_in,
    mint_in,
    parsed,
)

PAYER = Pubkey.new_unique()
U64 = st.integers(0, 2**64 - 1)


def message(*instructions: Instruction) -> MessageV0:
    return MessageV0.try_compile(PAYER, list(instructions), [], Hash.default())


def give() -> Instruction:
    to = Pubkey.new_unique()
    return transfer(TransferParams(from_pubkey=PAYER, to_pubkey=to, lamports=1))


@given(U64, U64, st.booleans())
def test_a_token_account_is_read_as_its_program_wrote_it(
    amount: int, delegated: int, has_delegate: bool
) -> None:
    delegate = Pubkey.new_unique() if has_delegate else None
    written = TokenAccount(
        mint=Pubkey.new_unique(),
        owner=Pubkey.new_unique(),
        amount=amount,
        delegate=delegate,
        state=TokenAccountState.Initialized,
        is_native=None,
        delegated_amount=delegated,
        close_authority=delegate,
    )
    found = holding_in(Account(1, bytes(written), TOKEN))
    assert found is not None
    assert (found.mint, found.owner, found.amount) == (written.mint, written.owner, amount)
    assert (found.delegate, found.close_authority) == (delegate, delegate)
    assert found.delegated == delegated


@given(U64, st.integers(0, 255))
def test_a_mint_is_read_as_its_program_wrote_it(supply: int, decimals: int) -> None:
    authority = Pubkey.new_unique()
    written = Mint(
        mint_authority=authority,
        supply=supply,
        decimals=decimals,
        is_initialized=True,
        freeze_authority=None,
    )
    found = mint_in(Account(1, bytes(written), TOKEN))
    assert found is not None
    assert (found.authority, found.supply, found.decimals) == (authority, supply, decimals)
    assert found.freeze_authority is None


@given(st.binary(max_size=400), st.sampled_from([TOKEN, TOKEN_2022, SYSTEM]))
def test_any_bytes_are_read_or_left_alone(data: bytes, owner: Pubkey) -> None:
    account = Account(1, data, owner)
    both = (mint_in(account), holding_in(account))
    assert None in both
    if owner == SYSTEM or len(data) < 82:
        assert both == (None, None)
    parsed(account, 6)


@pytest.mark.parametrize(
    ("amount", "decimals", "text"),
    [
        (0, 6, "0"),
        (1, 6, "0.000001"),
        (2_500_000, 6, "2.5"),
        (10**18, 6, "1000000000000"),
        (7, 0, "7"),
    ],
)
def test_amounts_are_told_without_rounding(amount: int, decimals: int, text: str) -> None:
    assert amount_json(amount, decimals)["uiAmountString"] == text
    assert amount_json(amount, decimals)["amount"] == str(amount)


def test_a_plain_transfer_costs_its_signature() -> None:
    assert fee_of(message(give())).total == 5_000


def test_a_price_is_paid_for_the_asked_limit_rounded_up() -> None:
    asked = message(set_compute_unit_limit(20_000), set_compute_unit_price(1), give())
    assert fee_of(asked).priority == 1
    asked = message(set_compute_unit_limit(20_000), set_compute_unit_price(5_000_000), give())
    assert fee_of(asked).priority == 100_000


def test_without_a_limit_the_price_is_paid_for_the_default() -> None:
    program = Instruction(Pubkey.new_unique(), b"", [])
    asked = message(set_compute_unit_price(1_000_000), give(), program)
    assert fee_of(asked).priority == 3_000 + 3_000 + 200_000


def test_nobody_pays_for_more_than_a_transaction_may_use() -> None:
    asked = message(set_compute_unit_limit(2**32 - 1), set_compute_unit_price(1_000_000))
    assert fee_of(asked).priority == 1_400_000


@given(st.lists(st.binary(max_size=12), max_size=4))
def test_any_compute_budget_data_has_a_fee(datas: list[bytes]) -> None:
    program = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
    asked = message(*[Instruction(program, data, []) for data in datas])
    assert fee_of(asked).base == 5_000
    assert fee_of(asked).priority >= 0
