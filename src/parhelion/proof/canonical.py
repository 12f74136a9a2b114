"""The one byte form of a record, RFC 8785, fast enough to be made for every answer; pure.

A record with plain ASCII member names needs little of RFC 8785: sorted members and ECMAScript's
numbers. msgspec writes the first in C, and only fractions go through the `rfc8785` package, which
is ten times slower. Whoever verifies uses that package for all of it, and a property test holds
the two together.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec
import rfc8785

from parhelion.words import Problem, ProblemCode

INTEGER_LIMIT = 2**53
"""From here on RFC 8785's numbers are not exact: larger integers travel as text."""

_FORMLESS = (rfc8785.CanonicalizationError, UnicodeEncodeError, OverflowError)
_AS_IT_IS = frozenset({str, bool, type(None)})

_encode = msgspec.json.Encoder(order="sorted").encode


def canonical(record: msgspec.Struct) -> bytes:
    """The canonical JSON of a record; Problem RECEIPT_INVALID when it has none."""
    return dumps(msgspec.to_builtins(record))


def dumps(tree: dict[str, Any]) -> bytes:
    """The canonical JSON of plain data whose member names are ASCII."""
    try:
        return _encode(_plain(tree))
    except _FORMLESS as error:
        raise _no_form(error) from error


def plain(record: msgspec.Struct) -> dict[str, Any]:
    """The members of a record as `written` takes them."""
    try:
        return cast("dict[str, Any]", _plain(msgspec.to_builtins(record)))
    except _FORMLESS as error:
        raise _no_form(error) from error


def written(members: dict[str, Any]) -> bytes:
    """The canonical JSON of `plain` members, of which some may have been left out or put in."""
    try:
        return _encode(members)
    except _FORMLESS as error:
        raise _no_form(error) from error


def _no_form(error: Exception) -> Problem:
    return Problem(
        ProblemCode.RECEIPT_INVALID,
        f"no canonical JSON form: {error}",
        hint="integers above 2**53 travel as strings, numbers are finite, text is Unicode",
    )


def _plain(value: Any) -> Any:
    """The value with every number in the form that it must have."""
    kind = value.__class__
    if kind in _AS_IT_IS:
        return value
    if kind is int:
        if not -INTEGER_LIMIT < value < INTEGER_LIMIT:
            raise OverflowError(f"{value} is not exact as a JSON number")
        return value
    if kind is dict:
        # Nearly all members are text or counts: asking here saves a call for each.
        return {
            name: member
            if (kind := member.__class__) in _AS_IT_IS
            or (kind is int and -INTEGER_LIMIT < member < INTEGER_LIMIT)
            else _plain(member)
            for name, member in value.items()
        }
    if kind is float:
        # Whole numbers are by far the most frequent, and an integer is written as one.
        if value.is_integer() and abs(value) < INTEGER_LIMIT:
            return int(value)
        return msgspec.Raw(rfc8785.dumps(value))
    return [_plain(member) for member in value]
