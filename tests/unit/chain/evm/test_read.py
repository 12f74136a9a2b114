"""Our own read: a reverted payment is none, another token's is none, and a lie is no answer."""

from __future__ import annotations

from typing import Any

import pytest
from eth_utils.abi import function_signature_to_4byte_selector
from eth_utils.crypto import keccak

from parhelion.chain.evm import (
    ReadFailed,
    State,
    find_authorization,
    is_authorization_used,
    judge,
    read_transaction,
)
from parhelion.chain.evm import read as module

TX = "0x" + "ab" * 32
BLOCK = "0x" + "cd" * 32
TOKEN = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
PAYER, PAYEE, OTHER = ("0x" + name * 20 for name in ("a1", "b2", "c3"))
NONCE = "0x" + "77" * 32


def topic(address: str) -> str:
    return "0x" + address[2:].lower().rjust(64, "0")


def transfer(payer: str = PAYER, payee: str = PAYEE, amount: int = 5, **changes: Any) -> Any:
    log = {
        "address": TOKEN.lower(),
        "topics": [module.TRANSFER, topic(payer), topic(payee)],
        "data": "0x" + amount.to_bytes(32, "big").hex(),
        "logIndex": "0x1",
        "transactionHash": TX,
        "removed": False,
    }
    return {**log, **changes}


def receipt(*logs: Any, **changes: Any) -> dict[str, Any]:
    fields = {
        "transactionHash": TX,
        "blockHash": BLOCK,
        "blockNumber": "0x10",
        "status": "0x1",
        "logs": list(logs),
    }
    return {**fields, **changes}


def test_the_constants_are_the_hashes_of_their_signatures() -> None:
    assert keccak(text="Transfer(address,address,uint256)").hex() == module.TRANSFER[2:]
    assert keccak(text="AuthorizationUsed(address,bytes32)").hex() == module.AUTHORIZATION_USED[2:]
    state = function_signature_to_4byte_selector("authorizationState(address,bytes32)")
    assert "0x" + state.hex() == module.AUTHORIZATION_STATE


def test_a_payment_is_read_with_payer_amount_and_block() -> None:
    used = transfer(topics=[module.AUTHORIZATION_USED, topic(PAYER), NONCE], data="0x")
    reading = judge(receipt(used, transfer()), TX, TOKEN, PAYEE)
    assert (reading.state, reading.block_number, reading.block_hash) == ("succeeded", 16, BLOCK)
    assert reading.amount_from(PAYER.upper().replace("0X", "0x")) == 5
    assert reading.amount_from(OTHER) == 0
    assert reading.authorizations == ((PAYER, NONCE),)


def test_a_reverted_transaction_paid_nothing_whatever_logs_it_shows() -> None:
    reading = judge(receipt(transfer(), status="0x0"), TX, TOKEN, PAYEE)
    assert reading.state is State.FAILED and reading.received == ()


@pytest.mark.parametrize(
    "log",
    [
        transfer(address=OTHER),
        transfer(payee=OTHER),
        transfer(topics=[NONCE, topic(PAYER), topic(PAYEE)]),
        transfer(topics=[module.TRANSFER, topic(PAYER), topic(PAYEE), NONCE]),
    ],
    ids=["other token", "other payee", "other event", "indexed amount"],
)
def test_what_is_no_transfer_of_the_token_to_the_payee_counts_nothing(log: Any) -> None:
    reading = judge(receipt(log), TX, TOKEN, PAYEE)
    assert reading.state is State.SUCCEEDED and reading.received == ()


def test_two_transfers_of_one_payer_add_up() -> None:
    logs = (transfer(), transfer(amount=8, logIndex="0x2"), transfer(OTHER, logIndex="0x3"))
    assert judge(receipt(*logs), TX, TOKEN, PAYEE).amount_from(PAYER) == 13


@pytest.mark.parametrize("answer", [None, receipt(blockHash=None, blockNumber=None)])
def test_without_a_block_nothing_is_known(answer: Any) -> None:
    assert judge(answer, TX, TOKEN, PAYEE).state is State.UNKNOWN


@pytest.mark.parametrize(
    "answer",
    [
        receipt(transactionHash=BLOCK),
        receipt(status="0x2"),
        receipt(status=None),
        receipt(status=1),
        receipt(status=True),
        receipt(blockHash=None),
        receipt(blockNumber="16"),
        receipt(logs=None),
        receipt(logs=[[]]),
        receipt(transfer(), transfer()),
        receipt(transfer(removed=True)),
        receipt(transfer(transactionHash=BLOCK)),
        receipt(transfer(data="0x05")),
        receipt(transfer(data="0x" + "zz" * 32)),
        receipt(transfer(topics=[module.TRANSFER, "0x1" + "0" * 63, topic(PAYEE)])),
        receipt(transfer(topics="none")),
        receipt(*[transfer()] * 10_001),
        [],
        "0x1",
    ],
    ids=range(19),
)
def test_an_answer_that_cannot_be_true_is_no_answer(answer: Any) -> None:
    with pytest.raises(ReadFailed):
        judge(answer, TX, TOKEN, PAYEE)


async def test_the_chain_is_asked_for_exactly_this_transaction() -> None:
    asked: list[Any] = []

    async def rpc(method: str, params: list[object]) -> object:
        asked.append((method, params))
        return receipt(transfer())

    reading = await read_transaction(rpc, TX.upper().replace("0X", "0x"), TOKEN, PAYEE)
    assert reading.amount_from(PAYER) == 5
    assert asked == [("eth_getTransactionReceipt", [TX])]
    with pytest.raises(ReadFailed):
        await read_transaction(rpc, "0x12", TOKEN, PAYEE)


async def test_an_authorization_is_looked_up_by_payer_and_nonce() -> None:
    found: object = "0x" + "00" * 31 + "01"
    asked: list[Any] = []

    async def rpc(method: str, params: list[object]) -> object:
        asked.append((method, params))
        return found

    assert await is_authorization_used(rpc, TOKEN, PAYER, NONCE)
    found = "0x" + "00" * 31 + "02"
    with pytest.raises(ReadFailed):
        await is_authorization_used(rpc, TOKEN, PAYER, NONCE)
    log = transfer(topics=[module.AUTHORIZATION_USED, topic(PAYER), NONCE], data="0x")
    found = [log]
    assert await find_authorization(rpc, TOKEN, PAYER, NONCE, 5) == TX
    assert asked[-1][1][0]["fromBlock"] == "0x5"
    found = []
    assert await find_authorization(rpc, TOKEN, PAYER, NONCE, 5) is None
    for lie in ({**log, "address": OTHER}, {**log, "topics": [module.TRANSFER]}):
        found = [lie]
        with pytest.raises(ReadFailed):
            await find_authorization(rpc, TOKEN, PAYER, NONCE, 5)
