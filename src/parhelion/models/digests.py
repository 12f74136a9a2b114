"""The sha256 of big files, remembered by (size, mtime, inode): a start need not read them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from parhelion.config import default_cache

READ_BYTES = 1024 * 1024
"""One read: large enough that hashing, not system calls, is the cost."""

REMEMBERED_FILES = 256
"""More models than a machine holds; the oldest are forgotten first."""

REMEMBERED_SLICES = 2048
"""Every cut that 16 models with 128 different stages each came to; some 600 kB."""


class _Seen(msgspec.Struct, frozen=True):
    """What a file looked like when its digest was taken."""

    size_bytes: int
    mtime_ns: int
    inode: int
    digest: str


def models_cache() -> Path:
    """The user's cache folder for model files (XDG_CACHE_HOME and its kin are honoured)."""
    return default_cache() / "models"


Progress = Callable[[int], None]
"""Told, in the caller's thread, how many percent are done: each once, as they are reached."""


def file_digest(path: Path, cache: Path | None = None, progress: Progress | None = None) -> str:
    """The sha256 of the file in lower-case hex; OSError when it cannot be read.

    A file that was changed and given its old size and mtime back is not noticed: the digest
    protects against mistakes on one's own disk, and whoever can do that can replace the program.
    """
    memory = (cache or models_cache()) / "digests.json"
    return _digest(
        path, memory, str(path.resolve()), lambda: _sha256(path, progress), REMEMBERED_FILES
    )


def derived_digest(
    path: Path, what: str, compute: Callable[[], str], cache: Path | None = None
) -> str:
    """The digest of `what` is made of this file, remembered in the same way.

    Of a file of their own: many slices of one model must not crowd out the models.
    """
    memory = (cache or models_cache()) / "slices.json"
    return _digest(path, memory, f"{path.resolve()} {what}", compute, REMEMBERED_SLICES)


def _digest(path: Path, memory: Path, key: str, compute: Callable[[], str], limit: int) -> str:
    known = _recall(memory)
    before = path.stat()
    seen = known.get(key)
    if seen is not None and _matches(seen, before):
        return seen.digest
    digest = compute()
    after = path.stat()
    if after.st_mtime_ns == before.st_mtime_ns and after.st_size == before.st_size:
        # Another process may have remembered something meanwhile: hashing takes a minute or more.
        known = _recall(memory)
        known.pop(key, None)
        known[key] = _Seen(after.st_size, after.st_mtime_ns, after.st_ino, digest)
        _remember(memory, known, limit)
    return digest


def _matches(seen: _Seen, now: os.stat_result) -> bool:
    return (seen.size_bytes, seen.mtime_ns, seen.inode) == (
        now.st_size,
        now.st_mtime_ns,
        now.st_ino,
    )


def _sha256(path: Path, progress: Progress | None) -> str:
    sha256, size_bytes, read_bytes, told = hashlib.sha256(), path.stat().st_size, 0, -1
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            sha256.update(block)
            read_bytes += len(block)
            # A file that grows meanwhile is not more than whole.
            percent = min(100, 100 * read_bytes // max(1, size_bytes))
            if progress is not None and percent > told:
                told = percent
                progress(percent)
    return sha256.hexdigest()


def _recall(memory: Path) -> dict[str, _Seen]:
    try:
        return msgspec.json.decode(memory.read_bytes(), type=dict[str, _Seen])
    except (OSError, msgspec.DecodeError):
        return {}  # Only a cache: what is lost is computed again.


def _remember(memory: Path, known: dict[str, _Seen], limit: int) -> None:
    newest = dict(list(known.items())[-limit:])
    # A cache that cannot be written (read-only home) costs time at the next start, nothing else.
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=memory.parent, prefix="digests-")
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(newest))
        os.replace(name, memory)
