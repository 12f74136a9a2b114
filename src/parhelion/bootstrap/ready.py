"""What both kinds of process share: the clock, the data folder, the word that they are ready."""

from __future__ import annotations

import time
from pathlib import Path

from parhelion.config import Config
from parhelion.words import Problem, ProblemCode, Record

DRAIN_DEADLINE_S = 30.0
"""What a Ctrl-C waits for running answers; a second Ctrl-C does not wait."""


class Ready(Record, frozen=True, kw_only=True):
    """What a started process tells the person (or the program) that started it."""

    coordinator: str
    api: str | None = None
    web: str | None = None
    key: str | None = None
    node: str | None = None
    join: str | None = None
    balance_micro: int | None = None
    asset: str | None = None
    model: str | None = None


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Wall time in Unix milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds of a clock that never goes back."""
        return time.monotonic()


def folder(config: Config) -> Path:
    """The data folder, made with mode 0700 when new; the settings name it or the platform does.

    Problem CONFIG_INVALID when it cannot be made.
    """
    import platformdirs

    path = Path(config.data or platformdirs.user_data_dir("parhelion"))
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Problem(
            ProblemCode.CONFIG_INVALID,
            f"the data folder {path} cannot be made: {error.strerror}",
            hint="name another one with --data",
        ) from error
    return path
