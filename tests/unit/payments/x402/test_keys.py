"""Key files: which are read, and which a main network never takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from eth_account import Account
from solders.keypair import Keypair

from parhelion.payments.x402.keys import (
    KNOWN_TO_ALL,
    check_known,
    evm_key,
    is_guessable,
    new_local_key,
    solana_key,
)
from parhelion.payments.x402.networks import Family, Network, as_local, known
from parhelion.words import Problem

BASE, SEPOLIA = known("base"), known("base-sepolia")
MAINNET, DEVNET = known("solana"), known("solana-devnet")
ANVIL = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "some.key"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("network", [MAINNET, DEVNET, as_local(known("solana-testnet"))])
def test_solana_keys_come_as_wallets_write_them(tmp_path: Path, network: Network) -> None:
    pair = Keypair.from_seed(os.urandom(32))
    for text in (str(pair), pair.to_json(), f" {pair}\n"):
        assert solana_key(written(tmp_path, text), network) == pair


@pytest.mark.parametrize("network", [BASE, SEPOLIA, as_local(SEPOLIA)])
def test_evm_keys_come_with_and_without_their_prefix(tmp_path: Path, network: Network) -> None:
    secret = os.urandom(32).hex()
    address = Account.from_key(secret).address
    for text in (secret, f"0x{secret}", f"0x{secret.upper()}"):
        assert evm_key(written(tmp_path, text), network).address == address


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="0644") as refused:
        evm_key(written(tmp_path, os.urandom(32).hex(), 0o644), SEPOLIA)
    assert "chmod 600" in refused.value.hint


@pytest.mark.parametrize("text", ["", "0x12", "zz" * 32, "0x" + "f" * 64, "0x" + "0" * 64])
def test_what_is_no_evm_key_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(Problem) as refused:
        evm_key(written(tmp_path, text), SEPOLIA)
    assert not text or text not in str(refused.value) + refused.value.hint


@pytest.mark.parametrize(
    "text", ["[1,2,3]", "[300]", "[" * 4000, "abc", str(Keypair())[:-2], "[" + "0," * 63 + "0]"]
)
def test_what_is_no_solana_key_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(Problem) as refused:
        solana_key(written(tmp_path, text), DEVNET)
    assert text not in str(refused.value) + refused.value.hint


def test_a_main_network_takes_no_key_that_everybody_has(tmp_path: Path) -> None:
    path = written(tmp_path, ANVIL)
    assert evm_key(path, SEPOLIA).address.lower() in KNOWN_TO_ALL
    with pytest.raises(Problem, match="test key"):
        evm_key(path, BASE)
    with pytest.raises(Problem, match="test key"):
        check_known(BASE, "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266", "pay_to")
    check_known(SEPOLIA, "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266", "pay_to")


@pytest.mark.parametrize(
    "secret", [bytes(31) + b"\x01", b"\x01" * 32, b"\xab\xcd" * 16, bytes(range(32)), b"F" * 32]
)
def test_a_main_network_takes_no_key_that_can_be_guessed(tmp_path: Path, secret: bytes) -> None:
    assert is_guessable(secret)
    with pytest.raises(Problem, match="guessed"):
        evm_key(written(tmp_path, secret.hex()), BASE)
    with pytest.raises(Problem, match="guessed"):
        solana_key(written(tmp_path, str(Keypair.from_seed(secret))), MAINNET)
    evm_key(written(tmp_path, secret.hex()), SEPOLIA)


def test_no_random_key_is_called_guessable() -> None:
    assert not any(is_guessable(os.urandom(32)) for _ in range(2000))


@pytest.mark.parametrize(("family", "real"), [(Family.SOLANA, MAINNET), (Family.EVM, BASE)])
def test_keys_of_play_money_never_come_to_a_main_network_by_a_copy(
    tmp_path: Path, family: Family, real: Network
) -> None:
    path = written(tmp_path, new_local_key(family, os.urandom))
    played = as_local(known("solana-testnet" if family is Family.SOLANA else "base-sepolia"))
    read = solana_key if family is Family.SOLANA else evm_key
    read(path, played)
    with pytest.raises(Problem, match="LOCAL"):
        read(path, real)


@pytest.mark.parametrize("trace", ["minisol.db", "chains/minievm"])
def test_nor_do_keys_that_lie_with_a_local_chain(tmp_path: Path, trace: str) -> None:
    (tmp_path / trace).mkdir(parents=True)
    deep = tmp_path / "keys"
    deep.mkdir()
    path = written(deep, os.urandom(32).hex())
    evm_key(path, SEPOLIA)
    with pytest.raises(Problem, match="LOCAL"):
        evm_key(path, BASE)
