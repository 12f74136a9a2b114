"""The same signed transactions leave the same receipts here and on anvil, to the unit of gas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from eth_utils.address import to_checksum_address

from parhelion.chain import contracts
from tests.integration.chain.minievm.processes import USDC, Evm, anvil, minievm
from tests.unit.chain.minievm.world import DOMAIN, TYPES, calldata, wallet

PAYER, RELAY, PAYEE = wallet("parity payer"), wallet("parity relay"), wallet("parity payee")
TRANSFER = "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,"
ZERO = "0x" + "00" * 20
LISTED = [{"address": USDC, "storageKeys": ["0x" + "00" * 32]}]


def authorized(number: int, *, as_bytes: bool) -> bytes:
    message = {
        "from": PAYER.address,
        "to": PAYEE.address,
        "value": 7 + number,
        "validAfter": 0,
        "validBefore": 2**40,
        "nonce": number.to_bytes(32, "big"),
    }
    kind = "TransferWithAuthorization"
    signed = PAYER.sign_typed_data(DOMAIN, {kind: TYPES[kind]}, message)
    if as_bytes:
        return calldata(TRANSFER + "bytes)", *message.values(), bytes(signed.signature))
    parts = (signed.v, signed.r.to_bytes(32, "big"), signed.s.to_bytes(32, "big"))
    return calldata(TRANSFER + "uint8,bytes32,bytes32)", *message.values(), *parts)


def permitted() -> bytes:
    message = {
        "owner": PAYER.address,
        "spender": RELAY.address,
        "value": 900,
        "nonce": 0,
        "deadline": 2**40,
    }
    signed = PAYER.sign_typed_data(DOMAIN, {"Permit": TYPES["Permit"]}, message)
    fields = [value for name, value in message.items() if name != "nonce"]
    signature = bytes(signed.signature)
    return calldata("permit(address,address,uint256,uint256,bytes)", *fields, signature)


def cases() -> list[dict[str, Any]]:
    token = {"to": USDC}
    pull = calldata("transferFrom(address,address,uint256)", PAYER.address, PAYEE.address, 300)
    return [
        {**token, "data": authorized(1, as_bytes=False)},
        {**token, "data": authorized(2, as_bytes=False)},
        {**token, "data": authorized(2, as_bytes=False)},
        {**token, "data": authorized(3, as_bytes=True)},
        {**token, "data": authorized(3, as_bytes=True)},
        {**token, "data": permitted()},
        {**token, "data": pull},
        {**token, "data": pull, "accessList": LISTED},
        {**token, "data": calldata("approve(address,uint256)", PAYEE.address, 5)},
        {**token, "data": calldata("approve(address,uint256)", PAYEE.address, 0)},
        {**token, "data": calldata("approve(address,uint256)", ZERO, 5)},
        {**token, "data": authorized(4, as_bytes=False), "gas": 60_000},
        {**token, "data": b"\x01\x02\x03\x04" + b"\x00\x05" * 900},
        {"to": PAYEE.address, "value": 5},
        {"to": PAYEE.address, "data": b"\x07\x00" * 2_000, "gas": 200_000},
        {"data": bytes.fromhex(contracts.load("multicall").bytecode[2:]), "gas": 2_000_000},
        {"data": bytes.fromhex("5f5ffd")},
        {"data": bytes.fromhex("fe")},
    ]


def raws() -> list[str]:
    found: list[str] = []
    for nonce, fields in enumerate(cases()):
        transaction: dict[str, Any] = {
            "chainId": 84532,
            "nonce": nonce,
            "gas": 300_000,
            "maxFeePerGas": 5 * 10**9,
            "maxPriorityFeePerGas": 10**6,
            "value": 0,
            "data": b"",
            **fields,
        }
        if "to" in fields:
            transaction["to"] = to_checksum_address(fields["to"])
        found.append("0x" + bytes(RELAY.sign_transaction(transaction).raw_transaction).hex())
    return found


def outcome(node: Evm, raw: str) -> dict[str, Any]:
    receipt = node.receipt(node.ask("eth_sendRawTransaction", raw))
    kept = ("status", "gasUsed", "type", "from", "to", "contractAddress", "logsBloom")
    logs = [(log["address"], log["topics"], log["data"]) for log in receipt["logs"]]
    return {**{name: receipt[name] for name in kept}, "logs": logs}


@pytest.mark.slow
def test_receipts_are_those_of_anvil(tmp_path: Path) -> None:
    with minievm(tmp_path) as ours, anvil() as theirs:
        for node in (ours, theirs):
            node.fund(PAYER.address, usdc=10_000)
            node.fund(RELAY.address, wei=10**18)
        statuses: list[str] = []
        for number, raw in enumerate(raws()):
            found = outcome(ours, raw)
            assert found == outcome(theirs, raw), f"case {number}"
            statuses.append(found["status"])
        assert statuses.count("0x0") == 7
        assert ours.ask("eth_getBalance", PAYEE.address, "latest") == theirs.ask(
            "eth_getBalance", PAYEE.address, "latest"
        )
