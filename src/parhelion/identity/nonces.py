"""Nonces for signing in: ours by a MAC, so that one costs nothing until a wallet has signed it.

Anybody may ask for a nonce, so none is written down when it is given out: it holds the time, some
randomness, and a MAC over both by a secret of this coordinator. It is written down when it is used,
UNIQUE, for as long as it would pass otherwise; so it is good once, for five minutes, over restarts.
"""

from __future__ import annotations

import hmac

from parhelion.identity.secrets import Entropy
from parhelion.store import Statement

LIFETIME_S = 300
"""A person reads the text, finds the wallet and confirms within this time."""

AHEAD_LIMIT_MS = 5_000
"""How far our own clock may have been set back since it wrote a nonce."""

KEPT_MS = 2 * LIFETIME_S * 1000
"""Used nonces are kept longer than they could pass, for a clock that is set back."""

FORGET_ROWS = 4
"""Each use takes out so many dead rows, so the table shrinks faster than it can grow."""

TIME_BYTES = 6
RANDOM_BYTES = 8
MAC_BYTES = 16
"""64 bits tell the nonces of one millisecond apart; 128 cannot be guessed."""

NONCE_CHARS = 2 * (TIME_BYTES + RANDOM_BYTES + MAC_BYTES)
"""In hexadecimal: EIP-4361 takes letters and digits only."""

SECRET_PURPOSE = b"sign-in nonces"
USE = "sign-in.use"

_USE = "INSERT INTO sign_in_nonces(nonce, expires_at_ms) VALUES (?, ?)"
_FORGET = """
DELETE FROM sign_in_nonces WHERE nonce IN (
    SELECT nonce FROM sign_in_nonces WHERE expires_at_ms <= ? ORDER BY expires_at_ms LIMIT ?)
"""


def issue(secret: bytes, now_ms: int, entropy: Entropy, bound: bytes = b"") -> str:
    """A fresh nonce, good for what it is `bound` to and for nothing else."""
    told = now_ms.to_bytes(TIME_BYTES, "big") + entropy(RANDOM_BYTES)
    return (told + _mac(secret, told + bound)).hex()


def issued_ms(secret: bytes, nonce: str, bound: bytes = b"") -> int | None:
    """When this nonce was issued; None for one that is not ours, or bound to something else."""
    if len(nonce) != NONCE_CHARS or not nonce.isascii():
        return None
    try:
        raw = bytes.fromhex(nonce)
    except ValueError:
        return None
    told, mac = raw[:-MAC_BYTES], raw[-MAC_BYTES:]
    # Upper case would be a second text of the same nonce, so a second use.
    if raw.hex() != nonce or not hmac.compare_digest(mac, _mac(secret, told + bound)):
        return None
    return int.from_bytes(told[:TIME_BYTES], "big")


def use(nonce: str, now_ms: int) -> tuple[Statement, ...]:
    """Use a nonce up; Refused "sign-in.use" when it was used before."""
    return (
        Statement(USE, _USE, (nonce, now_ms + KEPT_MS), rows=1),
        Statement("sign-in.forget", _FORGET, (now_ms, FORGET_ROWS)),
    )


def _mac(secret: bytes, told: bytes) -> bytes:
    return hmac.digest(secret, b"parhelion.sign-in.1:" + told, "sha256")[:MAC_BYTES]
