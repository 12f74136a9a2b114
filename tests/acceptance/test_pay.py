"""A newcomer with `up`: a wallet, play money, and a paid answer, each by one command."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from parhelion.testing.processes import WITH_CHAINS, Running, start_up

NEWCOMER_S = 60.0
COMMAND_S = 60.0


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start_up(tmp_path_factory.mktemp("up"), env=WITH_CHAINS)
    yield running
    running.stop()


class Person:
    """Somebody at a shell, with a wallet of their own."""

    def __init__(self, up: Running, folder: Path) -> None:
        self.wallet = folder / "wallet.json"
        self.pool = ["--data", str(up.log.parent)]
        self.where = ["--wallet", str(self.wallet), *self.pool]

    def types(
        self, *words: str, said: str = "", where: list[str] | None = None
    ) -> tuple[int, str, str]:
        """A command line; a wallet's secrets are in nothing that it prints."""
        where = self.where if where is None else where
        command = [sys.executable, "-m", "parhelion", *words, *where]
        done = subprocess.run(
            command, input=said, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
        if self.wallet.exists():
            file = json.loads(self.wallet.read_text())
            for secret in (file["solana"]["secret"], file["evm"]["secret"][2:]):
                assert secret not in done.stdout + done.stderr
        return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_newcomer_comes_from_no_wallet_to_a_paid_answer_within_a_minute(
    up: Running, tmp_path: Path
) -> None:
    person = Person(up, tmp_path)
    began_s = time.monotonic()
    assert person.types("wallet", "new")[0] == 0
    assert person.types("wallet", "fund")[0] == 0
    code, out, err = person.types(
        "pay", "chat", "Why is the sky blue?", "--max-tokens", "16", "--yes"
    )
    took_s = time.monotonic() - began_s
    assert code == 0 and out.strip(), err
    assert "(LOCAL)" in err and "checked on the chain" in err and "verified, signed by" in err
    assert took_s < NEWCOMER_S
    print(f"from no wallet to a paid answer: {took_s:.1f} s")


@pytest.mark.slow
@pytest.mark.parametrize("network", ["solana-testnet", "base-sepolia"])
def test_the_chain_the_ledger_and_the_receipt_agree_on_what_was_paid(
    up: Running, tmp_path: Path, network: str
) -> None:
    person = Person(up, tmp_path)
    for words in (("wallet", "new"), ("wallet", "fund", "--usd", "1")):
        assert person.types(*words)[0] == 0
    ways = {"--max-tokens": ("12", 1_000), "--tier": ("basic", 10_000)}
    spent = 0
    for option, (value, price) in ways.items():
        words = ("pay", "chat", "Hello", option, value, "--network", network, "--yes", "--json")
        code, out, err = person.types(*words)
        assert code == 0, err
        found = json.loads(out)
        spent += price
        assert found["payment"]["state"] == "landed" and found["payment"]["amount"] == str(price)
        assert found["receipt"]["valid"] is True
        usage = found["usage"]
        assert int(usage["cost"]) + int(usage["credited"]) == price
    rows = json.loads(person.types("wallet", "balance", "--json")[1])["data"]
    left = {row["network"]: int(row["usdc"]) for row in rows}
    assert left[found["payment"]["network"]] == 1_000_000 - spent


@pytest.mark.slow
@pytest.mark.usefixtures("one_day")
def test_each_turn_of_a_chat_is_paid_and_the_days_limit_ends_it(
    up: Running, tmp_path: Path
) -> None:
    person = Person(up, tmp_path)
    for words in (("wallet", "new"), ("wallet", "fund")):
        assert person.types(*words)[0] == 0
    limits = ("--max-tokens", "8", "--max-usd-per-day", "0.002", "--x402")
    code, out, err = person.types("chat", *limits, "--yes", "--json", said="hi\nand?\nmore?\n")
    turns = [json.loads(line) for line in out.splitlines()]
    assert code == 1 and len(turns) == 3
    assert [turn["payment"] and turn["payment"]["state"] for turn in turns] == ["landed"] * 2 + [
        None
    ]
    assert turns[0]["payment"]["transaction"] != turns[1]["payment"]["transaction"]
    assert "what is left of today" in err
    code, out, err = person.types("chat", *limits, said="hi\n")
    assert (code, out) == (1, "") and "--yes" in err
