"""`python -m parhelion.chain.local.minievm --data DIR`: the chain's process, on loopback only.

When it answers, it prints one JSON line on stdout; everything else goes to stderr. SIGTERM and
SIGINT end it, and with --end-with-stdin also the end of stdin: a parent that dies takes it along.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

import msgspec
from aiohttp import web

from parhelion.words import Problem

HOST = "127.0.0.1"
"""Not a setting: whoever reaches the port can give himself money."""

STOP_WAIT_S = 1.0
"""What is being answered takes milliseconds; what is answered is on the disk."""

BLOCK_MS_LIMIT = 60_000


def main() -> int:
    """Serve the chain until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="minievm", description="A LOCAL EVM chain.")
    parser.add_argument("--data", type=Path, required=True, help="the chain's folder")
    parser.add_argument("--port", type=int, default=0, help="0: a free one (default)")
    parser.add_argument("--json", action="store_true", help="nothing but the JSON line: no talk")
    parser.add_argument("--end-with-stdin", action="store_true", help="end when stdin does")
    parser.add_argument(
        "--block-ms",
        type=int,
        default=0,
        help="0: a block a transaction, at once (default); else the time between blocks",
    )
    options = parser.parse_args()
    if not 0 <= options.block_ms <= BLOCK_MS_LIMIT or not 0 <= options.port <= 65_535:
        parser.error(f"--block-ms is 0 to {BLOCK_MS_LIMIT}, --port 0 to 65535")
    try:
        asyncio.run(_serve(options))
    except Problem as problem:
        sys.stderr.write(f"error: {problem.message}\n\nhint: {problem.hint}\n")
        return 1
    except (OSError, sqlite3.Error) as error:
        sys.stderr.write(f"error: {error}\n\nhint: choose another --port or --data\n")
        return 1
    return 0


async def _serve(options: argparse.Namespace) -> None:
    # Imported here so that --help and a wrong option answer at once: py-evm takes half a second.
    from parhelion.chain.local.minievm.node import open_node

    stop = asyncio.Event()
    watching = await _end_when_told(stop, with_stdin=options.end_with_stdin)
    node = open_node(options.data, options.block_ms, time.time, time.monotonic, os.urandom)
    runner = web.AppRunner(node.app, access_log=None, shutdown_timeout=STOP_WAIT_S)
    miner = asyncio.create_task(node.miner.run()) if node.miner is not None else None
    try:
        await runner.setup()
        await web.TCPSite(runner, HOST, options.port).start()
        card = node.card(f"http://{HOST}:{runner.addresses[0][1]}")
        sys.stdout.write(msgspec.json.encode(card).decode() + "\n")
        sys.stdout.flush()
        if not options.json:
            sys.stderr.write(f"minievm: a LOCAL EVM chain on {card['rpc']}\n")
        await _until(stop, miner)
    finally:
        if miner is not None:
            miner.cancel()
        if watching is not None:
            watching.close()
        await runner.cleanup()
        node.close()


class _Ending(asyncio.Protocol):
    """Sets an event when the other end of a pipe is closed."""

    def __init__(self, ended: asyncio.Event) -> None:
        self._ended = ended

    def connection_lost(self, exc: Exception | None) -> None:
        """The parent is gone."""
        self._ended.set()


async def _end_when_told(stop: asyncio.Event, *, with_stdin: bool) -> asyncio.BaseTransport | None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows: Ctrl-C raises KeyboardInterrupt instead.
            break
    if not with_stdin:
        return None
    transport, _ = await loop.connect_read_pipe(lambda: _Ending(stop), sys.stdin)
    return transport


async def _until(stop: asyncio.Event, miner: asyncio.Task[None] | None) -> None:
    stopping = asyncio.create_task(stop.wait())
    tasks = {stopping} if miner is None else {stopping, miner}
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    for task in done:
        task.result()


if __name__ == "__main__":
    raise SystemExit(main())
