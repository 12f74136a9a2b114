"""The artefacts that the package ships are those of the sources beside it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from parhelion.chain import contracts

SOURCES = Path(__file__).parents[4] / "contracts"
NAMES = ("usdc", "multicall")


@pytest.mark.parametrize("name", NAMES)
def test_an_artefact_is_of_its_source(name: str) -> None:
    source = (SOURCES / f"{name}.vy").read_bytes()
    assert contracts.load(name).source_sha256 == hashlib.sha256(source).hexdigest(), (
        "run make contracts"
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_runtime_has_nothing_to_fill_in(name: str) -> None:
    # It is laid at its address without being deployed: what the deployment would add, immutables,
    # would be missing. So the deploying code must end with the runtime and its own footer.
    contract = contracts.load(name)
    assert contract.runtime[2:] in contract.bytecode
    assert contract.compiler.startswith("vyper 0.4.3")


def test_the_bytes_forms_are_in_the_abi() -> None:
    entries = [item for item in contracts.load("usdc").abi if item["type"] == "function"]
    names = [entry["name"] for entry in entries]
    for name in (
        "transferWithAuthorization",
        "receiveWithAuthorization",
        "cancelAuthorization",
        "permit",
    ):
        assert names.count(name) == 2


@pytest.mark.slow
def test_compiling_again_gives_the_same_bytes() -> None:
    command = [sys.executable, str(SOURCES / "compile.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
