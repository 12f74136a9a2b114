"""What every noun of the house is made of: records, ids that sort by time, and the clock."""

from __future__ import annotations

from typing import Protocol

import msgspec

ID_ENTROPY_BYTES = 10
"""80 random bits beside 48 bits of time: no collision at any rate we can reach."""

TIME_CHARS = 10
"""Of an id's 26 characters, those that hold its 48 bits of time."""

_BASE32HEX = "0123456789abcdefghijklmnopqrstuv"
_PAIRS = tuple(first + second for first in _BASE32HEX for second in _BASE32HEX)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A record that crosses rooms or the link; unknown fields are ignored when decoded."""


class ClosedRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record of which every field counts (receipts, config): unknown fields are refused."""


class Clock(Protocol):
    """The time as an argument, so that a test can hold it."""

    def now_ms(self) -> int:
        """Wall time in Unix milliseconds, for rows and receipts."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never go back, for deadlines and durations."""
        ...


def mint(prefix: str, now_ms: int, entropy: bytes) -> str:
    """A new id that sorts by time: `prefix_` and 26 lower-case base32 characters.

    `entropy` is ID_ENTROPY_BYTES random bytes. One request's ids share what follows the prefix
    (`req_X`, `hold_X`, `job_X`, `rcpt_X`): see `kin`.
    """
    if len(entropy) != ID_ENTROPY_BYTES:
        raise ValueError(f"entropy is {len(entropy)} bytes, not {ID_ENTROPY_BYTES}")
    raw = (now_ms & (2**48 - 1)).to_bytes(6, "big") + entropy
    # base32hex keeps the order of the bytes; the 128 bits and two zeros take 26 characters. Two
    # at a time out of a table: the standard library's own takes four times as long.
    bits = int.from_bytes(raw, "big") << 2
    return f"{prefix}_{''.join([_PAIRS[bits >> at & 1023] for at in range(120, -1, -10)])}"


def minted_ms(id: str) -> int:
    """When an id was minted, as it says itself: a time that every copy of the id agrees on."""
    letters = id.split("_", 1)[1][:TIME_CHARS].upper()
    # 10 characters are 50 bits: the 48 of the time and two of the entropy.
    return int(letters, 32) >> 2


def kin(prefix: str, other: str) -> str:
    """The same request's id of another kind: `kin("hold", "req_X") == "hold_X"`."""
    return f"{prefix}_{other.split('_', 1)[1]}"
