"""The wallet file: nobody else reads it, nothing overwrites it, nothing secret leaves it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from coincurve import PublicKey
from eth_account import Account
from nacl.signing import VerifyKey
from solders.keypair import Keypair

from parhelion.chain import wallet
from parhelion.identity import base58
from parhelion.words import Problem, ProblemCode


@pytest.fixture
def made(tmp_path: Path) -> wallet.Wallet:
    return wallet.create(tmp_path / "deep" / "wallet.json", os.urandom)


def test_a_wallet_is_read_again_as_it_was_made_and_others_know_its_keys(
    made: wallet.Wallet,
) -> None:
    again = wallet.load(made.path)
    assert (again.solana, again.evm) == (made.solana, made.evm)
    file = json.loads(made.path.read_text())
    assert str(Keypair.from_base58_string(file["solana"]["secret"]).pubkey()) == made.solana
    assert Account.from_key(file["evm"]["secret"]).address == made.evm
    assert made.path.stat().st_mode & 0o777 == 0o600


def test_what_it_signs_is_its_own(made: wallet.Wallet) -> None:
    VerifyKey(base58.decode(made.solana)).verify(b"message", made.sign_solana(b"message"))
    digest = os.urandom(32)
    signature = made.sign_digest(digest)
    recoverable = signature[:64] + bytes([signature[64] - 27])
    key = PublicKey.from_signature_and_message(recoverable, digest, hasher=None)
    assert key.format() == PublicKey.from_secret(bytes(made.evm_account().key)).format()


def test_a_wallet_is_never_overwritten(made: wallet.Wallet) -> None:
    before = made.path.read_bytes()
    with pytest.raises(Problem) as caught:
        wallet.create(made.path, os.urandom)
    assert caught.value.code is ProblemCode.CONFLICT
    assert made.path.read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused(made: wallet.Wallet, mode: int) -> None:
    made.path.chmod(mode)
    with pytest.raises(Problem) as caught:
        wallet.load(made.path)
    assert "others on this machine can read it" in caught.value.message
    assert "chmod 600" in caught.value.hint


def test_a_damaged_wallet_is_refused_without_a_word_of_its_secrets(made: wallet.Wallet) -> None:
    file = json.loads(made.path.read_text())
    secrets = (file["solana"]["secret"], file["evm"]["secret"])
    other = Keypair()
    for damage in (
        {"solana": {**file["solana"], "address": str(other.pubkey())}},
        {"evm": {**file["evm"], "address": Account.create().address}},
        {"solana": {**file["solana"], "secret": str(other)}},
        {"evm": {**file["evm"], "secret": "0x" + "00" * 32}},
        {"evm": {**file["evm"], "secret": secrets[1] + "zz"}},
        {"version": 2},
        {"more": secrets[0]},
        {"solana": secrets[0]},
    ):
        made.path.write_text(json.dumps({**file, **damage}))
        with pytest.raises(Problem) as caught:
            wallet.load(made.path)
        told = f"{caught.value.message} {caught.value.hint} {caught.value.__cause__!r}"
        assert "damaged" in told
        assert not any(secret in told for secret in secrets)


def test_a_wallet_shows_its_addresses_and_never_its_keys(made: wallet.Wallet) -> None:
    file = json.loads(made.path.read_text())
    shown = f"{made!r} {made!s} {made}"
    assert made.solana in shown
    assert file["solana"]["secret"] not in shown and file["evm"]["secret"][2:] not in shown


def test_no_wallet_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        wallet.load(tmp_path / "none.json")
    assert "wallet new" in caught.value.hint
