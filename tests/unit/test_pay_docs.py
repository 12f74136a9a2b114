"""The buyers that docs/pay.md shows are the very programs that `make test-all` runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "tests" / "acceptance" / "clients"
SHOWN = {
    "buy_httpx.py": "python",
    "buy_requests.py": "python",
    "buy_openai.py": "python",
    "node/buy_fetch.mjs": "js",
    "node/buy_openai.mjs": "js",
    "buy_curl.sh": "sh",
    "sign.py": "python",
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_buyer_is_shown_as_it_is_run(name: str) -> None:
    page = (ROOT / "docs" / "pay.md").read_text("utf-8")
    program = (CLIENTS / name).read_text("utf-8")
    assert f"```{SHOWN[name]}\n{program}```" in page


def test_every_buyer_is_shown() -> None:
    found = {path.relative_to(CLIENTS).as_posix() for path in CLIENTS.glob("**/buy_*.*")}
    found = {name for name in found if "node_modules" not in name}
    assert found == {name for name in SHOWN if "buy_" in name}


def test_every_variable_of_the_buyers_is_explained() -> None:
    page = (ROOT / "docs" / "pay.md").read_text("utf-8")
    for name in SHOWN:
        program = (CLIENTS / name).read_text("utf-8")
        for variable in re.findall(r"\b(?:PARHELION_URL|\w+_KEY|\w+_RPC_URL|X402_\w+)\b", program):
            assert f"| `{variable}` |" in page, (name, variable)
