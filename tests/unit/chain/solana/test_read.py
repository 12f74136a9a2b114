"""Our own read of the chain: no lie, fault or odd shape of an answer is ever a payment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.chain.solana import (
    Standing,
    associated_account,
    is_expired,
    judge,
    read_payment,
)
from parhelion.words import Problem

SIGNATURE = "5" * 64
PAYEE = "A6Ts4rDFgkpnvkftEERX2k9vX1zyan9LYXNZumoStScQ"
BUYER = "8SrBb3k9KAECjJN5zuFihw8E8xsnixj6bXZinoPjNEv8"
FEE_PAYER = "EFreadWnTjykKQTLpLJAWekZFUrdE84dhLjBGbcCHxbv"
USDC = "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"
OTHER = "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"
ACCOUNT = associated_account(PAYEE, USDC)
BUYERS = associated_account(BUYER, USDC)


def balance(index: int, amount: int | str, owner: str, mint: str = USDC) -> dict[str, Any]:
    told = {"amount": str(amount), "decimals": 6, "uiAmount": None, "uiAmountString": "?"}
    return {"accountIndex": index, "mint": mint, "owner": owner, "uiTokenAmount": told}


def transaction(**meta: Any) -> dict[str, Any]:
    """A buyer's 10,000 base units to the payee's account."""
    told = {
        "err": None,
        "fee": 10_001,
        "preTokenBalances": [balance(1, 50_000, BUYER), balance(2, 1, PAYEE)],
        "postTokenBalances": [balance(1, 40_000, BUYER), balance(2, 10_001, PAYEE)],
        "loadedAddresses": {"writable": [], "readonly": []},
        "logMessages": [],
    }
    keys = [FEE_PAYER, BUYERS, ACCOUNT, USDC]
    inner = {"signatures": [SIGNATURE], "message": {"accountKeys": keys}}
    return {"slot": 9, "blockTime": 1, "meta": told | meta, "transaction": inner}


class Rpc:
    """Answers from a table, and what was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Sequence[Any]]] = []

    async def __call__(self, method: str, params: Sequence[Any]) -> Any:
        self.asked.append((method, params))
        return self.answers[method]


def statuses(err: Any = None, level: str | None = "confirmed") -> dict[str, Any]:
    status = {"slot": 9, "confirmations": 1, "err": err, "confirmationStatus": level}
    return {"context": {"slot": 10}, "value": [status]}


async def read(rpc: Rpc) -> Any:
    return await read_payment(rpc, SIGNATURE, payee=PAYEE, mint=USDC)


async def test_a_confirmed_transfer_is_what_the_payee_gained() -> None:
    found = await read(Rpc(getSignatureStatuses=statuses(), getTransaction=transaction()))
    assert (found.standing, found.credited, found.slot) == (Standing.LANDED, 10_000, 9)
    assert (found.payer, found.fee_payer) == (BUYER, FEE_PAYER)


async def test_an_error_is_looked_at_before_the_status() -> None:
    error = {"InstructionError": [2, {"Custom": 1}]}
    rpc = Rpc(getSignatureStatuses=statuses(err=error, level="finalized"))
    found = await read(rpc)
    assert (found.standing, found.credited, found.error) == (Standing.FAILED, 0, error)


async def test_an_error_in_the_transaction_alone_is_an_error() -> None:
    failed = transaction(err="AccountNotFound")
    found = await read(Rpc(getSignatureStatuses=statuses(), getTransaction=failed))
    assert (found.standing, found.credited) == (Standing.FAILED, 0)


@pytest.mark.parametrize("level", ["processed", None, "sure"])
@pytest.mark.parametrize("err", [None, "AccountNotFound"])
async def test_what_is_not_confirmed_decides_nothing(level: str | None, err: Any) -> None:
    found = await read(Rpc(getSignatureStatuses=statuses(err=err, level=level)))
    assert (found.standing, found.credited) == (Standing.PENDING, 0)


async def test_what_nobody_has_seen_is_unknown() -> None:
    found = await read(Rpc(getSignatureStatuses={"value": [None]}))
    assert found.standing is Standing.UNKNOWN


async def test_a_block_that_is_not_indexed_yet_is_pending() -> None:
    found = await read(Rpc(getSignatureStatuses=statuses(), getTransaction=None))
    assert found.standing is Standing.PENDING


async def test_the_whole_history_is_searched_and_v0_is_read() -> None:
    rpc = Rpc(getSignatureStatuses=statuses(), getTransaction=transaction())
    await read(rpc)
    assert rpc.asked[0][1][1] == {"searchTransactionHistory": True}
    assert rpc.asked[1][1][1]["maxSupportedTransactionVersion"] == 0


def test_another_mint_in_the_payees_account_is_no_payment() -> None:
    foreign = transaction(
        preTokenBalances=[balance(1, 9, BUYER, OTHER)],
        postTokenBalances=[balance(2, 9, PAYEE, OTHER)],
    )
    assert judge(foreign, signature=SIGNATURE, account=ACCOUNT, mint=USDC).credited == 0


def test_an_account_that_only_says_it_is_the_payees_is_no_payment() -> None:
    # The owner in a row is the token account's: anyone can open one *for* the payee.
    other = transaction(
        preTokenBalances=[balance(1, 50, BUYER)],
        postTokenBalances=[balance(1, 40, BUYER), balance(3, 10, PAYEE)],
    )
    assert judge(other, signature=SIGNATURE, account=ACCOUNT, mint=USDC).credited == 0


def test_a_new_account_counts_from_nothing_and_a_closed_one_to_nothing() -> None:
    moved = transaction(
        preTokenBalances=[balance(1, 50, BUYER)], postTokenBalances=[balance(2, 50, PAYEE)]
    )
    found = judge(moved, signature=SIGNATURE, account=ACCOUNT, mint=USDC)
    assert (found.credited, found.payer) == (50, BUYER)


def test_what_went_out_is_below_zero() -> None:
    spent = transaction(
        preTokenBalances=[balance(2, 50, PAYEE)], postTokenBalances=[balance(2, 20, PAYEE)]
    )
    assert judge(spent, signature=SIGNATURE, account=ACCOUNT, mint=USDC).credited == -30


def test_two_who_paid_are_nobody() -> None:
    two = transaction(
        preTokenBalances=[balance(1, 5, BUYER), balance(3, 5, OTHER)],
        postTokenBalances=[balance(2, 10, PAYEE)],
    )
    found = judge(two, signature=SIGNATURE, account=ACCOUNT, mint=USDC)
    assert (found.credited, found.payer) == (10, None)


def test_accounts_from_lookup_tables_are_counted_behind_the_others() -> None:
    loaded = transaction(
        loadedAddresses={"writable": [ACCOUNT], "readonly": []},
        preTokenBalances=[],
        postTokenBalances=[balance(4, 3, PAYEE)],
    )
    loaded["transaction"]["message"]["accountKeys"] = [FEE_PAYER, BUYERS, OTHER, USDC]
    assert judge(loaded, signature=SIGNATURE, account=ACCOUNT, mint=USDC).credited == 3


@pytest.mark.parametrize(
    "lie",
    [
        transaction()
        | {"transaction": {"signatures": ["6" * 64], "message": {"accountKeys": ["a"]}}},
        transaction()
        | {"transaction": {"signatures": [SIGNATURE], "message": {"accountKeys": []}}},
        transaction(postTokenBalances=[balance(99, 1, PAYEE)]),
        transaction(postTokenBalances=[balance(2, "-5", PAYEE)]),
        transaction(postTokenBalances=[balance(2, "1e9", PAYEE)]),
        transaction(postTokenBalances=[balance(2, "9" * 30, PAYEE)]),
        {},
        [],
        "landed",
    ],
)
def test_a_misshapen_answer_is_a_problem(lie: Any) -> None:
    with pytest.raises(Problem):
        judge(lie, signature=SIGNATURE, account=ACCOUNT, mint=USDC)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@given(JSON, JSON)
@settings(max_examples=40)
async def test_no_answer_at_all_can_be_taken_for_a_payment(first: Any, second: Any) -> None:
    try:
        found = await read(Rpc(getSignatureStatuses=first, getTransaction=second))
    except Problem:
        return
    assert found.standing is not Standing.LANDED


async def test_a_blockhash_expires() -> None:
    assert await is_expired(Rpc(isBlockhashValid={"value": False}), "x")
    assert not await is_expired(Rpc(isBlockhashValid={"value": True}), "x")
    with pytest.raises(Problem):
        await is_expired(Rpc(isBlockhashValid={"value": "no"}), "x")


def test_an_address_that_is_none_is_named() -> None:
    with pytest.raises(Problem, match="not a Solana address"):
        associated_account("nobody", USDC)
