"""The parent's side: start a child, exchange frames with it, learn of its death at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence

LENGTH_BYTES = 4
FRAME_LIMIT_BYTES = 64 * 1024 * 1024
"""A vocabulary of 256k pieces is 4 MB; nothing honest comes near this."""

TOLD_WAIT_S = 2.0
"""What it takes to tell of a child that has exited: a second for its last words, and room."""

STDERR_KEPT_LINES = 50
"""Enough of a dead child's last words to name the cause, bounded."""

STDERR_LINE_LIMIT_BYTES = 64 * 1024
"""A native library may print a long line; past this the reader drops it rather than fail."""

KILLED_WAIT_S = 5.0
"""A killed process is gone in milliseconds, unless a driver holds it in the kernel: then nobody
waits for it any longer, and it is said to be gone all the same."""

EXIT_WAIT_S = 5.0
"""What a child that has closed its pipe gets to end by itself."""

log = logging.getLogger("parhelion.hosts")


class ChildGone(Exception):
    """The child process ended; `returncode` is negative for a signal, `last_words` its stderr.

    `returncode` None: it was killed, and the machine does not let go of it.
    """

    def __init__(self, name: str, returncode: int | None, last_words: str) -> None:
        super().__init__(f"{name} ended with {returncode}")
        self.returncode = returncode
        self.last_words = last_words


class Child:
    """One running child process of ours (`python -m MODULE ...`) that speaks frames.

    `on_frame(body)` is called in the event loop for every frame, in order. `on_exit(gone)` is
    called once, after the last frame, at most KILLED_WAIT_S after a `kill`. Neither may block.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._stderr: deque[str] = deque(maxlen=STDERR_KEPT_LINES)
        self._tasks: list[asyncio.Task[None]] = []
        self._hearing: asyncio.Task[None] | None = None
        self._unsent: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self.ended = asyncio.Event()

    @classmethod
    async def start(
        cls,
        name: str,
        module: str,
        arguments: Sequence[str],
        *,
        on_frame: Callable[[bytes], None],
        on_exit: Callable[[ChildGone], None],
        env: Mapping[str, str] | None = None,
        keep_stderr: bool = True,
    ) -> Child:
        """Start `python -m module arguments` and its readers; OSError when it cannot start.

        `keep_stderr` False lets the child write to our own standard error (it logs like us).
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE if keep_stderr else None,
            env={**os.environ, **(env or {})},
            limit=STDERR_LINE_LIMIT_BYTES,
            # A Ctrl-C at the terminal is the parent's to handle: it drains, then ends us.
            start_new_session=os.name == "posix",
        )
        child = cls(name, process)
        stderr = asyncio.create_task(child._read_stderr(), name=f"{name}-stderr")
        child._hearing = asyncio.create_task(child._hear(on_frame), name=f"{name}-frames")
        ending = asyncio.create_task(
            child._tell_of_the_end(child._hearing, stderr, on_exit), name=f"{name}-end"
        )
        child._tasks = [stderr, child._hearing, ending]  # The one that tells of the end is last.
        return child

    def send(self, body: bytes) -> None:
        """Queue one frame; ChildGone when the child has ended.

        Frames of one turn of the loop leave together: a write to a pipe wakes the child, and that
        costs more than all else here. What waits, here and in the pipe's own buffer, is bounded by
        what callers have in flight: each caller sends one request and waits for its answer.
        """
        stdin = self._process.stdin
        if stdin is None or stdin.is_closing() or self.ended.is_set():
            raise self._gone()
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(len(body).to_bytes(LENGTH_BYTES, "little") + body)

    async def stop(self, grace_s: float = 2.0) -> None:
        """Close the pipe (a child of ours ends on that), then kill after `grace_s`."""
        self._flush()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if not await self._has_exited(grace_s):
            self.kill()
            await self._has_exited(KILLED_WAIT_S)
        # Over already where the loop is ending, and its tasks were cancelled first.
        await asyncio.wait(self._tasks[-1:], timeout=TOLD_WAIT_S)

    def kill(self) -> None:
        """End the child at once; on_exit follows, also where the machine does not let go of it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        if self._hearing is not None:
            self._loop.call_later(KILLED_WAIT_S, self._hearing.cancel)

    def _flush(self) -> None:
        """Write what waits; of a child that has ended meanwhile `on_exit` tells."""
        unsent, self._unsent = self._unsent, []
        stdin = self._process.stdin
        if unsent and stdin is not None and not stdin.is_closing():
            stdin.write(b"".join(unsent))

    async def _tell_of_the_end(
        self,
        hearing: asyncio.Task[None],
        stderr: asyncio.Task[None],
        on_exit: Callable[[ChildGone], None],
    ) -> None:
        try:
            await asyncio.wait([hearing])
            told = {"child": self.name, "pid": self.pid}
            # Cancelled: it was killed long ago.
            if not hearing.cancelled() and not await self._has_exited(EXIT_WAIT_S):
                log.warning("it closed its pipe and did not end", extra=told)
                self.kill()
                await self._has_exited(KILLED_WAIT_S)
            if self._process.returncode is None:
                log.error("it was killed and does not end: a driver holds it", extra=told)
            await asyncio.wait([stderr], timeout=1.0)
        except asyncio.CancelledError:
            # The loop is ending: nobody reads any more, and nobody may wait for this child.
            self.kill()
            raise
        finally:
            self.ended.set()
        on_exit(self._gone())

    async def _has_exited(self, wait_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._process.wait()
        return self._process.returncode is not None

    async def _hear(self, on_frame: Callable[[bytes], None]) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        try:
            while True:
                size_bytes = int.from_bytes(await stdout.readexactly(LENGTH_BYTES), "little")
                if size_bytes > FRAME_LIMIT_BYTES:
                    log.error("frame too large", extra={"child": self.name, "bytes": size_bytes})
                    self.kill()
                    break
                on_frame(await stdout.readexactly(size_bytes))
        except asyncio.IncompleteReadError:
            pass  # The child closed its end: its exit status says why.
        except Exception:
            # A frame we cannot read means a broken child: end it, and let its exit be the event.
            log.exception("unreadable frame", extra={"child": self.name})
            self.kill()

    async def _read_stderr(self) -> None:
        stderr = self._process.stderr
        while stderr is not None:
            try:
                line = await stderr.readline()
            except ValueError:
                continue  # Over-long line: readline has dropped it.
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            self._stderr.append(text)
            log.debug("%s: %s", self.name, text)

    def _gone(self) -> ChildGone:
        return ChildGone(self.name, self._process.returncode, "\n".join(self._stderr))
