"""The wallet file: made once, never overwritten, read by nobody but its owner.

What is secret stays in the `Wallet`: it signs, and shows its addresses only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from parhelion.config import at_home
from parhelion.identity import Entropy, base58, read_secret, write_secret
from parhelion.words import Problem, ProblemCode

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

VERSION = 1
SEED_BYTES = 32
CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""Of secp256k1: a key is a number below it."""

SOLANA = "solana:"


class _Key(msgspec.Struct, forbid_unknown_fields=True):
    address: str
    secret: str


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """Secrets as other wallets import them: base58 of 64 bytes, and hex with 0x."""

    version: int
    solana: _Key
    evm: _Key


class Wallet:
    """Two keys of one owner; `solana` and `evm` are their addresses, the latter in mixed case."""

    __slots__ = ("_evm_secret", "_solana_seed", "evm", "path", "solana")

    def __init__(self, path: Path, solana: str, evm: str, seed: bytes, evm_secret: bytes) -> None:
        self.path = path
        self.solana = solana
        self.evm = evm
        self._solana_seed = seed
        self._evm_secret = evm_secret

    def __repr__(self) -> str:
        return f"Wallet({self.solana}, {self.evm})"

    def address_on(self, network: str) -> str:
        """Its address on a network by CAIP-2 id."""
        return self.solana if network.startswith(SOLANA) else self.evm

    def sign_solana(self, message: bytes) -> bytes:
        """An Ed25519 signature of a message."""
        from nacl.signing import SigningKey

        return SigningKey(self._solana_seed).sign(message).signature

    def sign_digest(self, digest: bytes) -> bytes:
        """A secp256k1 signature (r, s, v with v 27 or 28) of 32 bytes, as EVM tokens take it."""
        from coincurve import PrivateKey

        key = PrivateKey(self._evm_secret)
        raw = key.sign_recoverable(digest, hasher=None)  # pyright: ignore[reportUnknownMemberType]
        return raw[:64] + bytes([raw[64] + 27])

    def evm_account(self) -> LocalAccount:
        """Its EVM key as the libraries know one, for transactions of its own."""
        from eth_account import Account

        # `from_key` has no type of its own; what it gives is this.
        return Account.from_key(self._evm_secret)  # pyright: ignore[reportUnknownMemberType]


def default_path() -> Path:
    """Where a wallet lies unless one is named: the platform's folder for a user's settings."""
    from platformdirs import user_config_dir

    hint = "name the wallet: --wallet FILE"
    return at_home(lambda: user_config_dir("parhelion", appauthor=False), hint) / "wallet.json"


def create(path: Path, entropy: Entropy) -> Wallet:
    """A new wallet in a new file of mode 0600; Problem where there is a file already."""
    from eth_utils.address import to_checksum_address

    seed, secret = entropy(SEED_BYTES), _scalar(entropy)
    public, evm = _solana_public(seed), to_checksum_address(_evm_address(secret))
    solana = base58.encode(public)
    file = _File(
        version=VERSION,
        solana=_Key(address=solana, secret=base58.encode(seed + public)),
        evm=_Key(address=evm, secret="0x" + secret.hex()),
    )
    try:
        write_secret(path, msgspec.json.encode(file).decode())
    except FileExistsError as error:
        raise Problem(
            ProblemCode.CONFLICT,
            f"there is a wallet already: {path}",
            hint="a wallet is never overwritten; name another file with --wallet",
        ) from error
    return Wallet(path, solana, evm, seed, secret)


def load(path: Path) -> Wallet:
    """The wallet in a file; Problem where there is none, others may read it, or it is damaged."""
    if not path.exists():
        raise Problem(
            ProblemCode.CONFIG_INVALID,
            f"there is no wallet at {path}",
            hint="make one: parhelion wallet new",
        )
    try:
        text = read_secret(path)
    except Problem as problem:
        raise Problem(
            problem.code,
            problem.message,
            hint=f"chmod 600 {path}; if others could read it, move its money to a new wallet",
        ) from problem
    try:
        file = msgspec.json.decode(text, type=_File)
        return _checked(path, file)
    except (ValueError, RecursionError):
        # Without its cause: a decoder's words may quote what it read.
        raise Problem(
            ProblemCode.CONFIG_INVALID,
            f"{path} is no wallet of ours, or it is damaged",
            hint="put back the copy that you kept; parhelion wallet new makes another wallet",
        ) from None


def _checked(path: Path, file: _File) -> Wallet:
    pair = base58.decode(file.solana.secret)
    secret = bytes.fromhex(file.evm.secret.removeprefix("0x"))
    seed, public = pair[:SEED_BYTES], pair[SEED_BYTES:]
    if file.version != VERSION or len(pair) != 2 * SEED_BYTES or len(secret) != SEED_BYTES:
        raise ValueError("not the shape of a wallet")
    if _solana_public(seed) != public or base58.encode(public) != file.solana.address:
        raise ValueError("the Solana address is not its key's")
    if _evm_address(secret) != file.evm.address.lower():
        raise ValueError("the EVM address is not its key's")
    return Wallet(path, file.solana.address, file.evm.address, seed, secret)


def _scalar(entropy: Entropy) -> bytes:
    """32 random bytes that are a key: all but one in 2^127 are."""
    while True:
        drawn = entropy(SEED_BYTES)
        if 0 < int.from_bytes(drawn, "big") < CURVE_ORDER:
            return drawn


def _solana_public(seed: bytes) -> bytes:
    from nacl.signing import SigningKey

    return bytes(SigningKey(seed).verify_key)


def _evm_address(secret: bytes) -> str:
    from coincurve import PrivateKey
    from eth_hash.auto import keccak

    if not 0 < int.from_bytes(secret, "big") < CURVE_ORDER:
        raise ValueError("not a key of secp256k1")
    public = PrivateKey(secret).public_key.format(compressed=False)
    return "0x" + keccak(public[1:])[-20:].hex()
