"""Resident memory: what a process has of its own, and its model's pages whoever else maps them."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from parhelion.hosts import resident_bytes

MIB = 1024 * 1024
HOLD = """
import mmap, sys
file = open(sys.argv[1], "rb")
there = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
seen = sum(there[at] for at in range(0, int(sys.argv[2]), 4096))
own = bytearray(int(sys.argv[3]))
own[::4096] = b"x" * len(own[::4096])
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(path: Path, touched_bytes: int, own_bytes: int = 0) -> Iterator[int]:
    """A process that maps the file, has read so much of it, and has so much of its own."""
    command = [sys.executable, "-c", HOLD, str(path), str(touched_bytes), str(own_bytes)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.gguf"
    path.write_bytes(os.urandom(MIB) * 32)
    return path


def told(pid: int, *mapped: Path) -> int:
    found = resident_bytes(pid, mapped)
    assert found is not None
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the pages of one mapping")
def test_pages_of_a_model_count_for_each_process_that_maps_it(weights: Path) -> None:
    with holding(weights, 0) as idle, holding(weights, 32 * MIB) as one:
        alone = told(one, weights) - told(idle, weights)
        assert 30 * MIB < alone < 36 * MIB
        with holding(weights, 32 * MIB) as two:
            for pid in (one, two):
                assert 30 * MIB < told(pid, weights) - told(idle, weights) < 36 * MIB
            # Without the name of the file its shared pages are nobody's.
            assert told(two) - told(idle) < 8 * MIB


def test_what_a_process_has_of_its_own_counts(weights: Path) -> None:
    with holding(weights, 0) as idle, holding(weights, 0, 24 * MIB) as full:
        assert 22 * MIB < told(full) - told(idle) < 28 * MIB


def test_this_process_has_some_and_one_that_is_gone_has_none(weights: Path) -> None:
    assert (resident_bytes() or 0) > MIB
    with holding(weights, 0) as pid:
        pass
    assert resident_bytes(pid) is None


def test_mapping_without_reading_takes_nothing(weights: Path) -> None:
    before = resident_bytes(None, [weights]) or 0
    with weights.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        assert (resident_bytes(None, [weights]) or 0) - before < 8 * MIB
