"""Unmodified client libraries against a running pool (`make test-all` installs them)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from parhelion.testing.processes import Running

PROBE_LIMIT_S = 300
"""litellm's import alone takes seconds on a busy machine."""

NO_KEY = "none"
"""What README tells people to say on a free pool, because SDKs insist on a key."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(PROBE_LIMIT_S + 30)]


@pytest.fixture(params=["paid", "free"])
def base_and_key(request: pytest.FixtureRequest) -> tuple[str, str]:
    """What an application is configured with: a pool's address, and a key."""
    if request.param == "free":
        free: Running = request.getfixturevalue("free_pool")
        return f"{free.api}/v1", NO_KEY
    paid: Running = request.getfixturevalue("pool")
    assert paid.key is not None
    return f"{paid.api}/v1", paid.key


@pytest.mark.parametrize(
    ("environment", "probe"),
    [
        ("litellm", "probe_openai.py"),
        ("openai", "probe_openai.py"),
        ("litellm", "probe_langchain.py"),
        ("litellm", "probe_litellm.py"),
        ("node", "probe.mjs"),
    ],
)
def test_a_client_library_works_unmodified(
    environment: str,
    probe: str,
    base_and_key: tuple[str, str],
    client_library: Callable[[str, str], list[str]],
) -> None:
    command = client_library(environment, probe)
    done = subprocess.run(
        [*command, *base_and_key],
        capture_output=True,
        text=True,
        timeout=PROBE_LIMIT_S,
        # litellm would fetch its price list from the network.
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith("ok")
