"""Receipts answer their owner only; their evidence lives a quarter of an hour, within bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from parhelion import proof
from parhelion.proof import Receipts, leaf_hash
from parhelion.proof.receipts import EVIDENCE_LIMIT_BYTES, EVIDENCE_LIMIT_COUNT
from parhelion.store import Refused, Store
from parhelion.words import AssetClass, Evidence, Problem, ProblemCode


@dataclass
class StillClock:
    """Moves when the test says so."""

    s: float = 1000.0

    def now_ms(self) -> int:
        return int(self.s * 1000)

    def monotonic_s(self) -> float:
        return self.s


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
async def store(tmp_path: Path, clock: StillClock) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "db", proof.MIGRATIONS, AssetClass.LOCAL, clock)
    yield opened
    await opened.close()


@pytest.fixture
def receipts(store: Store, clock: StillClock) -> Receipts:
    return Receipts(store, clock)


def evidence(name: str, text: str = "") -> Evidence:
    return Evidence(receipt=name, opening="", prompt_ids=(), output_ids=(1, 70_000), text=text)


def is_gone(receipts: Receipts, name: str, account: str) -> bool:
    if receipts.has_evidence(name, account):
        return False
    with pytest.raises(Problem) as caught:
        receipts.evidence(name, account)
    return caught.value.code == ProblemCode.NOT_FOUND


async def test_a_receipt_comes_back_as_it_was_to_its_owner_only(
    receipts: Receipts, store: Store, honest: Any
) -> None:
    await store.commit([receipts.insert(honest.receipt, "acct_a")])
    assert await receipts.get(honest.receipt.id, "acct_a") == honest.receipt
    assert await receipts.leaf(honest.receipt.id) == leaf_hash(honest.receipt)
    for id, account in ((honest.receipt.id, "acct_b"), ("rcpt_none", "acct_a")):
        with pytest.raises(Problem) as caught:
            await receipts.get(id, account)
        assert caught.value.code == ProblemCode.NOT_FOUND
    assert await receipts.leaf("rcpt_none") is None


async def test_a_receipt_is_stored_once(receipts: Receipts, store: Store, honest: Any) -> None:
    await store.commit([receipts.insert(honest.receipt, "acct_a")])
    with pytest.raises(Refused):
        await store.commit([receipts.insert(honest.receipt, "acct_b")])


async def test_evidence_opens_to_its_owner_for_a_quarter_of_an_hour(
    receipts: Receipts, honest: Any, clock: StillClock
) -> None:
    receipts.keep_evidence(honest.evidence, "acct_a")
    clock.s += 15 * 60 - 0.001
    assert receipts.evidence(honest.evidence.receipt, "acct_a") == honest.evidence
    assert is_gone(receipts, honest.evidence.receipt, "acct_b")
    clock.s += 0.001
    assert is_gone(receipts, honest.evidence.receipt, "acct_a")


async def test_evidence_is_never_written_down(
    receipts: Receipts, store: Store, honest: Any, tmp_path: Path
) -> None:
    receipts.keep_evidence(honest.evidence, "acct_a")
    await store.commit([receipts.insert(honest.receipt, "acct_a")])
    await store.backup(tmp_path / "copy")
    data = (tmp_path / "copy").read_bytes()
    assert honest.evidence.opening.encode() not in data
    assert honest.opening not in data
    assert honest.evidence.text.encode() not in data


async def test_too_much_evidence_drops_the_oldest_first(receipts: Receipts) -> None:
    for n in range(EVIDENCE_LIMIT_COUNT + 3):
        receipts.keep_evidence(evidence(f"r{n}"), "a")
    assert [is_gone(receipts, f"r{n}", "a") for n in range(5)] == [True] * 3 + [False] * 2


async def test_large_evidence_takes_the_room_of_others_but_never_more(receipts: Receipts) -> None:
    third = "x" * (EVIDENCE_LIMIT_BYTES // 3)
    for n in range(3):
        receipts.keep_evidence(evidence(f"r{n}", third), "a")
    assert [is_gone(receipts, f"r{n}", "a") for n in range(3)] == [True, False, False]
    receipts.keep_evidence(evidence("huge", third * 4), "a")
    assert [is_gone(receipts, name, "a") for name in ("r1", "r2", "huge")] == [True] * 3


async def test_the_same_evidence_again_counts_once(receipts: Receipts) -> None:
    half = "x" * (EVIDENCE_LIMIT_BYTES // 2 - 1000)
    receipts.keep_evidence(evidence("r0", half), "a")
    for _ in range(5):
        receipts.keep_evidence(evidence("r1", half), "a")
    assert not is_gone(receipts, "r0", "a") and not is_gone(receipts, "r1", "a")
