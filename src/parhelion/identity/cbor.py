"""The CBOR that authenticators write (CTAP2's), and nothing beyond it; pure.

What comes from outside passes here before any library reads it: general CBOR has tags that name
earlier values again, by which a few bytes can stand for gigabytes. CTAP2 has no tags.
"""

from __future__ import annotations

from typing import NamedTuple

Value = int | bytes | str | bool | None | list["Value"] | dict["int | str", "Value"]

DEPTH_LIMIT = 4
"""CTAP2 allows no deeper nesting."""

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _SIMPLE = 0, 1, 2, 3, 4, 5, 7
_WORDS: dict[int, bool | None] = {20: False, 21: True, 22: None}
_LENGTH_BYTES = {24: 1, 25: 2, 26: 4, 27: 8}

_FLAGS_AT, _COUNT_AT, _FIXED_BYTES = 32, 33, 37
_AAGUID_BYTES = 16
_ATTESTED, _EXTENDED = 0x40, 0x80
CREDENTIAL_LIMIT_BYTES = 1023
"""WebAuthn's own limit of a credential's id."""


class AuthenticatorData(NamedTuple):
    """What an authenticator says with each answer; the last two are None in a sign-in."""

    sign_count: int
    credential: bytes | None
    public_key: bytes | None


def whole(data: bytes) -> Value:
    """The one value that `data` is; ValueError for what CTAP2 does not write."""
    value, end = _value(data, 0, 0)
    if end != len(data):
        raise ValueError("there are bytes behind the value")
    return value


def authenticator_data(data: bytes) -> AuthenticatorData:
    """The parts of authenticator data; ValueError unless they are exactly all of it."""
    if len(data) < _FIXED_BYTES:
        raise ValueError("authenticator data is cut short")
    flags, at = data[_FLAGS_AT], _FIXED_BYTES
    credential = public_key = None
    if flags & _ATTESTED:
        begin = at + _AAGUID_BYTES + 2
        length = int.from_bytes(data[begin - 2 : begin], "big")
        credential, at = data[begin : begin + length], begin + length
        if not 1 <= length <= CREDENTIAL_LIMIT_BYTES or at > len(data):
            raise ValueError("a credential's id is cut short, or too long")
        _, end = _value(data, at, 0)
        public_key, at = data[at:end], end
    if flags & _EXTENDED:
        _, at = _value(data, at, 0)
    if at != len(data):
        raise ValueError("there are bytes behind the authenticator data")
    return AuthenticatorData(
        int.from_bytes(data[_COUNT_AT:_FIXED_BYTES], "big"), credential, public_key
    )


def _value(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    if depth > DEPTH_LIMIT:
        raise ValueError("nested too deeply")
    kind, number, at = _head(data, at)
    if kind == _UNSIGNED:
        return number, at
    if kind == _NEGATIVE:
        return -1 - number, at
    if kind in (_BYTES, _TEXT):
        if at + number > len(data):
            raise ValueError("cut short")
        raw = data[at : at + number]
        return raw if kind == _BYTES else raw.decode("utf-8"), at + number
    if kind == _ARRAY:
        items: list[Value] = []
        for _ in range(number):
            item, at = _value(data, at, depth + 1)
            items.append(item)
        return items, at
    if kind == _MAP:
        return _map(data, at, number, depth)
    if kind == _SIMPLE and number in _WORDS:
        return _WORDS[number], at
    raise ValueError("no value that CTAP2 writes")


def _map(data: bytes, at: int, number: int, depth: int) -> tuple[Value, int]:
    found: dict[int | str, Value] = {}
    for _ in range(number):
        key, at = _value(data, at, depth + 1)
        if isinstance(key, bool) or not isinstance(key, int | str) or key in found:
            raise ValueError("a map's keys are numbers and texts, each once")
        found[key], at = _value(data, at, depth + 1)
    return found, at


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """Kind, number and the place behind both; each head is at least one byte, so loops end."""
    if at >= len(data):
        raise ValueError("cut short")
    kind, short = data[at] >> 5, data[at] & 0x1F
    at += 1
    if short < 24:
        return kind, short, at
    size = _LENGTH_BYTES.get(short)
    # Simple values are one byte here: what follows would be a float. 31 has no end said.
    if size is None or kind == _SIMPLE or at + size > len(data):
        raise ValueError("no head that CTAP2 writes")
    return kind, int.from_bytes(data[at : at + size], "big"), at + size
