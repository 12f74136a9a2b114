"""Slots, commitments and blockhashes at any moment."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from parhelion.chain.local.minisol.slots import (
    BLOCKHASH_AGE_LIMIT_SLOTS,
    FIRST_SLOT,
    Blockhashes,
    Commitment,
    Timeline,
    confirmations,
    reached,
    slot_at_start,
)

SEED = bytes(32)
SLOTS = st.integers(0, 10**9)


@given(SLOTS, st.floats(0, 10**6), st.integers(1, 1000), st.integers(0, 10**5))
def test_a_slot_holds_from_its_own_beginning(
    anchor: int, anchor_s: float, slot_ms: int, ahead: int
) -> None:
    line = Timeline(anchor, anchor_s, slot_ms)
    start_s = line.starts_s(anchor + ahead)
    assert line.slot_at(start_s) == anchor + ahead
    assert line.slot_at(start_s + slot_ms / 2000) == anchor + ahead


def test_a_slot_takes_400_ms() -> None:
    line = Timeline(7, 100.0)
    assert [line.slot_at(100.0 + s) for s in (0.0, 0.399, 0.4, 0.81, 60.0)] == [7, 7, 8, 9, 157]


def test_time_before_the_anchor_is_the_anchors_slot() -> None:
    assert Timeline(7, 100.0).slot_at(3.0) == 7


@given(st.integers(0, 10**13), SLOTS, st.integers(-(10**13), 10**13))
def test_a_restart_never_goes_back_to_a_slot_in_which_something_landed(
    genesis_ms: int, last_slot: int, drift_ms: int
) -> None:
    assert slot_at_start(genesis_ms, last_slot, genesis_ms + drift_ms, 400) > last_slot


def test_a_chain_grew_while_it_was_down() -> None:
    assert slot_at_start(1_000, 5, 1_000 + 400 * 1_000, 400) == 1_000 + FIRST_SLOT


def test_a_blockhash_lives_for_150_slots_and_no_longer() -> None:
    hashes = Blockhashes(SEED)
    known = hashes.of(10)
    assert hashes.age(known, 10) == 0
    assert hashes.age(known, 10 + BLOCKHASH_AGE_LIMIT_SLOTS) == BLOCKHASH_AGE_LIMIT_SLOTS
    assert hashes.age(known, 11 + BLOCKHASH_AGE_LIMIT_SLOTS) is None


@given(SLOTS, st.integers(-200, 400))
def test_a_new_process_knows_the_same_blockhashes(slot: int, later: int) -> None:
    known, now = Blockhashes(SEED).of(slot), max(0, slot + later)
    expected = now - slot if 0 <= now - slot <= BLOCKHASH_AGE_LIMIT_SLOTS else None
    assert Blockhashes(SEED).age(known, now) == expected


def test_another_chain_has_other_blockhashes() -> None:
    assert Blockhashes(SEED).age(Blockhashes(b"\1" * 32).of(3), 3) is None


def test_the_known_blockhashes_stay_few() -> None:
    hashes = Blockhashes(SEED)
    for slot in (0, 1, 149, 10_000, 10_001, 500_000):
        hashes.age(b"", slot)
    assert len(hashes._slot_of) <= BLOCKHASH_AGE_LIMIT_SLOTS + 1


def test_commitment_grows_with_age() -> None:
    grown = [reached(age) for age in (0, 1, 31, 32)]
    assert grown == [
        Commitment.PROCESSED,
        Commitment.CONFIRMED,
        Commitment.CONFIRMED,
        Commitment.FINALIZED,
    ]
    assert [confirmations(age) for age in (0, 1, 31, 32)] == [0, 1, 31, None]
