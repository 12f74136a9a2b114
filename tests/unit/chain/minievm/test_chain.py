"""The chain: what is answered is kept, what is kept is found, and nothing happens twice."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import rlp
from eth_utils.crypto import keccak
from trie.hexary import HexaryTrie

from parhelion.chain import contracts
from parhelion.chain.local.minievm.errors import RpcError
from parhelion.chain.local.minievm.limits import BASE_FEE_WEI, FAUCET_WEI, FEE_VAULT, USDC
from parhelion.chain.local.minievm.records import Block
from parhelion.words import Problem
from tests.unit.chain.minievm.world import START_S, TOKEN, World, calldata, wallet

ALICE, BOB = wallet("alice"), wallet("bob")
GIFT = 10**16
FEE_A_GAS = 2_000_000


def wei(world: World, address: str, tag: str = "latest") -> int:
    return int(world.rpc("eth_getBalance", address, tag), 16)


def test_a_hash_is_answered_only_for_what_is_on_the_disk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.fund(ALICE)
    head = world.chain.head
    raw = world.sign(ALICE, BOB.address, value=5)

    def full(_: Block) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(world.file, "append", full)
        with pytest.raises(sqlite3.OperationalError):
            world.rpc("eth_sendRawTransaction", raw)
    assert world.chain.head == head and wei(world, BOB.address) == 0
    tx_hash = world.rpc("eth_sendRawTransaction", raw)
    # Another opening of the same folder, as after a crash: nothing was closed properly.
    with sqlite3.connect(world.folder / "minievm.sqlite") as other:
        rows = other.execute("SELECT hash FROM transactions ORDER BY block").fetchall()
    assert "0x" + rows[-1][0].hex() == tx_hash


def test_everything_is_there_after_a_restart(world: World) -> None:
    world.fund(ALICE, usdc=900)
    raw = world.sign(ALICE, BOB.address, value=5)
    tx_hash = world.rpc("eth_sendRawTransaction", raw)
    asked = [
        ("eth_getTransactionReceipt", tx_hash),
        ("eth_getTransactionByHash", tx_hash),
        ("eth_getBlockByNumber", "latest", True),
        ("eth_getLogs", {"fromBlock": "earliest"}),
        ("eth_getBalance", ALICE.address, "latest"),
        ("eth_getCode", TOKEN, "latest"),
    ]
    before = [world.rpc(*question) for question in asked]
    world.reopen()
    assert [world.rpc(*question) for question in asked] == before
    with pytest.raises(RpcError, match="nonce too low: next nonce 1, tx nonce 0"):
        world.rpc("eth_sendRawTransaction", raw)


def test_ether_is_neither_made_nor_lost(world: World) -> None:
    world.fund(ALICE)
    world.send(ALICE, BOB.address, value=12_345)
    world.send(ALICE, TOKEN, calldata("transfer(address,uint256)", BOB.address, 1))
    for allowance in (5, 0):  # The second frees a word of storage: its refund is in the receipt.
        world.send(ALICE, TOKEN, calldata("approve(address,uint256)", BOB.address, allowance))
    faucet = "0x" + world.faucet.address.hex()
    holders = (ALICE.address, BOB.address, faucet, "0x" + FEE_VAULT.hex())
    burnt = sum(
        int(world.rpc("eth_getBlockByNumber", hex(number))["gasUsed"], 16) * BASE_FEE_WEI
        for number in range(world.chain.head.number + 1)
    )
    assert sum(wei(world, holder) for holder in holders) + burnt == FAUCET_WEI


def test_a_reverted_transaction_is_mined_paid_for_and_changes_nothing(world: World) -> None:
    world.fund(ALICE)
    receipt = world.send(ALICE, TOKEN, calldata("transfer(address,uint256)", BOB.address, 1))
    assert receipt["status"] == "0x0" and receipt["logs"] == []
    assert wei(world, ALICE.address) == GIFT - int(receipt["gasUsed"], 16) * FEE_A_GAS
    assert world.balance(BOB.address) == 0
    assert world.chain.next_nonce(bytes.fromhex(ALICE.address[2:])) == 1


def test_blocks_are_linked_and_hashed_as_on_ethereum(world: World) -> None:
    world.fund(ALICE, usdc=5)
    world.send(ALICE, BOB.address, value=1)
    parent = bytes(32)
    for number in range(world.chain.head.number + 1):
        header = world.chain.header(number)
        assert header is not None and header.parent_hash == parent
        assert keccak(header.encoded) == header.hash
        raws = [mined.raw for mined in world.file.transactions(number)]
        trie = HexaryTrie({})
        for index, raw in enumerate(raws):
            trie[rlp.encode(index)] = raw
        assert header.transactions_root == trie.root_hash
        parent = header.hash
    shown = world.rpc("eth_getBlockByHash", "0x" + parent.hex(), True)
    assert shown["number"] == hex(world.chain.head.number)


def test_time_never_runs_backwards_and_two_blocks_may_share_a_second(world: World) -> None:
    world.fund(ALICE)
    stamps: list[int] = []
    for move_s in (0.2, 0.2, 7.0, -500.0, 1.0):
        world.now_s += move_s
        block = world.send(ALICE, BOB.address, value=1)["blockNumber"]
        stamps.append(int(world.rpc("eth_getBlockByNumber", block)["timestamp"], 16))
    assert stamps == [START_S, START_S, START_S + 7, START_S + 7, START_S + 7]


def test_the_last_block_of_an_idle_chain_is_of_now(world: World) -> None:
    # Else an authorization that was never sent would never be known to have expired.
    world.fund(ALICE, usdc=5)
    before = world.rpc("eth_getBlockByNumber", "latest")
    world.now_s += 3600
    after = world.rpc("eth_getBlockByNumber", "latest")
    assert int(after["timestamp"], 16) == int(world.now_s)
    assert (after["parentHash"], after["transactions"]) == (before["hash"], [])
    assert after["stateRoot"] == before["stateRoot"]
    assert world.rpc("eth_getBlockByNumber", "latest") == after, "one, however often it is asked"
    world.reopen()
    assert world.rpc("eth_getBlockByNumber", "latest") == after
    world.fund(ALICE, usdc=5)
    assert world.rpc("eth_blockNumber") == hex(int(after["number"], 16) + 2)


def test_a_read_of_an_idle_chain_happens_now(world: World) -> None:
    # timestamp; push0; mstore; push 32; push0; return
    clock = world.rpc  # the chain was last used at START_S
    world.fund(ALICE)
    teller = world.deploy(ALICE, bytes.fromhex("425f5260205ff3"))
    world.now_s += 86_400
    answer = clock("eth_call", {"to": teller, "data": "0x"})
    assert int(answer, 16) == START_S + 86_400
    old = hex(world.chain.head.number - 1)
    with pytest.raises(RpcError, match="header not found"):
        clock("eth_call", {"to": teller}, hex(world.chain.head.number + 1))
    assert clock("eth_call", {"to": teller}, old) == "0x"


def test_the_past_can_be_asked(world: World) -> None:
    world.fund(ALICE)
    before = world.rpc("eth_blockNumber")
    world.send(ALICE, BOB.address, value=77)
    assert wei(world, BOB.address, before) == 0
    assert wei(world, BOB.address, "latest") == 77
    assert world.rpc("eth_getTransactionCount", ALICE.address, before) == "0x0"
    assert world.rpc("eth_getTransactionCount", ALICE.address, {"blockNumber": "0x0"}) == "0x0"


def test_contracts_stand_at_their_public_addresses(world: World) -> None:
    usdc = contracts.load("usdc")
    assert world.rpc("eth_getCode", TOKEN) == usdc.runtime
    minter = world.rpc("eth_getStorageAt", "0x" + USDC.hex(), hex(usdc.storage["minter"]))
    assert minter == "0x" + world.faucet.address.hex().rjust(64, "0")


def test_a_chain_with_another_faucet_is_refused(world: World, tmp_path: Path) -> None:
    key = world.folder / "faucet.key"
    key.write_text("0x" + "22" * 32 + "\n")
    key.chmod(0o600)
    world.file.close()
    with pytest.raises(Problem, match="another faucet"):
        world.open()
    world.file.close()
    key.write_text("0x" + "11" * 32 + "\n")
    world.open()


def test_two_processes_cannot_have_one_chain(world: World) -> None:
    with pytest.raises(Problem, match="in use by another process"):
        World(world.folder)


def test_a_waiting_transaction_has_no_receipt_and_survives_a_restart(slow_world: World) -> None:
    world = slow_world
    world.fund(ALICE)
    assert world.rpc("eth_blockNumber") == "0x0" and world.chain.mine()
    raw = world.sign(ALICE, BOB.address, value=9)
    tx_hash = world.rpc("eth_sendRawTransaction", raw)
    assert world.rpc("eth_getTransactionReceipt", tx_hash) is None
    assert world.rpc("eth_getTransactionByHash", tx_hash)["blockNumber"] is None
    counts = [world.rpc("eth_getTransactionCount", ALICE.address, t) for t in ("latest", "pending")]
    assert counts == ["0x0", "0x1"]
    with pytest.raises(RpcError, match="already known"):
        world.rpc("eth_sendRawTransaction", raw)
    world.reopen()
    assert world.chain.mine() and not world.chain.mine()
    assert world.rpc("eth_getTransactionReceipt", tx_hash)["status"] == "0x1"
    world.reopen()
    assert not world.chain.waiting


def test_one_block_holds_many_and_a_dearer_one_takes_a_place(slow_world: World) -> None:
    world = slow_world
    world.fund(ALICE)
    world.chain.mine()
    cheap = world.rpc("eth_sendRawTransaction", world.sign(ALICE, BOB.address, value=1))
    second = world.rpc("eth_sendRawTransaction", world.sign(ALICE, BOB.address, value=2))
    same = {"nonce": 0, "maxPriorityFeePerGas": 1_050_000, "maxFeePerGas": 2_100_000}
    with pytest.raises(RpcError, match="replacement transaction underpriced"):
        world.rpc("eth_sendRawTransaction", world.sign(ALICE, BOB.address, value=4, **same))
    dearer = {"nonce": 0, "maxPriorityFeePerGas": 1_100_000, "maxFeePerGas": 2_200_000}
    raw = world.sign(ALICE, BOB.address, value=4, **dearer)
    taken = world.rpc("eth_sendRawTransaction", raw)
    world.reopen()
    world.chain.mine()
    block = world.rpc("eth_getBlockByNumber", "latest")
    assert block["transactions"] == [taken, second]
    assert world.rpc("eth_getTransactionByHash", cheap) is None
    assert wei(world, BOB.address) == 6
    receipts = world.rpc("eth_getBlockReceipts", "latest")
    assert [receipt["cumulativeGasUsed"] for receipt in receipts] == [hex(21_000), hex(42_000)]
