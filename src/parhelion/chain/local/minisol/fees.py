"""What a transaction costs its fee payer: a pure function of its message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from solders.message import Message, MessageV0
from solders.pubkey import Pubkey

AnyMessage: TypeAlias = Message | MessageV0

LAMPORTS_PER_SIGNATURE = 5_000
MICRO_LAMPORTS_PER_LAMPORT = 1_000_000
COMPUTE_LIMIT_UNITS = 1_400_000
"""The most that one transaction may ask for, on the real chain too."""

DEFAULT_UNITS = 200_000
DEFAULT_BUILTIN_UNITS = 3_000
"""Taken for each instruction where no limit is asked for: by a program, or a native one."""

COMPUTE_BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
SET_LIMIT, SET_PRICE = 2, 3

NATIVE = frozenset(
    Pubkey.from_string(text)
    for text in (
        "11111111111111111111111111111111",
        "ComputeBudget111111111111111111111111111111",
        "Vote111111111111111111111111111111111111111",
        "BPFLoader1111111111111111111111111111111111",
        "BPFLoader2111111111111111111111111111111111",
        "BPFLoaderUpgradeab1e11111111111111111111111",
        "LoaderV411111111111111111111111111111111111",
    )
)

SIGNATURE_CHECKERS = frozenset(
    Pubkey.from_string(text)
    for text in (
        "Ed25519SigVerify111111111111111111111111111",
        "KeccakSecp256k11111111111111111111111111111",
        "Secp256r1SigVerify1111111111111111111111111",
    )
)
"""Native programs whose instructions carry signatures of their own, each charged like one."""


@dataclass(frozen=True, slots=True)
class Fee:
    """The two parts of a fee, in lamports."""

    base: int
    priority: int

    @property
    def total(self) -> int:
        """What the fee payer loses, also when the transaction fails."""
        return self.base + self.priority


def fee_of(message: AnyMessage) -> Fee:
    """Signatures at their fixed price, and compute price x compute limit, rounded up."""
    keys = message.account_keys
    signatures = message.header.num_required_signatures
    price = default_units = 0
    limit: int | None = None
    for instruction in message.instructions:
        index = instruction.program_id_index
        if index >= len(keys):
            continue  # LiteSVM refuses such a message; it costs nobody anything.
        program, data = keys[index], bytes(instruction.data)
        default_units += DEFAULT_BUILTIN_UNITS if program in NATIVE else DEFAULT_UNITS
        if program in SIGNATURE_CHECKERS and data:
            signatures += data[0]
        elif program == COMPUTE_BUDGET and len(data) >= 5 and data[0] == SET_LIMIT:
            limit = int.from_bytes(data[1:5], "little")
        elif program == COMPUTE_BUDGET and len(data) >= 9 and data[0] == SET_PRICE:
            price = int.from_bytes(data[1:9], "little")
    units = min(default_units if limit is None else limit, COMPUTE_LIMIT_UNITS)
    priority = -(-price * units // MICRO_LAMPORTS_PER_LAMPORT)
    return Fee(base=signatures * LAMPORTS_PER_SIGNATURE, priority=priority)
