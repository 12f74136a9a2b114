"""Readers: a few connections in threads that can read and nothing else."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from parhelion.store.opening import open_reader
from parhelion.words import Problem, ProblemCode

READERS = 3
"""One for a slow audit or history, two for the quick look-ups beside it."""

WAITING_LIMIT = 4096
"""Reads that wait: at some 20,000 a second this is 0.2 s, and past that a client should know."""

T = TypeVar("T")


class Readers:
    """Runs reads on the pool, each on a connection that no other read uses meanwhile."""

    def __init__(self, path: Path) -> None:
        self._idle: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        for _ in range(READERS):
            self._idle.put(open_reader(path))
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="parhelion-store-reader")
        self._waiting = 0

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns; Problem OVERLOADED when too many reads wait."""
        if self._waiting >= WAITING_LIMIT:
            raise Problem(ProblemCode.OVERLOADED, "too many reads are waiting", retry_after_s=1)
        self._waiting += 1
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, self._with_connection, work)
        finally:
            self._waiting -= 1

    def stop(self) -> None:
        """Finish the reads that run and close; blocks."""
        self._pool.shutdown(wait=True)
        while not self._idle.empty():
            self._idle.get().close()

    def _with_connection(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._idle.get()
        try:
            return work(connection)
        finally:
            self._idle.put(connection)
