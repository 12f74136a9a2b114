"""msgspec's sentences about a wrong value, in the words of whoever sent it; pure."""

from __future__ import annotations

import re
from typing import Any

from msgspec import Meta

_KINDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_COUNTED = {"str": "character", "array": "item", "object": "field"}

_KIND = re.compile(r"Expected `([^`]+)`(?:, got `([^`]+)`)?$")
_BOUND = re.compile(r"Expected `\w+` (>=|<=|>|<) (\S+)$")
_LENGTH = re.compile(r"Expected `(\w+)` of length (>=|<=) (\d+)$")
_REGEX = re.compile(r"Expected `str` matching regex (.*)$", re.DOTALL)
_ENUM = re.compile(r"Invalid enum value (.*)$", re.DOTALL)

_FORMS: dict[str, str] = {}
"""What a pattern means, by the pattern as msgspec quotes it."""


def form(pattern: str, words: str, **more: Any) -> Meta:
    """A pattern for a text, and the words that say it to a person."""
    _FORMS[repr(pattern)] = words
    return Meta(pattern=pattern, **more)


def plain(cause: str) -> str:
    """What is wrong with a value, without the names that programs have for it."""
    if kind := _KIND.match(cause):
        wanted = _kinds(kind[1])
        return (
            f"expected {wanted}" if kind[2] is None else f"expected {wanted}, not {_got(kind[2])}"
        )
    if bound := _BOUND.match(cause):
        side = "at least" if bound[1] == ">=" else "at most"
        return f"it must be {side} {bound[2].removesuffix('.0')}"
    if length := _LENGTH.match(cause):
        return _length(_COUNTED.get(length[1], "item"), length[2], int(length[3]))
    if regex := _REGEX.match(cause):
        return f"expected {_FORMS.get(regex[1], 'another form')}"
    if value := _ENUM.match(cause):
        return f"{value[1]} is none of the values that it takes"
    return cause[:1].lower() + cause[1:]


def _kinds(names: str) -> str:
    # Null always means "absent": nobody needs to be told that it would have been taken.
    kinds = [_KINDS.get(name, name) for name in names.split(" | ") if name != "null"]
    return " or ".join(kinds)


def _got(name: str) -> str:
    # JSON has one kind of number, so to its writer 8.5 is "a number", and not an integer.
    return {"int": "a number", "float": "a number with a fraction", "bool": "true or false"}.get(
        name, _KINDS.get(name, name)
    )


def _length(counted: str, side: str, bound: int) -> str:
    if side == ">=" and bound == 1:
        return "it must not be empty"
    return f"it must have {'at least' if side == '>=' else 'at most'} {bound} {counted}s"
