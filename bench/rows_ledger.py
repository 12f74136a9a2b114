"""Ledger hold + post, durable, 64 callers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench.rows import Row

TARGET_PAIRS_PER_S = 5000


def measure(folder: Path, quick: bool) -> list[Row]:
    """The row, from bench/ledger.py in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-m", "bench.ledger"], capture_output=True, text=True, timeout=300
    )
    if run.returncode != 0:
        raise RuntimeError(run.stderr[-2000:])
    found = json.loads(run.stdout)
    return [
        Row(
            "ledger hold + post, durable, 64 callers",
            f"{found['pairs_per_s']:.0f} a second",
            f">= {TARGET_PAIRS_PER_S}",
            found["pairs_per_s"] >= TARGET_PAIRS_PER_S,
            f"{found['ratio']:.2f} of a bare sqlite3 loop with the same statements",
        )
    ]
