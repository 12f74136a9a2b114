"""The child's side of the pipes: blocking frames on private descriptors.

A frame is a 4-byte little-endian length and that many bytes. Standard output is pointed at
standard error first, because native libraries print to it and would break the framing.
"""

from __future__ import annotations

import os
import threading
from typing import BinaryIO

from parhelion.hosts.child import FRAME_LIMIT_BYTES, LENGTH_BYTES


class Pipe:
    """Frames from and to the parent; `read` in one thread, `write` from any."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink
        self._write_lock = threading.Lock()

    def read(self) -> bytes | None:
        """The next frame, or None when the parent closed the pipe (then the child should end)."""
        head = self._source.read(LENGTH_BYTES)
        if len(head) < LENGTH_BYTES:
            return None
        size_bytes = int.from_bytes(head, "little")
        if size_bytes > FRAME_LIMIT_BYTES:
            raise ValueError(f"frame of {size_bytes} bytes from the parent")
        body = self._source.read(size_bytes)
        return body if len(body) == size_bytes else None

    def write(self, body: bytes) -> None:
        """Send one frame; BrokenPipeError when the parent is gone."""
        with self._write_lock:
            self._sink.write(len(body).to_bytes(LENGTH_BYTES, "little") + body)
            self._sink.flush()


def claim_pipe() -> Pipe:
    """Take standard input and output for frames; whatever else prints goes to standard error."""
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return Pipe(source, sink)
