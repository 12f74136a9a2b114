"""The Range header: which bytes of a file are asked for (RFC 9110, section 14); pure."""

from __future__ import annotations

import re
from typing import NamedTuple

DIGITS_LIMIT = 18
"""No file has a length of more digits, and int() need not look at a megabyte of them."""

_FORM = re.compile(rb"bytes=(?:([0-9]+)-([0-9]*)|-([0-9]+))", re.IGNORECASE)


class Span(NamedTuple):
    """Bytes [start, end) of a file."""

    start: int
    end: int


class NotThere(Exception):
    """The range is well written, and the file has no byte of it: 416."""


def asked_span(field: bytes | None, if_range: bytes | None, etag: bytes, size: int) -> Span | None:
    """The part that is asked for; None for the whole: no range, or none that we honour.

    Several ranges at once are not honoured, nor other units: the standard lets a server send the
    whole then. The same where If-Range names another version of the file. NotThere for 416.
    """
    if field is None or (if_range is not None and if_range.strip() != etag):
        return None
    written = _FORM.fullmatch(field.strip())
    if written is None:
        return None
    first, last, suffix = (None if part is None else _bare(part) for part in written.groups())
    if suffix is not None:
        return _ending(_number(suffix, size), size)
    assert first is not None and last is not None
    # By length and digits, which is by value: a number may have more digits than int() takes.
    if last and (len(last), last) < (len(first), first):
        return None  # Its end before its start: no range at all.
    start = _number(first, size)
    if start >= size:
        raise NotThere
    return Span(start, min(size, _number(last, size) + 1) if last else size)


def _bare(digits: bytes) -> bytes:
    """Without zeros before it; what is absent stays empty, and zero keeps one."""
    return digits.lstrip(b"0") or digits[-1:]


def _ending(count: int, size: int) -> Span:
    if count == 0 or size == 0:
        raise NotThere
    return Span(max(0, size - count), size)


def _number(digits: bytes, size: int) -> int:
    """The number, or `size` for one that is too long to be less."""
    return size if len(digits) > DIGITS_LIMIT else int(digits)
