"""Base58 with Bitcoin's alphabet, as libp2p writes peer ids; canonical forms only."""

from __future__ import annotations

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUE_OF = {character: value for value, character in enumerate(ALPHABET)}

LENGTH_LIMIT_CHARS = 128
"""Decoding is quadratic in the length; a peer id has 52 characters, a Solana key at most 44."""


def encode(data: bytes) -> str:
    """`data` in base58; every leading zero byte becomes one `1`."""
    number = int.from_bytes(data, "big")
    digits: list[str] = []
    while number:
        number, value = divmod(number, 58)
        digits.append(ALPHABET[value])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))


def decode(text: str) -> bytes:
    """The bytes of `text`; ValueError for a foreign character or a text that is too long."""
    if len(text) > LENGTH_LIMIT_CHARS:
        raise ValueError(f"base58 of more than {LENGTH_LIMIT_CHARS} characters")
    number = 0
    for character in text:
        value = _VALUE_OF.get(character)
        if value is None:
            raise ValueError("a character that base58 does not have")
        number = number * 58 + value
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
