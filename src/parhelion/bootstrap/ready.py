"""What both kinds of process share: the clock, the data folder, the word that they are ready."""

from __future__ import annotations

import os
import time
from pathlib import Path

from parhelion.config import Config, default_data
from parhelion.words import Problem, ProblemCode, Record

RANDOM_BLOCK_BYTES = 4096
"""Some eighty requests' worth."""

DRAIN_DEADLINE_S = 30.0
"""What a Ctrl-C waits for running answers; a second Ctrl-C does not wait."""


class ChainAt(Record, frozen=True, kw_only=True):
    """A network that payments come from, and where it is read; `local`: play money."""

    network: str
    rpc: str
    local: bool


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
    lan_api: str | None = None
    """The API for other machines, where it is bound to more than loopback."""
    models: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    """Of a node: the models that the pool takes from it, and those it does not, each with why."""
    memory_bytes: int | None = None
    """Of a node that is a member of pipelines: what it gives them."""
    chains: tuple[ChainAt, ...] = ()
    """Where a coordinator is paid; none where it takes no payments."""


class Pool(Record, frozen=True, kw_only=True):
    """The nodes of a running coordinator: how many it waits for, and who is ready.

    `has_members`: some of them offer memory to pipelines, and may be given layers.
    """

    need: int
    ready: tuple[str, ...]
    complete: bool
    has_members: bool = False


class Randomness:
    """`os.urandom` by the block: a request takes three times from it, and every system call hands
    the GIL to whichever thread waits for it."""

    def __init__(self) -> None:
        self._block = b""
        self._used = 0

    def __call__(self, size_bytes: int) -> bytes:
        """So many random bytes that nobody else gets."""
        if self._used + size_bytes > len(self._block):
            self._block, self._used = os.urandom(max(RANDOM_BLOCK_BYTES, size_bytes)), 0
        start, self._used = self._used, self._used + size_bytes
        return self._block[start : self._used]


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
    path = Path(config.data) if config.data else default_data()
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Problem(
            ProblemCode.CONFIG_INVALID,
            f"the data folder {path} cannot be made: {error.strerror}",
            hint="name another one with --data",
        ) from error
    return path
