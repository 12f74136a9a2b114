"""The one byte form of a record, RFC 8785, fast enough to be made for every answer; pure.

A record with plain ASCII member names needs little of RFC 8785: sorted members and ECMAScript's
numbers. msgspec writes the first in C, and only fractions go through the `rfc8785` package, which
is ten times slower. Whoever verifies uses that package for all of it, and a property test holds
the two together.
"""

from __future__ import annotations

from typing import Any

import msgspec
import rfc8785

from parhelion.words import Problem, ProblemCode

INTEGER_LIMIT = 2**53
"""From here on RFC 8785's numbers are not exact: larger integers travel as text."""

_encode = msgspec.json.Encoder(order="sorted").encode


def canonical(record: msgspec.Struct) -> bytes:
    """The canonical JSON of a record; Problem RECEIPT_INVALID when it has none."""
    return dumps(msgspec.to_builtins(record))


def dumps(tree: dict[str, Any]) -> bytes:
    """The canonical JSON of plain data whose member names are ASCII."""
    try:
        return _encode(_plain(tree))
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, OverflowError) as error:
        raise Problem(
            ProblemCode.RECEIPT_INVALID,
            f"no canonical JSON form: {error}",
            hint="integers above 2**53 travel as strings, numbers are finite, text is Unicode",
        ) from error


def _plain(value: Any) -> Any:
    """The value with every number in the form that it must have."""
    kind: type[Any] = type(value)
    if kind is str or value is None or kind is bool:
        return value
    if kind is int:
        if not -INTEGER_LIMIT < value < INTEGER_LIMIT:
            raise OverflowError(f"{value} is not exact as a JSON number")
        return value
    if kind is dict:
        return {name: _plain(member) for name, member in value.items()}
    if kind is float:
        # Whole numbers are by far the most frequent, and an integer is written as one.
        if value.is_integer() and abs(value) < INTEGER_LIMIT:
            return int(value)
        return msgspec.Raw(rfc8785.dumps(value))
    return [_plain(member) for member in value]
