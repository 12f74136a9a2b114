"""`python -m parhelion.chain.local.minisol --data DIR`: the chain's process, on loopback only.

When it answers, it prints one JSON line on stdout; everything else goes to stderr. SIGTERM and
SIGINT end it, and with --end-with-stdin also the end of stdin: a parent that dies takes it along.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Generator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvicorn

from parhelion.chain.local.minisol import CAIP2, GENESIS_HASH, USDC_DECIMALS, USDC_MINT
from parhelion.chain.local.minisol.app import BODY_LIMIT_BYTES, App
from parhelion.chain.local.minisol.chain import Chain
from parhelion.chain.local.minisol.slots import SLOT_MS
from parhelion.words import Problem, ProblemCode

HOST = "127.0.0.1"
"""Not a setting: whoever reaches the port can give himself money."""

CONNECTIONS_LIMIT = 512
BACKLOG = 512
IDLE_S = 75
STOP_DEADLINE_S = 3


class WallClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Wall time in Unix milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds of a clock that never goes back."""
        return time.monotonic()


class _Server(uvicorn.Server):
    """Signals are handled here, not by uvicorn, so that the journal is closed after the door."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Install nothing."""
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to end; 0 after a clean end, 1 with a reason on stderr."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        return _run(_serve(options))
    except Problem as problem:
        sys.stderr.write(f"error: {problem.message}\n\nhint: {problem.hint}\n")
        return 1


def _run(serving: Coroutine[Any, Any, int]) -> int:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(serving)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serving)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="minisol", description="A LOCAL Solana chain.")
    parser.add_argument("--data", type=Path, required=True, help="the chain's folder")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--slot-ms", type=int, default=SLOT_MS, help="for tests: time of a slot")
    parser.add_argument("--json", action="store_true", help="nothing but the JSON line: no talk")
    parser.add_argument("--end-with-stdin", action="store_true", help="end when stdin does")
    return parser


async def _serve(options: argparse.Namespace) -> int:
    listener = _listen(options.port)
    chain = Chain(options.data, WallClock(), slot_ms=max(1, options.slot_ms))
    server = _Server(_settings(App(chain)))
    ending = asyncio.Event()
    lost = asyncio.Event()

    def end_lost() -> None:
        lost.set()
        ending.set()

    chain.on_lost = end_lost
    _end_on_signals(ending)
    watching = await _end_with_stdin(ending) if options.end_with_stdin else None
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="minisol-http")
    try:
        # uvicorn has no event for it; it takes a millisecond.
        while not server.started and not serving.done():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        _announce(chain, listener.getsockname()[1], talk=not options.json)
        stop = asyncio.create_task(ending.wait())
        await asyncio.wait([stop, serving], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
    finally:
        server.should_exit = True
        await asyncio.wait([serving])
        if watching is not None:
            watching.close()
        await chain.close()
        listener.close()
    return 1 if lost.is_set() else 0


def _listen(port: int) -> socket.socket:
    # The protocol is said so that asyncio turns Nagle's algorithm off: an answer is two writes,
    # and the second would wait 40 ms for the client's acknowledgement of the first.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if sys.platform != "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise Problem(
            ProblemCode.CONFIG_INVALID,
            f"port {port} on {HOST} cannot be taken: {error.strerror}",
            hint="choose another with --port, or 0 for any free one",
        ) from error
    listener.listen(BACKLOG)
    return listener


def _settings(app: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws="websockets-sansio",
        loop="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        ws_max_size=BODY_LIMIT_BYTES,
        ws_per_message_deflate=False,
        backlog=BACKLOG,
        limit_concurrency=CONNECTIONS_LIMIT,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=STOP_DEADLINE_S,
    )


def _announce(chain: Chain, port: int, *, talk: bool) -> None:
    ready = {
        "rpc": f"http://{HOST}:{port}",
        "ws": f"ws://{HOST}:{port}",
        "caip2": CAIP2,
        "genesis_hash": GENESIS_HASH,
        "mint": USDC_MINT,
        "decimals": USDC_DECIMALS,
        "faucet": str(chain.faucet.pubkey()),
        "slot": chain.now(),
        "slot_ms": chain.slot_ms,
        "local": True,
    }
    sys.stdout.write(msgspec.json.encode(ready).decode() + "\n")
    sys.stdout.flush()
    if talk:
        sys.stderr.write(f"minisol: a LOCAL Solana chain on {ready['rpc']}\n")


def _end_on_signals(ending: asyncio.Event) -> None:
    for name in (signal.SIGTERM, signal.SIGINT):
        # Windows' loops have no signal handlers; Ctrl-C ends the process there, which is safe.
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(name, ending.set)


class _Ending(asyncio.Protocol):
    """Reads nothing; knows when there is nothing more to read."""

    def __init__(self, ending: asyncio.Event) -> None:
        self._ending = ending

    def connection_lost(self, exc: Exception | None) -> None:
        """The parent is gone, or closed the pipe to say so."""
        self._ending.set()


async def _end_with_stdin(ending: asyncio.Event) -> asyncio.BaseTransport:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: _Ending(ending), sys.stdin)
    return transport


if __name__ == "__main__":
    raise SystemExit(main())
