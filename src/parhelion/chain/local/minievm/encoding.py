"""Ethereum's JSON: quantities without leading zeros, bytes with all of theirs, both as 0x text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from parhelion.chain.local.minievm.errors import invalid_params

ADDRESS_BYTES = 20
HASH_BYTES = 32
WORD_LIMIT = 2**256


def quantity(value: int) -> str:
    """A number as clients read it: 0x0, 0x41."""
    return hex(value)


def data(value: bytes) -> str:
    """Bytes as clients read them: 0x, 0x0041."""
    return "0x" + value.hex()


def word(value: int) -> str:
    """A number as the 32 bytes of an EVM word."""
    return data(value.to_bytes(HASH_BYTES, "big"))


def to_quantity(value: object, limit: int = WORD_LIMIT) -> int:
    """A number from 0x text; zeros in front are forgiven, as old clients send them."""
    digits = _digits(value)
    try:
        # int() would also read underscores and other alphabets' digits.
        number = int(digits, 16) if digits.isascii() and digits.isalnum() else -1
    except ValueError:
        number = -1
    if number < 0:
        raise invalid_params(f"invalid argument: not a hex quantity: {_shown(value)}")
    if number >= limit:
        raise invalid_params(f"invalid argument: hex number > {limit.bit_length() - 1} bits")
    return number


def to_bytes(value: object, size: int | None = None) -> bytes:
    """Bytes from 0x text, of exactly `size` bytes where that is given."""
    digits = _digits(value)
    try:
        # bytes.fromhex skips blanks, which no Ethereum client may send.
        decoded = bytes.fromhex(digits) if digits.isalnum() or not digits else None
    except ValueError:
        decoded = None
    if decoded is None:
        raise invalid_params(f"invalid argument: not hex bytes: {_shown(value)}")
    if size is not None and len(decoded) != size:
        raise invalid_params(f"invalid argument: {size} bytes wanted, {len(decoded)} given")
    return decoded


def to_address(value: object) -> bytes:
    """An address; the checksum of mixed case is the client's matter, as in geth."""
    return to_bytes(value, ADDRESS_BYTES)


def to_hash(value: object) -> bytes:
    """A transaction's or block's hash."""
    return to_bytes(value, HASH_BYTES)


def to_fields(value: object, known: Iterable[str], what: str) -> dict[str, object]:
    """An object with known fields only: an option that we do not honour is refused by name."""
    if not isinstance(value, dict):
        raise invalid_params(f"invalid argument: {what} must be an object")
    fields = cast("dict[str, object]", value)
    unknown = sorted(fields.keys() - set(known))
    if unknown:
        names = ", ".join(_shown(name) for name in unknown[:5])
        raise invalid_params(f"unsupported field of {what}: {names}")
    return fields


def to_list(value: object, limit: int, what: str) -> list[object]:
    """A list of at most `limit` items."""
    if not isinstance(value, list):
        raise invalid_params(f"invalid argument: {what} must be a list")
    items = cast("list[object]", value)
    if len(items) > limit:
        raise invalid_params(f"{what}: {len(items)} items, at most {limit} are taken")
    return items


def _digits(value: object) -> str:
    if not isinstance(value, str):
        raise invalid_params(f"invalid argument: hex string wanted, not {type(value).__name__}")
    if value[:2] not in ("0x", "0X"):
        raise invalid_params("invalid argument: hex string without 0x prefix")
    return value[2:]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
