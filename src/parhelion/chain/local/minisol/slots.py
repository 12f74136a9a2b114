"""Slots from time and blockhashes from slots: pure, so that a test can stand at any moment."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

SLOT_MS = 400
"""Solana's target time of a block."""

BLOCKHASH_AGE_LIMIT_SLOTS = 150
"""Solana's MAX_PROCESSING_AGE: a transaction may name a blockhash at most this old."""

CONFIRMED_AFTER_SLOTS = 1
"""Validators of the real chain vote a block confirmed within one or two slots."""

FINALIZED_AFTER_SLOTS = 32
"""A block is rooted under 32 confirmations."""

FIRST_SLOT = FINALIZED_AFTER_SLOTS
"""Where a chain begins: what lands first must wait for its finality like everything after it."""

SLOTS_PER_EPOCH = 432_000


class Commitment(StrEnum):
    """How sure a reader wants to be, in Solana's words."""

    PROCESSED = "processed"
    CONFIRMED = "confirmed"
    FINALIZED = "finalized"


LAG_SLOTS = {
    Commitment.PROCESSED: 0,
    Commitment.CONFIRMED: CONFIRMED_AFTER_SLOTS,
    Commitment.FINALIZED: FINALIZED_AFTER_SLOTS,
}


def reached(age_slots: int) -> Commitment:
    """The commitment of what landed `age_slots` ago."""
    if age_slots >= FINALIZED_AFTER_SLOTS:
        return Commitment.FINALIZED
    return Commitment.CONFIRMED if age_slots >= CONFIRMED_AFTER_SLOTS else Commitment.PROCESSED


def confirmations(age_slots: int) -> int | None:
    """Blocks on top of it; None once it is final, as Solana answers."""
    return None if age_slots >= FINALIZED_AFTER_SLOTS else age_slots


@dataclass(frozen=True, slots=True)
class Timeline:
    """Slots tick with the monotonic clock, from one anchor: no wall clock moves them."""

    anchor_slot: int
    anchor_s: float
    slot_ms: int = SLOT_MS

    def slot_at(self, monotonic_s: float) -> int:
        """The slot that is being filled at this moment."""
        # A nanosecond's grace: without it, the sum that `starts_s` made may lie below its slot.
        elapsed_slots = (monotonic_s - self.anchor_s) * 1000 / self.slot_ms + 1e-6
        return self.anchor_slot + max(0, int(elapsed_slots))

    def starts_s(self, slot: int) -> float:
        """When a slot begins, by the monotonic clock."""
        return self.anchor_s + (slot - self.anchor_slot) * self.slot_ms / 1000


def slot_at_start(genesis_ms: int, last_slot: int, now_ms: int, slot_ms: int) -> int:
    """Where a restarted chain goes on: it grew while we were down, and it never goes back.

    A wall clock that was set back must not let a blockhash that had expired be recent again.
    """
    return max(last_slot + 1, FIRST_SLOT + max(0, now_ms - genesis_ms) // slot_ms)


class Blockhashes:
    """The blockhash of every slot, from the chain's seed: a restart knows the same ones."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._slot_of: dict[bytes, int] = {}
        self._newest = -1

    def of(self, slot: int) -> bytes:
        """The 32 bytes that a transaction built in this slot names."""
        return sha256(b"minisol blockhash" + self._seed + slot.to_bytes(8, "little")).digest()

    def age(self, blockhash: bytes, slot: int) -> int | None:
        """How many slots old a blockhash is; None for one that is too old or was never ours."""
        self._advance(slot)
        born = self._slot_of.get(blockhash)
        return None if born is None or born > slot else slot - born

    def _advance(self, slot: int) -> None:
        if slot <= self._newest:
            return
        oldest = max(0, slot - BLOCKHASH_AGE_LIMIT_SLOTS)
        for new in range(max(oldest, self._newest + 1), slot + 1):
            self._slot_of[self.of(new)] = new
        self._newest = slot
        # Insertion order is slot order: the expired ones stand in front.
        for old in [known for known, born in self._slot_of.items() if born < oldest]:
            del self._slot_of[old]
