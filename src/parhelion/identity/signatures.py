"""Whether a wallet's key signed a text: EIP-191 by secp256k1, and Ed25519 for Solana.

keccak and libsecp256k1 are loaded at the first look at an EVM wallet, and take 0.15 s to: call what
needs them off the event loop.
"""

from __future__ import annotations

import re

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from parhelion.identity import base58
from parhelion.identity.peers import PUBLIC_KEY_BYTES, SIGNATURE_BYTES

HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
"""EIP-2: of the two signatures that one signing has, only the one with the lower s is taken."""

RECOVERY_IDS = {0: 0, 1: 1, 27: 0, 28: 1}
"""Bitcoin's 27 and 28 are what nearly all wallets write; some hardware wallets write 0 and 1."""

_EVM_SIGNATURE = re.compile(r"0x[0-9a-fA-F]{130}")
_PERSONAL = b"\x19Ethereum Signed Message:\n"


def checksummed(address: str) -> str:
    """An EVM address in the mixed case of EIP-55."""
    from eth_utils.crypto import keccak

    lower = address[2:].lower()
    digest = keccak(lower.encode("ascii")).hex()
    pairs = zip(lower, digest, strict=False)
    return "0x" + "".join(char.upper() if int(nibble, 16) > 7 else char for char, nibble in pairs)


def personal_signer(text: bytes, signature: str) -> str | None:
    """The address (lower case) that signed this text by personal_sign; None for no signature."""
    if not _EVM_SIGNATURE.fullmatch(signature):
        return None
    raw = bytes.fromhex(signature[2:])
    recovery = RECOVERY_IDS.get(raw[64])
    if recovery is None or int.from_bytes(raw[32:64], "big") > HALF_ORDER:
        return None
    from coincurve import PublicKey
    from eth_utils.crypto import keccak

    digest = keccak(_PERSONAL + str(len(text)).encode("ascii") + text)
    try:
        key = PublicKey.from_signature_and_message(
            raw[:64] + bytes([recovery]), digest, hasher=None
        )
    except ValueError:
        return None
    return "0x" + keccak(key.format(compressed=False)[1:])[-20:].hex()


def solana_signed(text: bytes, signature: str, address: str) -> bool:
    """Whether the key that a Solana address is signed this text; `signature` in base58.

    libsodium refuses an S above the group's order, keys of small order and points that are not
    written canonically, so that no second signature or key means the same.
    """
    try:
        raw, public = base58.decode(signature), base58.decode(address)
    except ValueError:
        return False
    # libsodium reads its 32 bytes of a key whether they are there or not.
    if len(raw) != SIGNATURE_BYTES or len(public) != PUBLIC_KEY_BYTES:
        return False
    try:
        crypto_sign_open(raw + text, public)
    except (BadSignatureError, ValueError):
        return False
    return True
