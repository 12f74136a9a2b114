"""Transactions as an explorer shows them: nothing that a node says wrongly is shown as true."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.chain.evm.explore import explore as explore_evm
from parhelion.chain.evm.explore import read_receipt
from parhelion.chain.evm.read import TRANSFER
from parhelion.chain.solana.explore import explore as explore_solana
from parhelion.chain.solana.explore import transaction
from parhelion.chain.transaction import CHANGES_LIMIT, Change, Misshapen, Standing

SIGNATURE = "5" * 64
MINT = "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"
HASH = "0x" + "ab" * 32
BLOCK = "0x" + "cd" * 32
TOKEN = "0x" + "03" * 20
PAYER, PAYEE = "0x" + "11" * 20, "0x" + "22" * 20


class Rpc:
    """Answers from a table; what it lacks was not to be asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    async def __call__(self, method: str, params: Sequence[Any]) -> Any:
        return self.answers[method]


def balance(index: int, amount: int, owner: str) -> dict[str, Any]:
    told = {"amount": str(amount)}
    return {"accountIndex": index, "mint": MINT, "owner": owner, "uiTokenAmount": told}


def solana(**meta: Any) -> dict[str, Any]:
    told = {
        "err": None,
        "fee": 10_001,
        "preTokenBalances": [balance(1, 50, "buyer"), balance(2, 1, "seller")],
        "postTokenBalances": [balance(1, 40, "buyer"), balance(2, 11, "seller")],
    }
    message = {"accountKeys": ["payer", "of buyer", "of seller", MINT]}
    inner = {"signatures": [SIGNATURE], "message": message}
    return {"slot": 9, "blockTime": 77, "meta": told | meta, "transaction": inner}


def statuses(**status: Any) -> dict[str, Any]:
    return {"value": [{"slot": 9, "err": None, "confirmationStatus": "confirmed", **status}]}


def log(giver: str, taker: str, amount: int, **more: Any) -> dict[str, Any]:
    topics = [TRANSFER, *("0x" + each[2:].rjust(64, "0") for each in (giver, taker))]
    data = "0x" + amount.to_bytes(32, "big").hex()
    return {"address": TOKEN, "topics": topics, "data": data, **more}


def receipt(**fields: Any) -> dict[str, Any]:
    return {
        "transactionHash": HASH,
        "status": "0x1",
        "from": PAYER,
        "gasUsed": "0x10",
        "effectiveGasPrice": "0x3",
        "blockNumber": "0x7",
        "blockHash": BLOCK,
        "logs": [log(PAYER, PAYEE, 5)],
        **fields,
    }


async def test_a_payment_on_solana_shows_who_gave_and_who_got() -> None:
    found = await explore_solana(
        Rpc(getSignatureStatuses=statuses(), getTransaction=solana()), SIGNATURE
    )
    assert found is not None
    assert (found.standing, found.block, found.at_s) == (Standing.LANDED, 9, 77)
    assert (found.fee, found.fee_payer) == (10_001, "payer")
    assert found.changes == (
        Change(owner="buyer", asset=MINT, amount=-10, account="of buyer"),
        Change(owner="seller", asset=MINT, amount=10, account="of seller"),
    )


async def test_a_confirmed_failure_on_solana_is_no_payment() -> None:
    error = {"InstructionError": [2, {"Custom": 1}]}
    same = solana()["meta"]["preTokenBalances"]
    rpc = Rpc(
        getSignatureStatuses=statuses(err=error),
        getTransaction=solana(err=error, postTokenBalances=same),
    )
    found = await explore_solana(rpc, SIGNATURE)
    assert found is not None
    assert (found.standing, found.changes) == (Standing.FAILED, ())
    assert found.error == '{"InstructionError":[2,{"Custom":1}]}'


@pytest.mark.parametrize(
    ("status", "told"),
    [({"confirmationStatus": "processed"}, "never asked"), ({}, None)],
    ids=["not confirmed", "not indexed"],
)
async def test_what_is_not_sure_on_solana_is_pending(status: dict[str, Any], told: Any) -> None:
    rpc = Rpc(getSignatureStatuses=statuses(**status), getTransaction=told)
    found = await explore_solana(rpc, SIGNATURE)
    assert found is not None
    assert (found.standing, found.block) == (Standing.PENDING, 9)


async def test_an_unknown_transaction_is_none_on_both_chains() -> None:
    assert await explore_solana(Rpc(getSignatureStatuses={"value": [None]}), SIGNATURE) is None
    nothing = Rpc(eth_getTransactionReceipt=None, eth_getTransactionByHash=None)
    assert await explore_evm(nothing, HASH) is None


async def test_a_payment_on_an_evm_chain_shows_who_gave_and_who_got() -> None:
    block = {"hash": BLOCK, "timestamp": "0x4d"}
    told = receipt(l1Fee="0x2", logs=[log(PAYER, PAYEE, 5), log(PAYER, PAYEE, 1)])
    rpc = Rpc(eth_getTransactionReceipt=told, eth_getBlockByHash=block)
    found = await explore_evm(rpc, HASH)
    assert found is not None
    assert (found.standing, found.block, found.at_s) == (Standing.LANDED, 7, 77)
    assert (found.fee, found.fee_payer) == (16 * 3 + 2, PAYER)
    assert found.changes == (
        Change(owner=PAYER, asset=TOKEN, amount=-6),
        Change(owner=PAYEE, asset=TOKEN, amount=6),
    )


async def test_an_evm_transaction_that_waits_is_pending() -> None:
    rpc = Rpc(eth_getTransactionReceipt=None, eth_getTransactionByHash={"hash": HASH})
    found = await explore_evm(rpc, HASH)
    assert found is not None and found.standing is Standing.PENDING
    unsealed = receipt(blockNumber=None, blockHash=None)
    assert read_receipt(unsealed, HASH).standing is Standing.PENDING


def test_a_reverted_transaction_moves_nothing_whatever_logs_it_shows() -> None:
    found = read_receipt(receipt(status="0x0"), HASH)
    assert (found.standing, found.changes, found.error) == (Standing.FAILED, (), "reverted")


def test_what_is_no_amount_of_a_token_is_not_shown() -> None:
    nft = log(PAYER, PAYEE, 5)
    nft["topics"] = [*nft["topics"], "0x" + "00" * 32]
    nft["data"] = "0x"
    assert read_receipt(receipt(logs=[nft]), HASH).changes == ()


def test_of_very_many_changes_the_first_are_shown_and_the_rest_counted() -> None:
    logs = [log(PAYER, f"0x{index + 1:040x}", 1) for index in range(CHANGES_LIMIT + 7)]
    found = read_receipt(receipt(logs=logs), HASH)
    assert (len(found.changes), found.omitted) == (CHANGES_LIMIT, 8)


@pytest.mark.parametrize(
    "wrong",
    [
        {"transactionHash": BLOCK},
        {"status": "0x2"},
        {"status": 1},
        {"from": "me"},
        {"gasUsed": "16"},
        {"gasUsed": "0x" + "f" * 65},
        {"logs": None},
        {"logs": [log(PAYER, PAYEE, 5, data="0x05")]},
        {"logs": [log(PAYER, "0x" + "ff" * 32, 5)]},
        {"logs": [log(PAYER, PAYEE, 5, address="0x1")]},
    ],
    ids=str,
)
def test_a_misshapen_receipt_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Misshapen):
        read_receipt(receipt(**wrong), HASH)


async def test_another_blocks_time_is_refused() -> None:
    rpc = Rpc(
        eth_getTransactionReceipt=receipt(),
        eth_getBlockByHash={"hash": HASH, "timestamp": "0x1"},
    )
    with pytest.raises(Misshapen):
        await explore_evm(rpc, HASH)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)


@given(JSON, st.sampled_from(sorted(receipt())))
def test_no_field_of_a_receipt_can_do_worse_than_be_refused(value: Any, name: str) -> None:
    with contextlib.suppress(Misshapen):
        read_receipt(receipt(**{name: value}), HASH)


@given(JSON, st.sampled_from(sorted(solana()["meta"])))
def test_no_field_of_solanas_answer_can_do_worse_than_be_refused(value: Any, name: str) -> None:
    with contextlib.suppress(Misshapen):
        transaction(solana(**{name: value}), SIGNATURE)
