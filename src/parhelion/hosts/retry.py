"""How long to wait before the next try; pure."""

from __future__ import annotations

FIRST_WAIT_S = 0.25
"""Short enough that one hiccup is not felt."""

LONGEST_WAIT_S = 15.0
"""Long enough that a coordinator that is down is not hammered, short enough for a person."""


def backoff_s(failures: int, jitter: float) -> float:
    """Seconds to wait after `failures` failures in a row: doubling, capped, spread by jitter.

    `jitter` is uniform in [0, 1): half of the wait is fixed and half is random, so that many
    peers do not come back in step.
    """
    wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(failures, 16))
    return wait_s * (0.5 + 0.5 * jitter)
