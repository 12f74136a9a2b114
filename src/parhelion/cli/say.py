"""What commands print: data to standard output, everything else to standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def data(text: str) -> None:
    """Print what was asked for; flushed, because a reader may wait for this very line."""
    part(text + "\n")


def part(text: str) -> None:
    """Print a piece of what was asked for, as it comes."""
    sys.stdout.write(text)
    sys.stdout.flush()


def data_json(value: object) -> None:
    """Print a value as one line of JSON."""
    import msgspec

    data(msgspec.json.encode(value).decode())


def talk(text: str) -> None:
    """Tell the person something beside the data."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def problem(message: str, hint: str) -> None:
    """Print an error the one way we print errors: what happened, an empty line, what to do."""
    talk(f"{paint('error', '31')}: {message}")
    if hint:
        talk(f"\n{paint('hint', '36')}: {hint}")


def paint(text: str, colour: str) -> str:
    """Text in an ANSI colour for a terminal on standard error; plain with NO_COLOR or in a pipe."""
    return text if is_plain() or not sys.stderr.isatty() else f"\x1b[{colour}m{text}\x1b[0m"


def is_plain() -> bool:
    """Whether this person or terminal wants no colours."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, never cut: peer ids are long, and a pipe has no width."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *rows)
    ]
    return "\n".join(lines)


def amount(micro: int | str, asset: str = "") -> str:
    """Base units as a decimal number with its asset: 5680 -> `0.00568 PRLX.local`."""
    whole, part = divmod(abs(int(micro)), 1_000_000)
    sign = "-" if int(micro) < 0 else ""
    digits = f"{part:06d}".rstrip("0")
    number = f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"
    return f"{number} {asset}".rstrip()


def moment(at_ms: int | None) -> str:
    """A time of a row as local text; `-` for none."""
    from datetime import datetime

    if at_ms is None:
        return "-"
    try:
        return datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError):
        return "beyond year 9999"
