"""A TCP proxy that holds everything back for a fixed time: a far network on one machine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Self

PIECE_BYTES = 64 * 1024

IN_FLIGHT = 256
"""Pieces on their way in one direction: 16 MB, more than any link of these tests has in flight."""

CONNECT_DEADLINE_S = 5.0


class Delay:
    """Listens on a loopback port and forwards to `port`, each way `one_way_s` later; in order.

    The rate stays what it was. It has a thread and an event loop of its own, so that what it
    forwards between may be in this process or in any other.
    """

    def __init__(self, port: int, one_way_s: float) -> None:
        self.one_way_s = one_way_s
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._loop = asyncio.new_event_loop()
        self._ways: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True, name="delay")
        self._thread.start()

    def close(self) -> None:
        """Close every connection and listen no more."""
        with contextlib.suppress(RuntimeError):  # It was closed before.
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        loop = self._loop
        loop.run_until_complete(asyncio.start_server(self._join, sock=self._listener))
        loop.run_forever()
        for way in self._ways:
            way.cancel()
        if self._ways:
            loop.run_until_complete(asyncio.wait(self._ways))
        self._listener.close()
        loop.close()

    async def _join(self, near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(CONNECT_DEADLINE_S):
                far, far_out = await asyncio.open_connection("127.0.0.1", self._target)
        except (OSError, TimeoutError):
            near_out.close()
            return
        for reader, writer in ((near, far_out), (far, near_out)):
            way = asyncio.create_task(self._forward(reader, writer))
            self._ways.add(way)
            way.add_done_callback(self._ways.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(IN_FLIGHT)
        reading = asyncio.create_task(self._read(reader, held))
        try:
            while True:
                due_s, piece = await held.get()
                await asyncio.sleep(due_s - self._loop.time())
                if not piece:
                    return
                writer.write(piece)
                await writer.drain()
        except OSError:
            return  # One end is gone, and the other is told so below.
        finally:
            reading.cancel()
            writer.close()

    async def _read(
        self, reader: asyncio.StreamReader, held: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        piece = b"."
        while piece:
            try:
                piece = await reader.read(PIECE_BYTES)
            except OSError:
                piece = b""
            await held.put((self._loop.time() + self.one_way_s, piece))
