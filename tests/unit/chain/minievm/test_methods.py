"""The methods: what stock clients ask, and what they are told when it cannot be had."""

from __future__ import annotations

import time
from typing import Any

import pytest
from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak

from parhelion.chain.local.minievm import calls, encoding, logs, machine
from parhelion.chain.local.minievm.errors import (
    INVALID_PARAMS,
    LIMIT_EXCEEDED,
    METHOD_NOT_FOUND,
    REVERTED,
    SERVER_ERROR,
    RpcError,
)
from parhelion.chain.local.minievm.limits import MULTICALL3
from tests.unit.chain.minievm.world import TOKEN, World, calldata, wallet

ALICE, BOB = wallet("alice"), wallet("bob")
ZERO_HASH = "0x" + "00" * 32


def error(world: World, method: str, *arguments: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        world.rpc(method, *arguments)
    return caught.value


def test_every_method_that_stock_clients_call_is_there(world: World) -> None:
    # Read from x402's signers, web3 7.16's HTTP provider, and viem's wallet and public actions.
    needed = {
        "eth_chainId",
        "net_version",
        "web3_clientVersion",
        "eth_blockNumber",
        "eth_getBlockByNumber",
        "eth_getBlockByHash",
        "eth_getBalance",
        "eth_getTransactionCount",
        "eth_getCode",
        "eth_getStorageAt",
        "eth_call",
        "eth_estimateGas",
        "eth_gasPrice",
        "eth_maxPriorityFeePerGas",
        "eth_feeHistory",
        "eth_sendRawTransaction",
        "eth_getTransactionByHash",
        "eth_getTransactionReceipt",
        "eth_getLogs",
        "eth_syncing",
    }
    assert needed <= set(world.methods.names())


@pytest.mark.parametrize(
    ("method", "arguments", "code", "words"),
    [
        ("eth_mine", [], METHOD_NOT_FOUND, "the method eth_mine does not exist/is not available"),
        ("eth_getBalance", [], INVALID_PARAMS, "missing value for required argument 0"),
        ("eth_chainId", ["x"], INVALID_PARAMS, "too many arguments, want at most 0"),
        ("eth_getBalance", ["0x12"], INVALID_PARAMS, "20 bytes wanted, 1 given"),
        ("eth_getBalance", [7], INVALID_PARAMS, "hex string wanted"),
        ("eth_getBalance", [TOKEN, "newest"], INVALID_PARAMS, "without 0x prefix"),
        ("eth_getBalance", [TOKEN, "0x99"], SERVER_ERROR, "header not found"),
        ("eth_getBlockByNumber", ["latest", "yes"], INVALID_PARAMS, "a boolean is wanted"),
        ("eth_sendRawTransaction", ["0xzz"], INVALID_PARAMS, "not hex bytes"),
        ("eth_sendRawTransaction", ["0x 01"], INVALID_PARAMS, "not hex bytes"),
        ("eth_call", [{"to": TOKEN, "magic": "0x1"}], INVALID_PARAMS, "unsupported field"),
        ("eth_call", [{"data": "0x01", "input": "0x02"}], INVALID_PARAMS, "not equal"),
        ("eth_call", [{"gasPrice": "0x1", "maxFeePerGas": "0x1"}], INVALID_PARAMS, "both gasPrice"),
        ("eth_call", [{"chainId": "0x1"}], INVALID_PARAMS, "chainId does not match node's"),
        ("eth_call", [{}, "latest", {TOKEN: {}}], INVALID_PARAMS, "overrides are not offered"),
        (
            "eth_call",
            [{}, "latest", None, {"time": 1}],
            INVALID_PARAMS,
            "overrides are not offered",
        ),
        (
            "eth_estimateGas",
            [{}, "latest", {TOKEN: {}}],
            INVALID_PARAMS,
            "overrides are not offered",
        ),
        ("eth_getLogs", [{"fromBlock": "0x1", "toBlock": "0x0"}], INVALID_PARAMS, "block range"),
        ("eth_getLogs", [{"topics": [None] * 5}], INVALID_PARAMS, "at most 4 are taken"),
        ("eth_getLogs", [{"blockHash": ZERO_HASH}], INVALID_PARAMS, "unknown block"),
        ("eth_feeHistory", ["0x1", "latest", [50, 10]], INVALID_PARAMS, "they must rise"),
        ("parhelion_fund", [TOKEN, {"usdc": 5}], INVALID_PARAMS, "a string of decimal digits"),
        ("parhelion_fund", [TOKEN, {"usdc": "9" * 13}], INVALID_PARAMS, "at most 1000000000000"),
    ],
)
def test_a_bad_question_is_told_why(
    world: World, method: str, arguments: list[Any], code: int, words: str
) -> None:
    found = error(world, method, *arguments)
    assert found.code == code and words in found.message


def test_what_does_not_exist_is_null(world: World) -> None:
    assert world.rpc("eth_getBlockByNumber", "0x99") is None
    assert world.rpc("eth_getBlockByHash", ZERO_HASH) is None
    assert world.rpc("eth_getTransactionByHash", ZERO_HASH) is None
    assert world.rpc("eth_getTransactionReceipt", ZERO_HASH) is None


def test_a_revert_is_told_with_its_reason_and_bytes(world: World) -> None:
    call = {"to": TOKEN, "data": "0x" + calldata("mint(address,uint256)", BOB.address, 1).hex()}
    for method in ("eth_call", "eth_estimateGas"):
        found = error(world, method, call)
        assert found.code == REVERTED
        assert found.message == "execution reverted: USDC: caller is not the minter"
        assert found.data is not None and found.data.startswith("0x08c379a0")


def test_reasons_that_lie_about_their_length_are_no_reasons() -> None:
    selector = bytes.fromhex("08c379a0")
    good = selector + encode(["string"], ["why"])
    assert calls.revert_reason(good) == "why"
    assert calls.revert_reason(bytes.fromhex("4e487b71") + encode(["uint256"], [0x11])) == (
        "panic: code 0x11"
    )
    lying = selector + (32).to_bytes(32, "big") + (2**200).to_bytes(32, "big") + b"why"
    for output in (b"", b"\1\2", selector, lying, selector + bytes(64), good[:-32]):
        assert calls.revert_reason(output) == ""


def test_an_estimate_is_enough_and_not_much_more(world: World) -> None:
    world.fund(ALICE, usdc=100)
    call = calldata("transfer(address,uint256)", BOB.address, 40)
    fields = {"from": ALICE.address, "to": TOKEN, "data": "0x" + call.hex()}
    estimate = int(world.rpc("eth_estimateGas", fields), 16)
    priced = {**fields, "maxFeePerGas": hex(2_000_000), "maxPriorityFeePerGas": hex(1_000_000)}
    assert int(world.rpc("eth_estimateGas", priced), 16) == estimate
    receipt = world.send(ALICE, TOKEN, call, gas=estimate)
    used = int(receipt["gasUsed"], 16)
    assert receipt["status"] == "0x1" and used <= estimate <= used * 66 // 64
    plain = {"from": ALICE.address, "to": BOB.address, "value": "0x1"}
    assert world.rpc("eth_estimateGas", plain) == hex(21_000)
    rich = {**plain, "value": hex(10**18)}
    assert "insufficient funds" in error(world, "eth_estimateGas", rich).message


def test_a_read_that_computes_too_long_is_ended(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CALL_TIME_S", 0.05)
    world.fund(ALICE)
    forever = world.deploy(ALICE, bytes.fromhex("5b5f56"))
    began = time.monotonic()
    assert "execution aborted" in error(world, "eth_call", {"to": forever}).message
    assert time.monotonic() - began < 1.0
    # A transaction is not timed, else its result would depend on the machine: gas ends it.
    receipt = world.send(ALICE, forever, gas=50_000)
    assert receipt["status"] == "0x0" and receipt["gasUsed"] == hex(50_000)


def test_a_contract_that_calls_itself_without_end_only_fails(world: World) -> None:
    world.fund(ALICE)
    # call(gas, address, 0, 0, 0, 0, 0), again and again inside
    deep = world.deploy(ALICE, bytes.fromhex("5f5f5f5f5f305af100"))
    assert world.rpc("eth_call", {"to": deep}) == "0x"
    assert world.rpc("eth_blockNumber") == hex(world.chain.head.number)


def test_a_slow_precompile_fails_at_once(world: World) -> None:
    pairing = "0x" + "00" * 19 + "08"
    began = time.monotonic()
    found = error(world, "eth_call", {"to": pairing, "data": "0x" + "00" * 192 * 100})
    assert "precompile not offered" in found.message and time.monotonic() - began < 0.5
    assert world.rpc("eth_call", {"to": "0x" + "00" * 19 + "04", "data": "0x77"}) == "0x77"


def test_reads_are_batched_where_clients_look_for_multicall(world: World) -> None:
    world.fund(ALICE, usdc=70)
    holder = calldata("balanceOf(address)", ALICE.address)
    wrong = calldata("mint(address,uint256)", BOB.address, 1)
    call = keccak(text="tryAggregate(bool,(address,bytes)[])")[:4] + encode(
        ["bool", "(address,bytes)[]"], [False, [(TOKEN, holder), (TOKEN, wrong)]]
    )
    answer = world.call(call, "0x" + MULTICALL3.hex())
    ((paid, balance), (failed, reason)) = decode(["(bool,bytes)[]"], answer)[0]
    assert paid and int.from_bytes(balance, "big") == 70
    assert not failed and "not the minter" in calls.revert_reason(reason)
    strict = keccak(text="aggregate3((address,bool,bytes)[])")[:4] + encode(
        ["(address,bool,bytes)[]"], [[(TOKEN, False, wrong)]]
    )
    fields = {"to": "0x" + MULTICALL3.hex(), "data": "0x" + strict.hex()}
    assert "call failed" in error(world, "eth_call", fields).message


def test_logs_are_found_by_address_and_topics(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.fund(ALICE, usdc=70)
    world.send(ALICE, TOKEN, calldata("transfer(address,uint256)", BOB.address, 30))
    transfer = "0x" + keccak(text="Transfer(address,address,uint256)").hex()
    to_bob = "0x" + BOB.address[2:].lower().rjust(64, "0")

    def count(**wanted: Any) -> int:
        return len(world.rpc("eth_getLogs", {"fromBlock": "earliest", **wanted}))

    assert count() == count(address=TOKEN) == count(address=[TOKEN, BOB.address]) == 2
    assert count(address=BOB.address) == 0
    assert count(topics=[transfer]) == count(topics=[[transfer, ZERO_HASH]]) == 2
    assert count(topics=[transfer, None, to_bob]) == count(topics=[None, None, to_bob]) == 1
    assert count(topics=[None, None, None]) == 2 and count(topics=[None] * 4) == 0
    assert len(world.rpc("eth_getLogs", {})) == 1
    (log,) = world.rpc("eth_getLogs", {"topics": [transfer, None, to_bob]})
    receipt = world.rpc("eth_getTransactionReceipt", log["transactionHash"])
    assert receipt["logs"] == [log]
    by_hash = {"blockHash": log["blockHash"]}
    assert world.rpc("eth_getLogs", by_hash) == [log]
    beyond = {"fromBlock": "0x0", "toBlock": hex(10**9)}
    assert len(world.rpc("eth_getLogs", beyond)) == 2
    monkeypatch.setattr(logs, "LOG_LIMIT", 1)
    assert error(world, "eth_getLogs", beyond).code == LIMIT_EXCEEDED
    monkeypatch.setattr(logs, "LOG_RANGE_BLOCKS", world.chain.head.number)
    assert "too wide" in error(world, "eth_getLogs", beyond).message


def test_fees_are_told_as_they_were(world: World) -> None:
    world.fund(ALICE)
    world.send(ALICE, BOB.address, value=1, maxPriorityFeePerGas=7, maxFeePerGas=3_000_000)
    told = world.rpc("eth_feeHistory", "0x2", "latest", [0, 50, 100])
    assert told["reward"] == [[hex(1_000_000)] * 3, [hex(7)] * 3]
    assert told["baseFeePerGas"] == [hex(1_000_000)] * 3
    assert told["oldestBlock"] == hex(world.chain.head.number - 1)
    assert len(world.rpc("eth_feeHistory", 9_999, "latest")["gasUsedRatio"]) == 3


@pytest.mark.parametrize(
    "text", ["", "0x", "5", "0x_1", "0x-1", "0x 1", "0x٣", "1x5", None, 5, True]
)
def test_what_is_no_quantity_is_refused(text: object) -> None:
    with pytest.raises(RpcError) as caught:
        encoding.to_quantity(text)
    assert caught.value.code == INVALID_PARAMS


def test_the_faucet_gives_both_by_ordinary_transactions(world: World) -> None:
    given = world.rpc("parhelion_fund", BOB.address, {"usdc": "123", "wei": "456"})
    assert world.balance(BOB.address) == 123
    assert world.rpc("eth_getBalance", BOB.address) == hex(456)
    for tx_hash in given.values():
        assert world.rpc("eth_getTransactionReceipt", tx_hash)["status"] == "0x1"
    assert (world.folder / "faucet.key").stat().st_mode & 0o777 == 0o600
