"""The chain: takes transactions, makes blocks, and answers about any block there ever was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from eth_typing import Address

from parhelion.chain.local.minievm import machine
from parhelion.chain.local.minievm.admission import Standing, admit
from parhelion.chain.local.minievm.genesis import first_block
from parhelion.chain.local.minievm.limits import (
    BASE_FEE_WEI,
    BLOCK_GAS,
    CHAIN_ID,
    FEE_VAULT,
    IDLE_BLOCK_S,
)
from parhelion.chain.local.minievm.machine import Account, Call, Nodes, Outcome, Setting
from parhelion.chain.local.minievm.records import Header
from parhelion.chain.local.minievm.sealing import Run, read_header, seal
from parhelion.chain.local.minievm.signed import Signed, read
from parhelion.chain.local.minievm.store import ChainFile
from parhelion.words import Problem, ProblemCode


class Chain:
    """One chain over one file; every change is durable when its call returns.

    With `at_once` each transaction is mined into a block of its own before its hash is answered.
    Else it waits, durably too, until `mine` is called.
    """

    def __init__(
        self, file: ChainFile, faucet: bytes, clock_s: Callable[[], float], *, at_once: bool
    ) -> None:
        self._file = file
        self._clock_s = clock_s
        self._at_once = at_once
        self.head = self._open(faucet)
        self.waiting: dict[bytes, Signed] = {}
        for raw in file.pending():
            signed = read(raw)
            self.waiting[signed.hash] = signed

    def submit(self, raw: bytes) -> bytes:
        """Take a signed transaction; its hash, once it cannot be lost any more."""
        signed = read(raw)
        standing = self._standing(signed)
        admit(signed, standing)
        if self._at_once:
            self._append([signed])
            return signed.hash
        old = None if standing.replaced is None else standing.replaced.hash
        self._file.keep_pending(signed.hash, raw, old)
        # A replacement keeps its sender's order: nonces of one sender must rise.
        self.waiting = {key: value for key, value in self.waiting.items() if key != old}
        self.waiting[signed.hash] = signed
        return signed.hash

    def mine(self) -> bool:
        """Make a block of what waits; False when nothing did."""
        chosen: list[Signed] = []
        gas = 0
        for signed in sorted(self.waiting.values(), key=lambda item: item.nonce):
            if gas + signed.gas <= BLOCK_GAS:
                chosen.append(signed)
                gas += signed.gas
        return bool(chosen) and self._append(chosen)

    def catch_up(self) -> None:
        """Make an empty block where the last one is of long ago, so that its time is about now."""
        parent = self.head
        timestamp = int(self._clock_s())
        if timestamp >= parent.timestamp + IDLE_BLOCK_S:
            block = seal(parent, timestamp, parent.state_root, [], {})
            self._file.append(block)
            self.head = block.header

    def account(self, header: Header, address: bytes) -> Account:
        """An account at a block."""
        accounts = self._state(header)
        return Account(
            nonce=accounts.get_nonce(Address(address)),
            balance=accounts.get_balance(Address(address)),
            has_code=bool(accounts.get_code(Address(address))),
        )

    def code(self, header: Header, address: bytes) -> bytes:
        """The code at an address at a block."""
        return self._state(header).get_code(Address(address))

    def storage(self, header: Header, address: bytes, slot: int) -> int:
        """One word of a contract's storage at a block."""
        return self._state(header).get_storage(Address(address), slot)

    def call(self, header: Header, call: Call) -> Outcome:
        """Compute at a block without changing anything."""
        # A read that names no price sees a base fee of 0, else it could not afford the block's.
        base_fee = header.base_fee if call.fee_cap else 0
        setting = replace(self._setting(header), base_fee=base_fee, timestamp=self._now_s(header))
        return machine.run(Nodes(self._file.node), header.state_root, setting, call)

    def next_nonce(self, address: bytes) -> int:
        """The nonce of the sender's next transaction, those that wait counted."""
        mined = self.account(self.head, address).nonce
        return mined + sum(1 for signed in self.waiting.values() if signed.sender == address)

    def header(self, number: int) -> Header | None:
        """The block of this number."""
        encoded = self._file.header(number)
        return None if encoded is None else read_header(encoded)

    def header_of(self, block_hash: bytes) -> Header | None:
        """The block of this hash."""
        encoded = self._file.header_of(block_hash)
        return None if encoded is None else read_header(encoded)

    @property
    def file(self) -> ChainFile:
        """Receipts and logs as they were kept."""
        return self._file

    def _append(self, transactions: list[Signed]) -> bool:
        parent = self.head
        # Two blocks may be of the same second; a clock that was set back moves no block back.
        timestamp = max(int(self._clock_s()), parent.timestamp)
        nodes = Nodes(self._file.node)
        setting = self._setting(replace(parent, number=parent.number + 1, timestamp=timestamp))
        accounts = machine.state(nodes, parent.state_root, setting)
        runs: list[Run] = []
        for signed in transactions:
            if accounts.get_nonce(Address(signed.sender)) == signed.nonce:
                runs.append(Run(signed, machine.apply(accounts, signed.inner)))
        if not runs:
            return False
        accounts.persist()
        block = seal(parent, timestamp, bytes(accounts.state_root), runs, nodes.new)
        self._file.append(block)
        self.head = block.header
        for run in runs:
            self.waiting.pop(run.signed.hash, None)
        return True

    def _standing(self, signed: Signed) -> Standing:
        account = self.account(self.head, signed.sender)
        mine = [other for other in self.waiting.values() if other.sender == signed.sender]
        return Standing(
            nonce=account.nonce + len(mine),
            balance=account.balance,
            has_code=account.has_code,
            known=signed.hash in self.waiting,
            replaced=next((other for other in mine if other.nonce == signed.nonce), None),
            reserved=sum(other.cost for other in mine),
            waiting=len(self.waiting),
        )

    def _state(self, header: Header) -> machine.State:
        return machine.state(Nodes(self._file.node), header.state_root, self._setting(header))

    def _now_s(self, header: Header) -> int:
        # Base makes a block every 2 s, so that its last one is of now. Ours may be of yesterday,
        # and what is only valid from today on would fail in a read and pass when it is sent.
        at_head = header.number == self.head.number
        return max(int(self._clock_s()), header.timestamp) if at_head else header.timestamp

    def _setting(self, header: Header) -> Setting:
        return Setting(
            number=header.number,
            timestamp=header.timestamp,
            base_fee=header.base_fee,
            gas_limit=BLOCK_GAS,
            coinbase=FEE_VAULT,
            parents=self._file.hashes_before(header.number),
        )

    def _open(self, faucet: bytes) -> Header:
        facts = {"chain_id": str(CHAIN_ID), "faucet": faucet.hex()}
        encoded = self._file.head()
        if encoded is None:
            genesis = first_block(int(self._clock_s()), faucet)
            self._file.begin_chain(genesis, facts)
            return genesis.header
        for name, value in facts.items():
            if self._file.fact(name) != value:
                raise Problem(
                    ProblemCode.STORE_UNAVAILABLE,
                    f"this chain was made with another {name.replace('_', ' ')}",
                    hint="put its faucet.key back, or give the chain a folder of its own",
                )
        head = read_header(encoded)
        if head.base_fee != BASE_FEE_WEI or self._file.node(head.state_root) is None:
            raise Problem(
                ProblemCode.STORE_UNAVAILABLE,
                "the chain's last block has no state in this file",
                hint="restore the file from a backup, or remove the folder to begin a new chain",
            )
        return head
