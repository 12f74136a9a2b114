"""What a wallet signs to sign in: one text, for this place and address, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from parhelion.cli.wallet_session import check_text
from parhelion.identity.sign_in import LOCAL, STATEMENT, Message, text_of
from parhelion.words import Problem

BASE = "http://127.0.0.1:3001"
EVM = "0x" + "aB" * 20
NETWORK = "eip155:84532"
MESSAGE = Message(
    domain="127.0.0.1:3001",
    address=EVM,
    uri=BASE,
    version="1",
    chain_id=NETWORK,
    nonce="abcdefgh12345678",
    issued_at="2026-01-31T12:00:00.000Z",
    statement=LOCAL + STATEMENT,
)


def text(**changes: Any) -> str:
    return text_of(msgspec.structs.replace(MESSAGE, **changes))


def test_our_own_text_is_signed() -> None:
    check_text(text(), BASE, EVM, NETWORK)
    check_text(text(statement=STATEMENT), BASE, EVM, NETWORK)


@pytest.mark.parametrize(
    "given",
    [
        text(domain="bank.example"),
        text(uri="http://bank.example"),
        text(address="0x" + "11" * 20),
        text(chain_id="eip155:8453"),
        text(statement="I give all my money to the bearer."),
        text(resources=("http://127.0.0.1:3001/withdraw",)),
        text() + "\nAnd all my money.",
        "\x19\x01" + "x" * 64,
        "",
        None,
        {"message": text()},
    ],
)
def test_whatever_else_a_coordinator_gives_to_sign_is_refused(given: object) -> None:
    with pytest.raises(Problem):
        check_text(given, BASE, EVM, NETWORK)
