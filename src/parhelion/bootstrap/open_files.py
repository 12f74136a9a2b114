"""How many files and sockets this process may have open: raised as far as it is of use."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger("parhelion.bootstrap")

WANTED = 65_536
"""Each node and each client takes one. Ten times the 5,000 nodes that one coordinator was measured
with, and far beyond the 1,024 that a shell allows nearly everywhere."""

LEAST = 4096
"""Under this the owner is warned: a pool may grow past it, and then nodes and clients are refused
without a word."""

OURS = 128
"""What the database, the children's pipes and the logs take of them."""


def raise_open_files() -> None:
    """Raise this process's limit, and so its children's; warn when it stays small."""
    try:
        import resource
    except ImportError:  # Windows: sockets are not counted there.
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    goal = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)

    def put(limit: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))

    tell(raised(soft, goal, put))


def raised(soft: int, goal: int, put: Callable[[int], None]) -> int:
    """The limit after `put` raised it from `soft` towards `goal`, as far as the system allows."""
    while soft < goal:
        try:
            put(goal)
        except (OSError, ValueError):
            # macOS calls its hard limit infinite, and allows some ten or twenty thousand.
            goal //= 2
        else:
            return goal
    return soft


def tell(limit: int) -> None:
    """Warn when the limit is small, with what to do."""
    if limit < LEAST:
        log.warning(
            "few open files are allowed: nodes and clients that do not fit are refused",
            extra={
                "limit": limit,
                "fit": max(0, limit - OURS),
                "hint": f"raise the hard limit (ulimit -Hn {WANTED}, or LimitNOFILE= of systemd)",
            },
        )
