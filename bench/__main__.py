"""`make bench`: the rows of DESIGN 12 that apply, each as a ratio in one run.

`python -m bench [--quick] [--json FILE] [ROW ...]`
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from bench import (
    rows_batching,
    rows_dispatch,
    rows_engine,
    rows_finish,
    rows_ledger,
    rows_nodes,
    rows_pages,
    rows_pipelines,
    rows_planner,
    rows_pool,
    rows_probes,
    rows_relay,
    rows_sharing,
    rows_survival,
    rows_x402,
)
from bench.rows import Row

GROUPS: dict[str, Callable[[Path, bool], list[Row]]] = {
    "ledger": rows_ledger.measure,
    "relay": rows_relay.measure,
    "engine": rows_engine.measure,
    "batching": rows_batching.measure,
    "survival": rows_survival.measure,
    "probes": rows_probes.measure,
    "dispatch": rows_dispatch.measure,
    "finish": rows_finish.measure,
    "nodes-1000": rows_nodes.measure_1000,
    "nodes-5000": rows_nodes.measure_5000,
    "pool": rows_pool.measure,
    "planner": rows_planner.measure,
    "pipelines": rows_pipelines.measure,
    "throughput": rows_sharing.measure_throughput,
    "fairness": rows_sharing.measure_fairness,
    "x402": rows_x402.measure,
    "pages": rows_pages.measure,
}


def machine() -> str:
    """The machine in words, as far as it says."""
    names = [
        line.split(":", 1)[1].strip()
        for line in _cpuinfo().splitlines()
        if line.startswith("model name")
    ]
    memory_gb = psutil.virtual_memory().total / 2**30
    return (
        f"{psutil.cpu_count()} x {names[0] if names else platform.machine()}, {memory_gb:.0f} GiB,"
        f" {platform.system()}, Python {platform.python_version()}"
    )


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[[], *GROUPS], default=[])
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for a first look")
    parser.add_argument("--json", type=Path, help="also keep the rows in this file")
    options = parser.parse_args()
    rows: list[Row] = []
    print(f"{machine()}\n{time.strftime('%Y-%m-%d')}\n")
    for name in options.groups or GROUPS:
        with tempfile.TemporaryDirectory(prefix="parhelion-bench-") as folder:
            for row in GROUPS[name](Path(folder), options.quick):
                rows.append(row)
                print(row.line(), flush=True)
    if options.json:
        options.json.write_text(json.dumps([row._asdict() for row in rows], indent=1))
    missed = [row.name for row in rows if row.is_met is False]
    print(f"\n{len(rows) - len(missed)} of {len(rows)} targets met", file=sys.stderr)


if __name__ == "__main__":
    main()
