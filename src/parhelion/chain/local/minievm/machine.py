# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportIncompatibleVariableOverride=false
# py-evm makes its classes at run time, so a checker cannot know their fields.
"""The EVM: py-evm's state of the Prague fork over our file's trie nodes.

Two fences are ours. A read is ended after `CALL_TIME_S`, tested at each JUMPDEST, which every loop
must pass. And the pairing precompiles fail instead of computing: in Python one call of a few
thousand gas would take seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from eth.abc import ComputationAPI, SignedTransactionAPI
from eth.db.atomic import AtomicDB
from eth.db.backends.base import BaseDB
from eth.exceptions import VMError
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.prague.computation import PRAGUE_PRECOMPILES, PragueComputation
from eth.vm.forks.prague.opcodes import PRAGUE_OPCODES
from eth.vm.forks.prague.state import PragueState
from eth.vm.forks.prague.transactions import PragueTransactionBuilder
from eth.vm.opcode_values import JUMPDEST
from eth.vm.spoof import SpoofTransaction
from eth_typing import Address, BlockNumber, Hash32

from parhelion.chain.local.minievm.limits import CALL_TIME_S, CHAIN_ID

BLANK_ROOT = bytes.fromhex("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421")
SLOW_PRECOMPILES = (*range(0x06, 0x09), *range(0x0A, 0x12))
"""bn254's curve arithmetic, KZG's point evaluation, BLS12-381."""


class OutOfTime(Exception):
    """A read computed for longer than it may; nothing that a contract could catch."""


def _not_offered(_: ComputationAPI) -> None:
    raise VMError("precompile not offered by minievm")


def _timed_jumpdest(computation: ComputationAPI) -> None:
    PRAGUE_OPCODES[JUMPDEST](computation)
    if time.monotonic() > cast("ReadState", computation.state).ends_at_s:
        raise OutOfTime


class Computation(PragueComputation):
    """A transaction's computation."""

    _precompiles: ClassVar = {
        **PRAGUE_PRECOMPILES,
        **{Address(number.to_bytes(20, "big")): _not_offered for number in SLOW_PRECOMPILES},
    }


class ReadComputation(Computation):
    """A read's computation, which ends when its time is over."""

    opcodes = cast("Any", {**PRAGUE_OPCODES, JUMPDEST: _timed_jumpdest})


class State(PragueState):
    """The accounts at one block, as a transaction sees and changes them."""

    computation_class = Computation


class ReadState(PragueState):
    """The accounts at one block, as a read sees them; what it changes is dropped."""

    computation_class = ReadComputation
    ends_at_s: float = float("inf")


class Nodes(BaseDB):
    """Trie nodes and code: new ones in memory until their block is committed, the rest on disk."""

    def __init__(self, on_disk: Callable[[bytes], bytes | None]) -> None:
        self._on_disk = on_disk
        self.new: dict[bytes, bytes] = {}

    def __getitem__(self, key: bytes) -> bytes:
        found = self.new.get(key)
        if found is None:
            found = self._on_disk(key)
        if found is None:
            raise KeyError(key)
        return found

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.new[key] = value

    def __delitem__(self, key: bytes) -> None:
        # What is on the disk stays: older states need it.
        self.new.pop(key, None)

    def _exists(self, key: bytes) -> bool:
        return key in self.new or self._on_disk(key) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The block in which code runs; `parents` are the hashes before it, the nearest first."""

    number: int
    timestamp: int
    base_fee: int
    gas_limit: int
    coinbase: bytes
    parents: Iterable[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Something to compute without a signature."""

    sender: bytes
    to: bytes
    value: int
    data: bytes
    gas: int
    fee_cap: int
    tip_cap: int
    access_list: tuple[tuple[bytes, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a computation went: `error` is None, or what the EVM called the failure."""

    error: str | None
    reverted: bool
    output: bytes
    gas_used: int
    logs: tuple[tuple[bytes, tuple[int, ...], bytes], ...]
    created: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account at one block."""

    nonce: int
    balance: int
    has_code: bool


def context(setting: Setting) -> ExecutionContext:
    """py-evm's name for the block in which code runs."""
    return ExecutionContext(
        coinbase=Address(setting.coinbase),
        timestamp=setting.timestamp,
        block_number=BlockNumber(setting.number),
        difficulty=0,
        mix_hash=Hash32(bytes(32)),
        gas_limit=setting.gas_limit,
        prev_hashes=cast("Iterable[Hash32]", setting.parents),
        chain_id=CHAIN_ID,
        base_fee_per_gas=setting.base_fee,
        excess_blob_gas=0,
    )


def state(nodes: Nodes, root: bytes, setting: Setting) -> State:
    """The accounts under `root`; what changes goes to `nodes.new` when it is persisted."""
    return State(AtomicDB(nodes), context(setting), Hash32(root))


def apply(accounts: State, transaction: SignedTransactionAPI) -> Outcome:
    """Run a transaction that was admitted; the accounts change, also when it reverts."""
    computation = accounts.apply_transaction(transaction)
    accounts.lock_changes()
    return _outcome(computation, transaction.gas)


def run(nodes: Nodes, root: bytes, setting: Setting, call: Call) -> Outcome:
    """Compute without changing anything; OutOfTime when it takes too long."""
    scratch = Nodes(nodes._on_disk)  # pyright: ignore[reportPrivateUsage]
    accounts = ReadState(AtomicDB(scratch), context(setting), Hash32(root))
    accounts.ends_at_s = time.monotonic() + CALL_TIME_S
    unsigned = PragueTransactionBuilder.new_unsigned_dynamic_fee_transaction(
        chain_id=CHAIN_ID,
        nonce=accounts.get_nonce(Address(call.sender)),
        max_priority_fee_per_gas=call.tip_cap,
        max_fee_per_gas=call.fee_cap,
        gas=call.gas,
        to=Address(call.to),
        value=call.value,
        data=call.data,
        access_list=[(Address(address), slots) for address, slots in call.access_list],
    )
    # A read is not charged for gas unless it names a price, as in geth.
    transaction = cast("Any", SpoofTransaction(unsigned, from_=Address(call.sender)))
    return _outcome(accounts.apply_transaction(transaction), call.gas)


def intrinsic_gas(to: bytes, data: bytes, access_list: Any = ()) -> int:
    """What a transaction costs before it computes anything."""
    return PragueTransactionBuilder.new_unsigned_dynamic_fee_transaction(
        CHAIN_ID, 0, 0, 0, 0, Address(to), 0, data, list(access_list)
    ).intrinsic_gas


def _outcome(computation: ComputationAPI, gas: int) -> Outcome:
    # As `finalize_computation` charges it; PragueVM's own receipt rounds the refund differently
    # where EIP-7623's floor applies.
    spent = gas - computation.get_gas_remaining()
    refund = min(computation.get_gas_refund(), spent // 5)
    error = computation.error if computation.is_error else None
    message = computation.msg
    return Outcome(
        error=None if error is None else (str(error) or type(error).__name__),
        reverted=type(error).__name__ == "Revert",
        output=computation.output,
        gas_used=spent - refund + computation.data_floor_gas,
        logs=tuple(cast("Any", computation.get_log_entries())) if error is None else (),
        created=bytes(message.storage_address) if message.is_create else None,
    )
