"""A coordinator's nodes and clients are as many as the machine allows, not as its shell does."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from parhelion.bootstrap.open_files import LEAST, raised, tell

LOWERED = """
import resource
from parhelion.bootstrap.open_files import WANTED, raise_open_files
_soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
raise_open_files()
soft, kept = resource.getrlimit(resource.RLIMIT_NOFILE)
assert kept == hard, "the hard limit is not ours to lower"
print(soft > 256 if hard > 256 or hard == resource.RLIM_INFINITY else soft == hard)
"""


class System:
    """One that allows so many, whatever it says."""

    def __init__(self, most: int) -> None:
        self.most, self.limit = most, 0

    def put(self, limit: int) -> None:
        if limit > self.most:
            raise ValueError("current limit exceeds maximum limit")
        self.limit = limit


@pytest.mark.parametrize(
    ("soft", "goal", "most", "limit"),
    [
        (1024, 65_536, 65_536, 65_536),  # the common case
        (256, 65_536, 10_240, 8192),  # macOS: less than it said
        (20_000, 4096, 4096, 20_000),  # never lowered
        (1024, 65_536, 100, 1024),  # nothing is allowed: it stays as it was
    ],
)
def test_the_limit_is_raised_as_far_as_the_system_lets_it(
    soft: int, goal: int, most: int, limit: int
) -> None:
    system = System(most)
    assert raised(soft, goal, system.put) == limit
    assert system.limit in (0, limit)


def test_a_small_limit_is_warned_of_and_a_large_one_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "parhelion"):
        tell(LEAST)
        assert not caplog.records
        tell(1024)
    (record,) = caplog.records
    assert (record.limit, record.fit) == (1024, 896)  # type: ignore[attr-defined]
    assert "LimitNOFILE" in record.hint  # type: ignore[attr-defined]


@pytest.mark.skipif(sys.platform == "win32", reason="sockets are not counted there")
def test_a_real_process_raises_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOWERED], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "True\n"
