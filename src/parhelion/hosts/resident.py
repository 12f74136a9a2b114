"""How much memory a process takes of its own, with the pages of the model file that it maps."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import psutil


def resident_bytes(pid: int | None = None, mapped: Collection[Path] = ()) -> int | None:
    """Bytes in memory that would be free without this process; None where it is gone.

    Its own pages, and all that are in memory of the files in `mapped`, its models: another process
    that maps the same file shares them, and they count in full for each, because each needs them.
    Pages of programs and libraries that others share are nobody's own. Of this process without a
    `pid`. Where the system tells no single mappings (macOS), shared pages of models are left out.
    """
    try:
        process = psutil.Process(pid)
        own_bytes = process.memory_full_info().uss
        return int(own_bytes) + _shared_bytes(process, mapped)
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        # Another user's process: all that is said of it is its size, libraries included.
        return _rss_bytes(pid)


def _shared_bytes(process: psutil.Process, mapped: Collection[Path]) -> int:
    """Pages of these files that another process has mapped too, which are in no USS."""
    if not mapped or not hasattr(process, "memory_maps"):
        return 0
    wanted = {os.path.realpath(path) for path in mapped}
    return sum(
        one.shared_clean + one.shared_dirty
        for one in process.memory_maps(grouped=True)
        if one.path in wanted
    )


def _rss_bytes(pid: int | None) -> int | None:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return None
