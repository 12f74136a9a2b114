"""What a wallet has spent on a day, durable before anything is sent; no record, no payment.

What was signed counts, whatever became of it: a seller that says "not paid" may still carry it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from parhelion.payments.x402.prices import usd_text
from parhelion.store.lock import FileLock
from parhelion.words import Problem, ProblemCode, Record

FILE_LIMIT_BYTES = 64 * 1024
MODE_OTHERS_WRITE = 0o022
"""A record that others can write limits nothing."""

LOCK_WAIT_S = 5.0
LOCK_LOOK_S = 0.02
"""The other holds the lock for one fsync; the system wakes nobody who waits for it."""


class Limits(Record, frozen=True, kw_only=True):
    """The most that one request, and all of one UTC day, may cost, in base units."""

    request_micro: int
    day_micro: int


class _Day(msgspec.Struct, forbid_unknown_fields=True):
    """`spent` is by asset (USDC, USDC.test): play money is not counted with real money."""

    version: int
    day: str
    spent: dict[str, int]


class Spending:
    """The record beside a wallet file."""

    def __init__(
        self,
        wallet: Path,
        now_ms: Callable[[], int],
        *,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = wallet.with_name(f"{wallet.name}.spent")
        self._now_ms = now_ms
        self._pause = pause

    def left_micro(self, asset: str, limit_micro: int, needed_micro: int = 0) -> int:
        """What may still be spent today; Problem where it is too little, or cannot be read."""
        return _left(self._read(), asset, limit_micro, needed_micro)

    def reserve(self, asset: str, amount_micro: int, limit_micro: int) -> int:
        """Count an amount (above 0) as spent, durably; what is left. Problem: it does not fit."""
        if amount_micro <= 0:
            raise ValueError("a payment is above 0")
        with self._alone():
            day = self._read()
            left_micro = _left(day, asset, limit_micro, amount_micro) - amount_micro
            day.spent[asset] = day.spent.get(asset, 0) + amount_micro
            self._write(day)
            return left_micro

    def _read(self) -> _Day:
        today = datetime.fromtimestamp(self._now_ms() / 1000, UTC).strftime("%Y-%m-%d")
        try:
            with self.path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                raw = file.read(FILE_LIMIT_BYTES + 1)
        except FileNotFoundError:
            return _Day(version=1, day=today, spent={})
        except OSError as error:
            raise self._unusable(f"cannot be read ({error.strerror})") from error
        if os.name == "posix" and mode & MODE_OTHERS_WRITE:
            raise self._unusable("can be written by others")
        try:
            day = msgspec.json.decode(raw, type=_Day)
            datetime.strptime(day.day, "%Y-%m-%d").replace(tzinfo=UTC)
        except (ValueError, RecursionError) as error:
            raise self._unusable("cannot be understood") from error
        if day.version != 1 or min(day.spent.values(), default=0) < 0:
            raise self._unusable("cannot be understood")
        # A clock that was set back begins no new day.
        return day if day.day >= today else _Day(version=1, day=today, spent={})

    def _write(self, day: _Day) -> None:
        draft = self.path.with_name(f"{self.path.name}.new")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(day) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
            if os.name == "posix":
                folder = os.open(self.path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        except OSError as error:
            raise self._unusable(f"cannot be written ({error.strerror})") from error

    @contextlib.contextmanager
    def _alone(self) -> Generator[None]:
        """One process at a time; whoever dies lets go."""
        waited_s = 0.0
        while True:
            try:
                lock = FileLock(self.path)
                break
            except Problem as problem:
                if waited_s >= LOCK_WAIT_S:
                    raise self._unusable("is held by another payment that hangs") from problem
            except OSError as error:
                raise self._unusable(f"cannot be locked ({error.strerror})") from error
            self._pause(LOCK_LOOK_S)
            waited_s += LOCK_LOOK_S
        try:
            yield
        finally:
            lock.release()

    def _unusable(self, why: str) -> Problem:
        return Problem(
            ProblemCode.STORE_UNAVAILABLE,
            f"the record of what this wallet spent today {why}: {self.path}",
            hint="nothing is paid without it; look at it, then remove it to begin the day anew",
        )


def _left(day: _Day, asset: str, limit_micro: int, needed_micro: int) -> int:
    """What is left of a day's limit; Problem where less than what is needed. Pure."""
    left_micro = max(0, limit_micro - day.spent.get(asset, 0))
    if needed_micro > left_micro:
        raise Problem(
            ProblemCode.KEY_LIMIT_REACHED,
            f"${usd_text(needed_micro)} does not fit into what is left of today: "
            f"${usd_text(left_micro)}",
            hint=f"the day's limit is ${usd_text(limit_micro)} (--max-usd-per-day), and ends at "
            "0:00 UTC; nothing was paid",
        )
    return left_micro
