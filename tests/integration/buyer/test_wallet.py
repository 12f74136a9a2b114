"""`parhelion wallet` on real local chains: funded, looked at, sent from."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from eth_account import Account
from solders.keypair import Keypair

from parhelion.testing.minisol import MinisolProcess
from tests.integration.buyer.conftest import Person
from tests.integration.buyer.shop import EVM, MINT, SOLANA, USDC
from tests.integration.chain.minievm.processes import Evm


def on_solana(minisol: MinisolProcess, owner: str) -> int:
    how = {"encoding": "jsonParsed", "commitment": "processed"}
    rows = minisol.call("getTokenAccountsByOwner", owner, {"mint": MINT}, how)["value"]
    held = [row["account"]["data"]["parsed"]["info"]["tokenAmount"]["amount"] for row in rows]
    return sum(int(amount) for amount in held)


def on_evm(evm: Evm, owner: str) -> int:
    data = "0x70a08231" + owner[2:].lower().rjust(64, "0")
    return int(evm.ask("eth_call", {"to": USDC, "data": data}, "latest"), 16)


def test_a_new_wallet_is_funded_on_both_local_chains(person: Person) -> None:
    assert person.usdc() == {SOLANA: 0, EVM: 0}
    code, out, _ = person.types("wallet", "fund", "--usd", "2.5")
    assert code == 0
    assert out.count("2.5 USDC.local") == 2 and out.count("(LOCAL)") == 2
    assert person.usdc() == {SOLANA: 2_500_000, EVM: 2_500_000}


def test_a_wallet_is_sent_from_on_both_chains_and_makes_the_payees_account(
    person: Person, minisol: MinisolProcess, evm: Evm
) -> None:
    person.types("wallet", "fund", "--usd", "3")
    ways: list[tuple[str, str, Callable[[str], int]]] = [
        ("solana-testnet", str(Keypair().pubkey()), lambda to: on_solana(minisol, to)),
        ("base-sepolia", Account.create().address, lambda to: on_evm(evm, to)),
    ]
    for network, to, held in ways:
        code, out, err = person.types("wallet", "send", to, "1.25", "--network", network, "--yes")
        assert (code, out) == (0, f"sent 1.25 USDC.local on {network} (LOCAL)\n"), err
        assert "transaction " in err
        assert held(to) == 1_250_000
    assert person.usdc() == {SOLANA: 1_750_000, EVM: 1_750_000}


def test_more_than_there_is_is_refused_by_both_chains_and_nothing_moves(person: Person) -> None:
    person.types("wallet", "fund", "--usd", "1")
    for network, to in (
        ("solana-testnet", str(Keypair().pubkey())),
        ("base-sepolia", Account.create().address),
    ):
        code, out, err = person.types("wallet", "send", to, "1.1", "--network", network, "--yes")
        assert (code, out) == (1, ""), err
    assert person.usdc() == {SOLANA: 1_000_000, EVM: 1_000_000}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("0x" + "11" * 20, "1", "--network", "solana-testnet"), "no address there"),
        (("nobody", "1", "--network", "base-sepolia"), "no address there"),
        (("0x" + "11" * 20, "0", "--network", "base-sepolia"), "nothing would move"),
        (("0x" + "11" * 20, "1.0000001", "--network", "base-sepolia"), "is not an amount"),
    ],
)
def test_a_transfer_that_cannot_be_meant_is_wrong_usage(
    person: Person, words: tuple[str, ...], says: str
) -> None:
    code, _, err = person.types("wallet", "send", *words, "--yes")
    assert code == 2 and says in err


def test_nothing_is_sent_without_a_yes(person: Person) -> None:
    to = Account.create().address
    code, out, err = person.types("wallet", "send", to, "1", "--network", "base-sepolia")
    assert (code, out) == (1, "") and "--yes" in err


def test_nothing_is_given_away_where_no_local_chain_is_known(person: Person) -> None:
    file = person.folder / "api.json"
    told = json.loads(file.read_text())
    for rows in (
        [],
        [{**told["chains"][0], "local": False}],
        [{**told["chains"][0], "rpc": "https://rpc.example"}],
    ):
        file.write_text(json.dumps({**told, "chains": rows}))
        code, _, err = person.types("wallet", "fund")
        assert code == 1 and "nobody gives money away" in err


def test_a_real_network_is_asked_where_it_is_named(person: Person, evm: Evm) -> None:
    person.types("wallet", "fund", "--usd", "1")
    (person.folder / "api.json").unlink()
    assert person.types("wallet", "balance")[0] == 1
    (row,) = person.json("wallet", "balance", "--rpc", f"base-sepolia={evm.rpc}")["data"]
    # The same chain, but nothing here says that it is only play: the name does not either.
    assert (row["usdc"], row["local"], row["asset"]) == ("1000000", False, "USDC.test")
