"""Unmodified client libraries against a running pool (`make test-all` installs them)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from parhelion.testing.processes import Running

ROOT = Path(__file__).resolve().parents[2]
PROBES = Path(__file__).parent / "clients"

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
    ],
)
def test_a_python_client_library_works_unmodified(
    environment: str, probe: str, base_and_key: tuple[str, str]
) -> None:
    python = ROOT / f".venv-clients-{environment}" / "bin" / "python"
    _need(python.exists(), f"no {python.parent.parent.name}")
    _probe([str(python), str(PROBES / probe)], base_and_key)


def test_the_openai_package_for_node_works_unmodified(base_and_key: tuple[str, str]) -> None:
    node = shutil.which("node")
    _need(node is not None, "no node on the PATH")
    _need((PROBES / "node" / "node_modules").exists(), "its packages are not installed")
    assert node is not None
    _probe([node, str(PROBES / "node" / "probe.mjs")], base_and_key)


def _probe(command: list[str], base_and_key: tuple[str, str]) -> None:
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


def _need(there: bool, what: str) -> None:
    if there:
        return
    # On CI a probe that is skipped would look like one that passed.
    if os.environ.get("CI"):
        pytest.fail(f"{what}: `make test-all` makes it")
    pytest.skip(f"{what}: `make test-all` makes it")
