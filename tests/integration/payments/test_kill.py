"""kill -9 at every step of a payment: it buys once, and books and chain agree to the unit."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHILD = Path(__file__).with_name("mortal.py")
PRICE_MICRO = 5_000
STEPS_LIMIT = 12
"""Far more steps than one payment has: a loop that gets here does not end."""

STORMS = 6
PAYERS = 5

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    children: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, str(CHILD), str(tmp_path), *map(str, arguments)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        children.append(child)
        return child

    yield start
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate(timeout=10)


def recovered(start: Start, *again: int) -> Any:
    child = start("recover", *again)
    said, complained = child.communicate(timeout=120)
    assert child.returncode == 0, complained
    told = json.loads(said.splitlines()[-1])
    books_are_the_chain(told)
    return told


def books_are_the_chain(told: Any) -> None:
    """To the unit: what landed is mirrored and credited once, and nothing else is."""
    landed = sum(told["chain"].values())
    assert told["mirror"] == told["credited"] == landed
    settled = {key: row for key, row in told["claims"].items() if row[0] == "settled"}
    assert {key: row[1] for key, row in settled.items()} == told["chain"]
    granted = [row[2] for row in settled.values() if row[2] is not None]
    assert sorted(granted) == sorted(told["holds"]), "one settled payment, at most one grant"
    assert {row[0] for row in told["claims"].values()} <= {"settled", "failed"}
    assert told["wallets"] <= PAYERS
    assert told["audit"] == []


@pytest.mark.parametrize("point", ["before", "after"])
def test_killed_at_every_step_of_a_payment_it_buys_once_and_is_booked_to_the_unit(
    tmp_path: Path, start: Start, point: str
) -> None:
    steps: list[str] = []
    for number in range(1, STEPS_LIMIT + 1):
        for file in tmp_path.iterdir():
            file.unlink()
        child = start("pay", point, number)
        said, complained = child.communicate(timeout=60)
        steps = [line for line in complained.splitlines() if line.startswith("step")]
        if child.returncode == 0:
            assert json.loads(said) == {"1": "paid"}
            break
        assert (child.returncode, said) == (-9, "")
        told = recovered(start, 1)
        assert len(told["holds"]) == 1, "who comes again with his payment is served, once"
    else:
        raise AssertionError("a payment does not end")
    names = " ".join(steps)
    assert "x402.claim" in names and "chain" in names and "deposit hold" in names, steps
    assert len(steps) >= 5


def test_killed_in_the_middle_of_storms_the_books_are_the_chain(
    tmp_path: Path, start: Start
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    dice = random.Random(seed)
    paid: list[int] = []
    sent: set[int] = set()
    for _ in range(STORMS):
        child = start("storm", dice.randrange(2**31))
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(dice.uniform(0.3, 1.2))
        child.kill()
        said, _complained = child.communicate(timeout=10)
        for line in said.splitlines(keepends=True):
            # A kill may cut the last line short.
            if line.endswith("\n"):
                number, what = line.split()
                sent.add(int(number))
                paid += [int(number)] * (what == "paid")
    assert len(paid) == len(set(paid)) > 20, "no payment was served twice"
    told = recovered(start, *sorted(sent)[:40])
    for number, answers in told["resent"].items():
        assert answers.count("paid") <= (0 if int(number) in paid else 1)
    assert len(told["holds"]) >= len(paid)
