"""A row of the table: what was measured, against what, and whether the target is met."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """One number of DESIGN 12; `is_met` is None where the target is only printed."""

    name: str
    measured: str
    target: str
    is_met: bool | None
    detail: str = ""

    def line(self) -> str:
        """The row as a line of a Markdown table."""
        verdict = {True: "met", False: "MISSED", None: "-"}[self.is_met]
        return f"| {self.name} | {self.measured} | {self.target} | {verdict} | {self.detail} |"


def median(values: Sequence[float]) -> float:
    """The median; NaN-free by construction."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """Lowest to highest, so that a reader sees how noisy the machine was."""
    return f"{min(values):.2f} to {max(values):.2f} over {len(values)}"
