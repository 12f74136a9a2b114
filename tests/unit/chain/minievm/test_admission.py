"""What the chain refuses, in the words by which stock clients know the reason."""

from __future__ import annotations

from typing import Any

import pytest
import rlp

from parhelion.chain.local.minievm.errors import SERVER_ERROR, RpcError
from parhelion.chain.local.minievm.limits import PENDING_LIMIT
from tests.unit.chain.minievm.world import World, wallet

ALICE, BOB = wallet("alice"), wallet("bob")
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def refusal(world: World, raw: str) -> str:
    with pytest.raises(RpcError) as caught:
        world.rpc("eth_sendRawTransaction", raw)
    assert caught.value.code == SERVER_ERROR
    return caught.value.message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"chainId": 1}, "invalid chain id for signer: have 1 want 84532"),
        ({"chainId": 1, "gasPrice": 2_000_000}, "invalid chain id for signer: have 1 want 84532"),
        ({"nonce": 3}, "nonce too high: tx nonce 3, gapped nonce 0"),
        ({"gas": 20_999}, "intrinsic gas too low: gas 20999, minimum needed 21000"),
        ({"gas": 8_000_001}, "exceeds block gas limit"),
        ({"maxPriorityFeePerGas": 0}, "transaction underpriced: gas tip cap 0, minimum needed 1"),
        (
            {"maxFeePerGas": 999_999, "maxPriorityFeePerGas": 1},
            "max fee per gas less than block base fee",
        ),
        ({"gasPrice": 999_999}, "max fee per gas less than block base fee"),
        (
            {"maxFeePerGas": 2_000_000, "maxPriorityFeePerGas": 2_000_001},
            "max priority fee per gas higher than max fee per gas",
        ),
        ({"value": 10**18}, "insufficient funds for gas * price + value: balance 1"),
        ({"gasPrice": 10**13}, "tx fee (4.00 ether) exceeds the configured cap (1.00 ether)"),
        ({"data": b"\1" * 1_000, "gas": 37_000}, "insufficient gas for floor data gas cost"),
        ({"data": b"\1" * 131_072}, "oversized data: transaction size"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_transaction_is_refused_in_geths_words(
    world: World, fields: dict[str, Any], words: str
) -> None:
    world.fund(ALICE)
    assert words in refusal(world, world.sign(ALICE, BOB.address, **fields))


def test_a_nonce_serves_once(world: World) -> None:
    world.fund(ALICE)
    raw = world.sign(ALICE, BOB.address, value=1)
    world.rpc("eth_sendRawTransaction", raw)
    assert refusal(world, raw) == "nonce too low: next nonce 1, tx nonce 0"


@pytest.mark.parametrize("kind", ["legacy", "access list", "dynamic fee"])
def test_the_three_kinds_of_transactions_are_mined(world: World, kind: str) -> None:
    world.fund(ALICE)
    listed = [{"address": BOB.address, "storageKeys": ["0x" + "00" * 32]}]
    fields: dict[str, Any] = {
        "legacy": {"gasPrice": 2_000_000},
        "access list": {"gasPrice": 2_000_000, "accessList": listed, "type": 1},
        "dynamic fee": {"accessList": listed},
    }[kind]
    receipt = world.send(ALICE, BOB.address, value=3, **fields)
    assert receipt["status"] == "0x1" and receipt["effectiveGasPrice"] == hex(2_000_000)
    shown = world.rpc("eth_getTransactionByHash", receipt["transactionHash"])
    assert shown["from"] == ALICE.address.lower() and shown["value"] == "0x3"
    assert (
        shown["type"]
        == receipt["type"]
        == hex(["legacy", "access list", "dynamic fee"].index(kind))
    )
    assert int(receipt["gasUsed"], 16) == 21_000 + (4_300 if "accessList" in fields else 0)


def test_what_is_no_transaction_is_refused(world: World) -> None:
    deep = bytes([0xC1]) * 20_000 + b"\xc0"
    for raw in (b"", b"\x02", b"\x00" * 40, b"\xc0", b"\x02\xc0", b"\x02" + b"\xff" * 80, deep):
        assert refusal(world, "0x" + raw.hex())
    for kind in (3, 4, 5, 0x7F):
        assert refusal(world, "0x" + bytes([kind, 0xC0]).hex()) == "transaction type not supported"


def test_a_signature_without_a_chain_is_refused(world: World) -> None:
    world.fund(ALICE)
    fields = {"nonce": 0, "gas": 21_000, "gasPrice": 2_000_000, "to": BOB.address, "value": 1}
    signed = ALICE.sign_transaction({**fields, "data": b""})
    assert "only replay-protected" in refusal(world, "0x" + bytes(signed.raw_transaction).hex())


def test_the_other_half_of_the_curve_is_refused(world: World) -> None:
    world.fund(ALICE)
    raw = bytes.fromhex(world.sign(ALICE, BOB.address, value=1)[2:])
    *fields, parity, r, s = rlp.decode(raw[1:])
    other = (ORDER - int.from_bytes(s, "big")).to_bytes(32, "big")
    flipped = b"" if parity else b"\x01"
    forged = b"\x02" + rlp.encode([*fields, flipped, r, other])
    assert "invalid transaction v, r, s values" in refusal(world, "0x" + forged.hex())


def test_a_contract_sends_nothing_by_signature(world: World) -> None:
    from parhelion.chain.local.minievm.admission import Standing, admit
    from parhelion.chain.local.minievm.signed import read

    signed = read(bytes.fromhex(world.sign(ALICE, BOB.address)[2:]))
    with pytest.raises(RpcError, match="sender not an eoa"):
        admit(signed, Standing(nonce=0, balance=10**18, has_code=True))
    with pytest.raises(RpcError, match="txpool is full"):
        admit(signed, Standing(nonce=0, balance=10**18, has_code=False, waiting=PENDING_LIMIT))


def test_waiting_transactions_cannot_spend_one_balance_twice(slow_world: World) -> None:
    world = slow_world
    world.fund(ALICE)
    world.chain.mine()
    world.rpc("eth_sendRawTransaction", world.sign(ALICE, BOB.address, value=6 * 10**15))
    again = world.sign(ALICE, BOB.address, value=6 * 10**15)
    assert "insufficient funds" in refusal(world, again)
