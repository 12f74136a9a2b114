"""What commands print: data to standard output, everything else to standard error.

Much of it came from outside: a model's text, a node's name, a coordinator's error, a file somebody
sent. A terminal obeys what is hidden in such text (it can write the clipboard, clear the screen,
turn letters round), so nothing reaches one but through `safe`. A pipe or a file gets it exactly.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

_COMMANDS = (
    *(code for code in range(0x20) if chr(code) not in "\n\t"),
    *range(0x7F, 0xA0),  # DEL, and C1: some terminals take U+009B for ESC [
)
_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_HALVES = range(0xD800, 0xE000)
"""Of surrogate pairs: no characters by themselves, and no encoding has bytes for them."""

_WRITABLE = dict.fromkeys(_HALVES, "\N{REPLACEMENT CHARACTER}")
_SHOWABLE = _WRITABLE | dict.fromkeys((*_COMMANDS, *_DIRECTIONS), "\N{REPLACEMENT CHARACTER}")


def safe(text: str) -> str:
    """The text as a terminal may get it: line breaks and tabs are all that it can command."""
    return text.translate(_SHOWABLE)


def one_line(text: str) -> str:
    """A value from outside for the middle of a line of ours: it can begin no line of its own."""
    return " ".join(text.splitlines())


def data(text: str) -> None:
    """Print what was asked for; flushed, because a reader may wait for this very line."""
    part(text + "\n")


def part(text: str) -> None:
    """Print a piece of what was asked for, as it comes."""
    _write(sys.stdout, text)


def data_marked(word: str, colour: str, rest: str) -> None:
    """Print what was asked for, which begins with a word of ours in a colour."""
    sys.stdout.write(paint(word, colour) if sys.stdout.isatty() else word)
    data(rest)


def data_json(value: object) -> None:
    """Print a value as one line of JSON."""
    import msgspec

    data(msgspec.json.encode(value).decode())


def talk(text: str) -> None:
    """Tell the person something beside the data."""
    _write(sys.stderr, text + "\n")


def problem(message: str, hint: str) -> None:
    """Print an error the one way we print errors: what happened, an empty line, what to do."""
    sys.stderr.write(paint("error", "31"))
    talk(f": {message}")
    if hint:
        sys.stderr.write("\n" + paint("hint", "36"))
        talk(f": {hint}")


def paint(text: str, colour: str) -> str:
    """Text in an ANSI colour for a terminal on standard error; plain with NO_COLOR or in a pipe."""
    return text if is_plain() or not sys.stderr.isatty() else f"\x1b[{colour}m{text}\x1b[0m"


def _write(stream: TextIO, text: str) -> None:
    stream.write(safe(text) if stream.isatty() else text.translate(_WRITABLE))
    stream.flush()


def is_plain() -> bool:
    """Whether this person or terminal wants no colours."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, never cut: peer ids are long, and a pipe has no width."""
    table = [[one_line(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return "\n".join(lines)


def amount(micro: int | str, asset: str = "") -> str:
    """Base units as a decimal number with its asset: 5680 -> `0.00568 PRLX.local`."""
    whole, part = divmod(abs(int(micro)), 1_000_000)
    sign = "-" if int(micro) < 0 else ""
    digits = f"{part:06d}".rstrip("0")
    number = f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"
    return f"{number} {asset}".rstrip()


def memory(size_bytes: int) -> str:
    """An amount of memory for a person."""
    mib = size_bytes / 2**20
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"


def moment(at_ms: int | None) -> str:
    """A time of a row as local text; `-` for none."""
    from datetime import datetime

    if at_ms is None:
        return "-"
    try:
        return datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError):
        return "beyond year 9999"
