"""Signing in with a wallet, so that it may read what it paid for; one signature, no payment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from parhelion.cli.client import Api
from parhelion.words import Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.chain.wallet import Wallet

PERSONAL = b"\x19Ethereum Signed Message:\n"
"""What EIP-191 puts before a text, so that no text is ever a transaction."""


@contextlib.contextmanager
def signed_in(api: Api, wallet: Wallet, network: str) -> Iterator[Api]:
    """The same API with a session of the wallet on a network (CAIP-2), ended afterwards."""
    address = wallet.address_on(network)
    asked = {"address": address, "chain": network}
    # No admin key goes along: `command` would send the one of the data folder.
    plain = replace(api, key=None, admin="")
    text = plain.command("POST", "/v1/sign-in/challenge", asked)["message"]
    check_text(text, api.base, address, network)
    body = {"message": text, "signature": _signature(wallet, network, text.encode("ascii"))}
    session = replace(plain, key=str(plain.command("POST", "/v1/sign-in", body)["session"]))
    try:
        yield session
    finally:
        session.raw("DELETE", "/v1/session")


def check_text(text: object, base: str, address: str, network: str) -> None:
    """Problem for a text that does more than sign this wallet in at this address."""
    from parhelion.identity.sign_in import LOCAL, STATEMENT, parsed

    refused = Problem(
        ProblemCode.SIGN_IN_INVALID,
        f"what {base} gives to sign is no sign-in of this wallet there",
        hint="nothing was signed",
    )
    if not isinstance(text, str):
        raise refused
    message = parsed(text)
    place = urlsplit(base)
    good = (
        message.domain == place.netloc
        and message.uri.rstrip("/") == base.rstrip("/")
        and message.address.lower() == address.lower()
        and message.chain_id == network
        and message.statement in (STATEMENT, LOCAL + STATEMENT)
        and message.resources is None
    )
    if not good:
        raise refused


def _signature(wallet: Wallet, network: str, text: bytes) -> str:
    from parhelion.identity import base58

    if network.startswith("solana:"):
        return base58.encode(wallet.sign_solana(text))
    from eth_hash.auto import keccak

    digest = keccak(PERSONAL + str(len(text)).encode() + text)
    return "0x" + wallet.sign_digest(digest).hex()
