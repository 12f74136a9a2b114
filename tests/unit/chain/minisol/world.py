"""A chain in this process, on a clock that stands still, and transactions for it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.token.associated import get_associated_token_address
from solders.transaction import VersionedTransaction

from parhelion.chain.local.minisol import rpc
from parhelion.chain.local.minisol.chain import Chain
from parhelion.chain.local.minisol.faucet import create_account
from parhelion.chain.local.minisol.genesis import MINT
from parhelion.chain.local.minisol.tokens import TOKEN
from parhelion.testing import ManualClock
from parhelion.testing.minisol import RpcRefusal

SLOT_S = 0.4
SOL = 10**9
PROCESSED = {"commitment": "processed"}
UNCHECKED = {"encoding": "base64", "skipPreflight": True}
CHECKED = {"encoding": "base64", "preflightCommitment": "processed"}


def entropy(count: int) -> bytes:
    """The same chain in every test."""
    return b"\7" * count


class World:
    """One chain and its clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.open()

    def open(self) -> None:
        """As a new process finds it: nothing is told of the end of the last one."""
        self.chain = Chain(self.folder, self.clock, entropy=entropy)

    async def reopen(self) -> None:
        await self.chain.close()
        self.open()

    async def call(self, method: str, *params: Any) -> Any:
        asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        said = json.loads(await rpc.answer(self.chain, json.dumps(asked).encode()))
        if "error" in said:
            raise RpcRefusal(said["error"])
        return said["result"]

    def slots(self, count: int) -> None:
        """Let so many slots pass."""
        self.clock.advance(count * SLOT_S)

    async def wallet(self, lamports: int = SOL, usdc_micro: int = 0) -> Keypair:
        wallet = Keypair()
        gift = {"lamports": lamports, "usdc": usdc_micro}
        await self.call("minisol_fund", str(wallet.pubkey()), gift)
        return wallet

    async def lamports(self, key: Pubkey, commitment: str = "processed") -> int:
        return (await self.call("getBalance", str(key), {"commitment": commitment}))["value"]

    async def usdc(self, owner: Pubkey) -> int:
        account = str(get_associated_token_address(owner, MINT))
        return int(
            (await self.call("getTokenAccountBalance", account, PROCESSED))["value"]["amount"]
        )

    def blockhash(self) -> Hash:
        return Hash.from_bytes(self.chain.blockhash(self.chain.now()))

    def signed(
        self, payer: Keypair, *instructions: Instruction, legacy: bool = False
    ) -> VersionedTransaction:
        """A transaction on the newest blockhash."""
        if legacy:
            old = Message.new_with_blockhash(list(instructions), payer.pubkey(), self.blockhash())
            return VersionedTransaction(old, [payer])
        new = MessageV0.try_compile(payer.pubkey(), list(instructions), [], self.blockhash())
        return VersionedTransaction(new, [payer])

    async def send(self, transaction: VersionedTransaction, how: Any = None) -> str:
        return await self.call("sendTransaction", wire(transaction), how or CHECKED)

    async def status(self, signature: str) -> dict[str, Any] | None:
        return (await self.call("getSignatureStatuses", [signature]))["value"][0]


def wire(transaction: VersionedTransaction) -> str:
    return base64.b64encode(bytes(transaction)).decode()


def give(source: Keypair, to: Pubkey, lamports: int) -> Instruction:
    return transfer(TransferParams(from_pubkey=source.pubkey(), to_pubkey=to, lamports=lamports))


def pay(source: Keypair, to: Pubkey, amount: int) -> Instruction:
    """USDC, as x402's own clients move it."""
    data = bytes([12]) + amount.to_bytes(8, "little") + bytes([6])
    accounts = [
        AccountMeta(get_associated_token_address(source.pubkey(), MINT), False, True),
        AccountMeta(MINT, False, False),
        AccountMeta(get_associated_token_address(to, MINT), False, True),
        AccountMeta(source.pubkey(), True, False),
    ]
    return Instruction(TOKEN, data, accounts)


def account_for(payer: Keypair, owner: Pubkey) -> Instruction:
    return create_account(payer.pubkey(), owner)
