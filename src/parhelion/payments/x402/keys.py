"""The keys that a seller has here: read from files of mode 0600, and refused where not secret.

Whoever finds real money at an address that everybody has the key of takes it within a block. So a
main network takes no key of a tool's documentation, none that can be guessed, and none of ours
that was made for play money: those files say `LOCAL:` before the key.
"""

from __future__ import annotations

import itertools
import os
import string
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from parhelion.identity import Entropy, base58, read_secret
from parhelion.payments.x402.networks import Family, Network
from parhelion.words import AssetClass, Problem, ProblemCode

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount
    from solders.keypair import Keypair

LOCAL_MARK = "LOCAL:"
SECRET_BYTES = 32
CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""Of secp256k1: a key is a number below it."""

LEAST_DIFFERENT_BYTES = 8
"""Of 32 random bytes some 30 differ from each other; fewer than 8 never happen."""

LOCAL_TRACES = ("minisol.db", "minievm.sqlite", "chains/minisol", "chains/minievm")
"""What lies in the folder of a local chain, or of a pool that has such chains."""

KNOWN_TO_ALL = frozenset(
    {
        # anvil and hardhat: "test test test test test test test test test test test junk".
        "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266",
        "0x70997970c51812dc3a010c7d01b50e0d17dc79c8",
        "0x3c44cdddb6a900fa2b585dd299e03d12fa4293bc",
        "0x90f79bf6eb2c4f870365e785982e1f101e93b906",
        "0x15d34aaf54267db7d7c367839aaf71a00a2c6a65",
        "0x9965507d1a55bcc2695c58ba16fb37d819b0a4dc",
        "0x976ea74026e726554db657fa54763abd0c3a0aa9",
        "0x14dc79964da2c08b23698b3d3cc7ca32193d9955",
        "0x23618e81e3f5cdf7f54c3d65f7fbc0abf5b21e8f",
        "0xa0ee7a142d267c1f36714e4a8f75612f20a79720",
        "0xbcd4042de499d14e55001ccbb24a551f3b954096",
        "0x71be63f3384f5fb98995898a86b02fb2426c5788",
        "0xfabb0ac9d68b0b445fb7357272ff202c5651694a",
        "0x1cbd3b2770909d4e10f157cabc84c7264073c9ec",
        "0xdf3e18d64bc6a983f673ab319ccae4f1a57c7097",
        "0xcd3b766ccdd6ae721141f452c550ca635964ce71",
        "0x2546bcd3c84621e976d8185a91a922ae77ecec30",
        "0xbda5747bfd65f08deb54cb465eb87d40e51b197e",
        "0xdd2fd4581271e230360230f9337d5c0430bf44c0",
        "0x8626f6940e2eb28930efb4cef49b2d1f2c9c1199",
        # ganache --deterministic: the first three of "myth like bonus scare over problem ...".
        "0x90f8bf6a479f320ead074411a4b0e7944ea8c9c1",
        "0xffcf8fdee72ac11b5c542428b35eef5769c409f0",
        "0x22d491bde2303f2f43325b2108d26f1eaba1e32b",
    }
)
"""Addresses whose keys stand in the documentation of tools."""


def solana_key(path: Path, network: Network) -> Keypair:
    """A Solana key: base58 of 64 bytes, or solana-keygen's list; Problem for any other."""
    from solders.keypair import Keypair

    text = _secret_text(path, network)
    try:
        is_list = text.startswith("[")
        pair = bytes(msgspec.json.decode(text, type=list[int]) if is_list else base58.decode(text))
        _check_secret(pair[:SECRET_BYTES], network, path)
        return Keypair.from_bytes(pair)
    except (ValueError, RecursionError):
        # Without its cause: a decoder's words may quote what it read.
        raise _no_key(path, network) from None


def evm_key(path: Path, network: Network) -> LocalAccount:
    """An EVM key: 64 hex digits, with or without 0x; Problem for any other."""
    # eth-account takes a quarter of a second to import, so whoever waits calls this in a thread.
    from eth_account import Account

    digits = _secret_text(path, network).removeprefix("0x")
    if len(digits) != 2 * SECRET_BYTES or not set(digits) <= set(string.hexdigits):
        raise _no_key(path, network)
    secret = bytes.fromhex(digits)
    _check_secret(secret, network, path)
    if not 0 < int.from_bytes(secret, "big") < CURVE_ORDER:
        raise _no_key(path, network)
    # `from_key` has no type of its own; what it gives is this.
    account: LocalAccount = Account.from_key(secret)  # pyright: ignore[reportUnknownMemberType]
    check_known(network, account.address, path.name)
    return account


def new_local_key(family: Family, entropy: Entropy) -> str:
    """The text of a new key file for play money."""
    secret = entropy(SECRET_BYTES)
    if family is Family.EVM:
        return f"{LOCAL_MARK}0x{secret.hex()}"
    from solders.keypair import Keypair

    return f"{LOCAL_MARK}{Keypair.from_seed(secret)}"


def check_known(network: Network, address: str, what: str) -> None:
    """Problem where everybody has the key of an address that a main network would pay to."""
    if network.asset_class is AssetClass.MAIN and address.lower() in KNOWN_TO_ALL:
        raise _not_secret(network, what, f"is a test key of well-known tools ({address})")


def is_guessable(secret: bytes) -> bool:
    """Whether bytes are a pattern: zeros, ones, a small number, a repeated or counted byte."""
    steps = {(after - before) % 256 for before, after in itertools.pairwise(secret)}
    return len(set(secret)) < LEAST_DIFFERENT_BYTES or len(steps) == 1


def _secret_text(path: Path, network: Network) -> str:
    text = read_secret(path)
    is_marked = text.startswith(LOCAL_MARK)
    if network.asset_class is AssetClass.MAIN and (is_marked or _lies_with_local_money(path)):
        raise _not_secret(network, path.name, "was made for LOCAL play money")
    return text.removeprefix(LOCAL_MARK).strip()


def _check_secret(secret: bytes, network: Network, path: Path) -> None:
    if network.asset_class is AssetClass.MAIN and is_guessable(secret):
        raise _not_secret(network, path.name, "can be guessed: it is a pattern")


def _lies_with_local_money(path: Path) -> bool:
    folders = Path(os.path.realpath(path)).parents
    return any((folder / trace).exists() for folder in folders for trace in LOCAL_TRACES)


def _no_key(path: Path, network: Network) -> Problem:
    looks = (
        "base58 of 64 bytes, or the list of 64 numbers of solana-keygen"
        if network.family is Family.SOLANA
        else "0x and 64 hex digits"
    )
    return Problem(
        ProblemCode.CONFIG_INVALID,
        f"the key file {path.name} does not hold a key of {network.names[-1]}",
        hint=f"it holds {looks}; it lies in {path.parent}",
    )


def _not_secret(network: Network, what: str, why: str) -> Problem:
    return Problem(
        ProblemCode.CONFIG_INVALID,
        f"{network.names[-1]} is a main network, and {what} {why}",
        hint="make a new key for it, on this machine alone, and name its file",
    )
