"""The lock that keeps a second process from writing the same file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from parhelion.words import Problem, ProblemCode

if sys.platform == "win32":
    import msvcrt

    def _take(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _take(descriptor: int) -> None:
        # flock, not lockf: it also holds against a second opening in this same process.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class FileLock:
    """An exclusive lock beside the database; the system frees it when the process dies."""

    def __init__(self, database: Path) -> None:
        path = database.with_name(database.name + ".lock")
        # The file stays when the lock goes: removing it would let two holders lock two files.
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _take(self._descriptor)
        except OSError as error:
            os.close(self._descriptor)
            raise Problem(
                ProblemCode.STORE_UNAVAILABLE,
                f"{database.name} is in use by another process",
                hint="stop the other Parhelion, or give this one a folder of its own with --data",
            ) from error

    def release(self) -> None:
        """Let the next process in."""
        os.close(self._descriptor)
