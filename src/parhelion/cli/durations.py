"""Durations as people write them."""

from __future__ import annotations

import re

from parhelion.cli.options import WrongUsage

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def duration_ms(text: str, least_s: int = 1) -> int:
    """`90s`, `15m`, `12h`, `30d` or `2w` in milliseconds; `0s` too where nothing is a time."""
    found = re.fullmatch(r"(0|[1-9][0-9]{0,5})([smhdw])", text)
    if found is None or int(found[1]) < least_s:
        raise WrongUsage(f"{text!r} is not a duration", "write it like 90s, 15m, 12h, 30d or 2w")
    return int(found[1]) * SECONDS[found[2]] * 1000
