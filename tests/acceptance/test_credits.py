"""Credits by the command line: bought from a wallet, shown to it, and sent back to it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from parhelion.testing.processes import WITH_CHAINS, Running, start_up
from tests.acceptance.test_pay import Person

NETWORKS = {
    "solana-testnet": "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z",
    "base-sepolia": "eip155:84532",
}
USD = 1_000_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start_up(tmp_path_factory.mktemp("up"), env=WITH_CHAINS)
    yield running
    running.stop()


@pytest.fixture
def person(up: Running, tmp_path: Path) -> Person:
    made = Person(up, tmp_path)
    for words in (("wallet", "new"), ("wallet", "fund", "--usd", "2")):
        assert made.types(*words)[0] == 0
    return made


def has(person: Person, network: str) -> int:
    """What the books have for the wallet on a network."""
    code, out, err = person.types("credits", "--json")
    assert code == 0, err
    rows = {row["network"]: row["balance"] for row in json.loads(out)["data"]}
    return int(rows[NETWORKS[network]]["available"])


def holds(person: Person, network: str) -> int:
    """What the wallet has on the chain."""
    rows = json.loads(person.types("wallet", "balance", "--json")[1])["data"]
    return {row["network"]: int(row["usdc"]) for row in rows}[NETWORKS[network]]


@pytest.mark.parametrize("network", list(NETWORKS))
def test_credits_are_bought_seen_and_sent_back_by_one_command_each(
    person: Person, network: str
) -> None:
    assert has(person, network) == 0
    bought = ("credits", "topup", "--usd", "1", "--network", network, "--yes", "--json")
    code, out, err = person.types(*bought)
    assert code == 0, err
    told = json.loads(out)
    assert told["credited"] == str(USD) and told["payment"]["state"] == "landed"
    assert told["key"].startswith("sk-prl-") and "custodial" in told["custody"]
    assert (has(person, network), holds(person, network)) == (USD, USD)

    # Signed in, without a network: only one of both has credits.
    code, out, err = person.types("credits", "withdraw", "--usd", "0.4")
    assert code == 0 and "0.4 USDC.local" in out, err
    assert (has(person, network), holds(person, network)) == (600_000, 1_400_000)
    code, out, err = person.types("credits", "withdraw", "--all", "--network", network, "--json")
    assert code == 0, err
    assert json.loads(out)["state"] == "confirmed"
    assert (has(person, network), holds(person, network)) == (0, 2 * USD)
    code, out, err = person.types("credits", "withdraw", "--all")
    assert code == 2 and "on no network" in err


def test_a_key_tops_its_own_account_up_and_withdraws_from_it(up: Running, person: Person) -> None:
    ways = ("--network", "base-sepolia", "--yes", "--json", "--usd", "0.25")
    key = json.loads(person.types("credits", "topup", *ways)[1])["key"]
    code, out, err = person.types("credits", "topup", *ways, "--key", key)
    assert code == 0, err
    told = json.loads(out)
    assert told["balance"]["available"] == "500000"
    words = ("credits", "withdraw", "--all", "--key", key)
    code, out, err = person.types(*words, where=person.pool)
    assert code == 0 and out.startswith("confirmed"), err
    assert holds(person, "base-sepolia") == 2 * USD


def test_the_limits_of_pay_hold_for_a_top_up_and_nobody_pays_without_a_yes(
    person: Person,
) -> None:
    code, out, err = person.types("credits", "topup", "--usd", "5", "--yes")
    assert (code, out) == (1, "") and "hint:" in err
    code, out, err = person.types("credits", "topup", "--usd", "1")
    assert (code, out) == (1, "") and "--yes" in err
    assert [holds(person, name) for name in NETWORKS] == [2 * USD, 2 * USD]


def test_a_restored_pool_says_that_its_chains_are_new_and_with_the_old_ones_it_pays_back(
    tmp_path: Path, begun: Callable[[Running], Running]
) -> None:
    old = begun(start_up(tmp_path / "old", env=WITH_CHAINS))
    person = Person(old, tmp_path)
    for words in (("wallet", "new"), ("wallet", "fund", "--usd", "2")):
        assert person.types(*words)[0] == 0
    bought = ("credits", "topup", "--network", "base-sepolia", "--yes")
    assert person.types(*bought)[0] == 0
    file = str(tmp_path / "saved")
    assert person.types("backup", file, where=person.pool)[0] == 0
    assert old.stop() == 0
    for name in ("alone", "whole"):
        folder = tmp_path / name
        words = ("backup", "restore", file, "--data", str(folder))
        assert person.types(*words, where=[])[0] == 0
    shutil.copytree(tmp_path / "old" / "chains", tmp_path / "whole" / "chains")

    alone = begun(start_up(tmp_path / "alone", env=WITH_CHAINS))
    await_line(alone, "begun anew")
    person = Person(alone, tmp_path)
    assert has(person, "base-sepolia") == USD, "the books have it"
    code, _, err = person.types("credits", "withdraw", "--all", "--network", "base-sepolia")
    assert code == 1 and "too little lies at the seller's address" in err
    assert (has(person, "base-sepolia"), holds(person, "base-sepolia")) == (USD, 0)
    assert alone.stop() == 0

    whole = begun(start_up(tmp_path / "whole", env=WITH_CHAINS))
    person = Person(whole, tmp_path)
    assert person.types("credits", "withdraw", "--all", "--network", "base-sepolia")[0] == 0
    assert (has(person, "base-sepolia"), holds(person, "base-sepolia")) == (0, 2 * USD)
    assert "begun anew" not in whole.log.read_text()
    assert whole.stop() == 0


def await_line(running: Running, words: str) -> None:
    """Wait until the log says so."""
    ends_at_s = time.monotonic() + 20
    while words not in running.log.read_text():
        assert time.monotonic() < ends_at_s, running.log.read_text()[-2000:]
        time.sleep(0.1)
