"""A chain in a temporary folder, a clock that the test holds, and wallets that are made here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from eth_abi.abi import encode
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.abi import function_signature_to_4byte_selector
from eth_utils.address import to_checksum_address

from parhelion.chain.local.minievm.chain import Chain
from parhelion.chain.local.minievm.faucet import Faucet, faucet_key
from parhelion.chain.local.minievm.limits import CHAIN_ID, USDC
from parhelion.chain.local.minievm.methods import Methods
from parhelion.chain.local.minievm.store import ChainFile

START_S = 1_800_000_000
TOKEN = "0x" + USDC.hex()
AUTHORIZATION = [
    {"name": "from", "type": "address"},
    {"name": "to", "type": "address"},
    {"name": "value", "type": "uint256"},
    {"name": "validAfter", "type": "uint256"},
    {"name": "validBefore", "type": "uint256"},
    {"name": "nonce", "type": "bytes32"},
]
TYPES: dict[str, list[dict[str, str]]] = {
    "TransferWithAuthorization": AUTHORIZATION,
    "ReceiveWithAuthorization": AUTHORIZATION,
    "CancelAuthorization": [
        {"name": "authorizer", "type": "address"},
        {"name": "nonce", "type": "bytes32"},
    ],
    "Permit": [
        {"name": "owner", "type": "address"},
        {"name": "spender", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "nonce", "type": "uint256"},
        {"name": "deadline", "type": "uint256"},
    ],
}
DOMAIN = {"name": "USDC", "version": "2", "chainId": CHAIN_ID, "verifyingContract": TOKEN}


def wallet(name: str) -> LocalAccount:
    """The same key for the same name, in every run."""
    return Account.from_key(hashlib.sha256(name.encode()).digest())


def calldata(signature: str, *arguments: Any) -> bytes:
    """A call of `signature` with these arguments."""
    types = signature[signature.index("(") + 1 : -1]
    encoded = encode([name for name in types.split(",") if name], arguments)
    return function_signature_to_4byte_selector(signature) + encoded


class World:
    """One chain and what a test does with it."""

    def __init__(self, folder: Path, *, at_once: bool = True) -> None:
        self.folder = folder
        self.at_once = at_once
        self.now_s = float(START_S)
        self.open()

    def open(self) -> None:
        self.file = ChainFile(self.folder)
        key = faucet_key(self.folder, lambda size: b"\x11" * size)
        address = bytes(key.public_key.to_canonical_address())
        self.chain = Chain(self.file, address, lambda: self.now_s, at_once=self.at_once)
        self.faucet = Faucet(self.chain, key)
        self.methods = Methods(self.chain, self.faucet)

    def reopen(self) -> None:
        self.file.close()
        self.open()

    def rpc(self, method: str, *arguments: Any) -> Any:
        return self.methods.answer(method, list(arguments))

    def fund(self, account: LocalAccount, usdc: int = 0, wei: int = 10**16) -> None:
        self.rpc("parhelion_fund", account.address, {"usdc": str(usdc), "wei": str(wei)})

    def sign(self, account: LocalAccount, to: str | None, data: bytes = b"", **fields: Any) -> str:
        transaction: dict[str, Any] = {
            "chainId": CHAIN_ID,
            "nonce": self.chain.next_nonce(bytes.fromhex(account.address[2:])),
            "gas": 400_000,
            "maxFeePerGas": 2_000_000,
            "maxPriorityFeePerGas": 1_000_000,
            "value": 0,
            "data": data,
            **({} if to is None else {"to": to_checksum_address(to)}),
        }
        if "gasPrice" in fields:
            del transaction["maxFeePerGas"], transaction["maxPriorityFeePerGas"]
        signed = account.sign_transaction({**transaction, **fields})
        return "0x" + bytes(signed.raw_transaction).hex()

    def send(
        self, account: LocalAccount, to: str | None, data: bytes = b"", **fields: Any
    ) -> dict[str, Any]:
        """Sign, send, and return the receipt."""
        raw = self.sign(account, to, data, **fields)
        return self.rpc("eth_getTransactionReceipt", self.rpc("eth_sendRawTransaction", raw))

    def deploy(self, account: LocalAccount, runtime: bytes) -> str:
        """Put code on the chain; its address."""
        # codecopy(0, offset, size); return(0, size)
        size = len(runtime).to_bytes(2, "big")
        init = b"\x61" + size + b"\x80\x60\x0b\x5f\x39\x5f\xf3"
        code = init.ljust(11, b"\x00") + runtime
        receipt = self.send(account, None, code, gas=2_000_000)
        assert receipt["status"] == "0x1"
        return receipt["contractAddress"]

    def call(self, data: bytes, to: str = TOKEN, sender: str | None = None) -> bytes:
        fields = {"to": to, "data": "0x" + data.hex()}
        answer = self.rpc("eth_call", {**fields, **({"from": sender} if sender else {})})
        return bytes.fromhex(answer[2:])

    def balance(self, address: str) -> int:
        return int.from_bytes(self.call(calldata("balanceOf(address)", address)), "big")
