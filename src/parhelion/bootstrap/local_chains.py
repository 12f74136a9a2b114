"""The chains of this machine beside their coordinator: two processes, kept running, ended with it.

Each keeps its port for as long as its folder lives, so that whoever has its address (a client, a
wallet, the coordinator itself) finds it again after it died. A coordinator that is killed takes
them along: their standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from parhelion.bootstrap.ports import bind
from parhelion.config import LOOPBACK, Config
from parhelion.hosts import backoff_s
from parhelion.words import AssetClass, Problem, ProblemCode, Record

log = logging.getLogger("parhelion.bootstrap")

NAMES = ("minisol", "minievm")
FOLDER = "chains"
HOST = "127.0.0.1"

START_WAIT_S = 40.0
"""A chain answers after one second on an idle machine; a factor for slow and busy ones."""

AGAIN_S = 8.0
"""A chain that ends at its first start is tried again for so long: that of a coordinator which was
killed a moment ago holds folder and port until it has seen the end of its input."""

FIRST_AGAIN_S = 0.3

PORT_WAIT_S = 2.0
PORT_LOOK_S = 0.05
"""How long the port of the last start is waited for, for the same reason."""

STEADY_S = 60.0
"""A chain that lived so long was not failing at its start: the waits begin anew."""

END_GRACE_S = 5.0
"""What a chain gets to finish what it answers; all that it answered is on the disk."""

LINE_LIMIT_BYTES = 64 * 1024
KEPT_LINES = 20

OFF = 'or take no payments in play money: x402.local_chains = "never"'


class ChainCard(Record, frozen=True, kw_only=True):
    """What a chain's process says of itself when it answers."""

    rpc: str
    caip2: str


def takes_play_money(config: Config, *, free: bool) -> bool:
    """Whether this start begins the two local chains; Problem where it must not, and was told to.

    A free pool has nothing to sell. One that is bound to more than loopback begins none unless it
    was told to in so many words: whoever reaches it would be asked for money that only this machine
    can have.
    """
    terms, is_local = config.x402, config.money.asset_class is AssetClass.LOCAL
    is_near = config.api.host in LOOPBACK and config.web.host in LOOPBACK
    is_asked = terms.local_chains == "always"
    if is_asked and not is_local:
        raise _invalid(
            f"local chains have play money, and this folder holds {config.money.asset_class} money",
            'leave x402.local_chains at "auto", and name [[x402.networks]]',
        )
    if is_asked and terms.networks:
        raise _invalid(
            'x402.local_chains = "always" and [[x402.networks]] were both asked for',
            "leave one of them out: a pool has one set of networks",
        )
    if is_local and (is_asked or terms.networks) and not (is_near or terms.play_money_on_lan):
        raise _invalid(
            f"this pool takes LOCAL play money, and is to be bound to {config.api.host}: "
            "others would be asked for money that only this machine can make",
            f"say so if it is meant: --play-money-on-lan (x402.play_money_on_lan = true); {OFF}",
        )
    if is_asked:
        return True
    if terms.local_chains == "never" or terms.networks or free or not is_local:
        return False
    if not (is_near or terms.play_money_on_lan):
        log.warning(
            "no payments by x402: a pool that others reach takes no play money unless told to",
            extra={"hint": "--play-money-on-lan starts the two LOCAL chains all the same"},
        )
        return False
    return True


class LocalChain:
    """One chain's process as its parent sees it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.pid: int | None = None
        self._folder = folder / name
        self._port_file = folder / f"{name}.port"
        self._card: asyncio.Future[ChainCard] = asyncio.get_running_loop().create_future()
        self._words: deque[str] = deque(maxlen=KEPT_LINES)
        self._keeping: asyncio.Task[None] | None = None
        self._stopping = False

    def start(self) -> None:
        """Begin, and go on until `stop`; `card` says when it answers."""
        self._keeping = asyncio.create_task(self._keep(), name=f"chain-{self.name}")

    async def card(self) -> ChainCard:
        """What it says of itself, once it answers; Problem where it cannot be started."""
        try:
            async with asyncio.timeout(START_WAIT_S):
                return await asyncio.shield(self._card)
        except TimeoutError as error:
            raise self._failed(f"it did not answer within {START_WAIT_S:.0f} s") from error

    async def stop(self) -> None:
        """Let it end; idempotent."""
        self._stopping = True
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        if self._card.done() and not self._card.cancelled():
            self._card.exception()  # Seen: nobody need have waited for it.

    async def _keep(self) -> None:
        """Start the process again whenever it ends, with growing waits, until cancelled."""
        began_s = time.monotonic()
        failures = 0
        while True:
            started_s = time.monotonic()
            try:
                await self._run_once()
            except OSError as error:
                self._words.append(str(error))
            now_s = time.monotonic()
            if not self._card.done() and now_s - began_s > AGAIN_S:
                self._card.set_exception(self._failed(self._last_words()))
                return
            failures = 0 if now_s - started_s > STEADY_S else failures + 1
            level = logging.WARNING if self._card.done() else logging.INFO
            told = {"chain": self.name, "words": self._last_words()}
            log.log(level, "a local chain ended, and is started again", extra=told)
            # At a first start somebody waits, and what is in the way is gone in a moment.
            wait_s = backoff_s(failures, random.random()) if self._card.done() else FIRST_AGAIN_S
            await asyncio.sleep(wait_s)

    async def _run_once(self) -> None:
        port = await self._port()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"parhelion.chain.local.{self.name}"),
            *("--data", str(self._folder), "--port", str(port), "--json", "--end-with-stdin"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT_BYTES,
            # A Ctrl-C at the terminal is the parent's to handle: it drains, then ends us.
            start_new_session=os.name == "posix",
        )
        self.pid = process.pid
        talking = asyncio.create_task(self._hear_talk(process), name=f"chain-{self.name}-stderr")
        try:
            await self._hear_card(process)
            await process.wait()
        finally:
            await self._end(process)
            talking.cancel()
            await asyncio.wait([talking])

    async def _hear_card(self, process: asyncio.subprocess.Process) -> None:
        stdout = process.stdout
        assert stdout is not None
        line = await stdout.readline()
        if not line:
            return  # It ended: its last words say why.
        card = msgspec.json.decode(line, type=ChainCard)
        self._port_file.write_text(card.rpc.rpartition(":")[2])
        if not self._card.done():
            self._card.set_result(card)

    async def _hear_talk(self, process: asyncio.subprocess.Process) -> None:
        stderr = process.stderr
        assert stderr is not None
        while True:
            try:
                line = await stderr.readline()
            except ValueError:
                continue  # Over-long line: readline has dropped it.
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                self._words.append(text)
                log.debug("%s: %s", self.name, text)

    async def _port(self) -> int:
        """Its port of the last time; 0 (any free one) where it had none, or another has it now.

        Once clients know the address it must not change any more: then the port is waited for.
        """
        try:
            port = int(self._port_file.read_text("ascii"))
        except (OSError, ValueError):
            return 0
        until_s = time.monotonic() + PORT_WAIT_S
        while not _is_free(port):
            if time.monotonic() > until_s:
                if self._card.done():
                    raise OSError(f"port {port}, which its clients know, is another's now")
                return 0
            await asyncio.sleep(PORT_LOOK_S)
        return port

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Close its input, on which it ends by itself, and kill it where it does not."""
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_GRACE_S):
                await process.wait()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        self.pid = None

    def _last_words(self) -> str:
        return " ".join(self._words)[-1000:]

    def _failed(self, why: str) -> Problem:
        hint = f"look at {self._folder}, or remove that folder to begin another chain; {OFF}"
        return _invalid(f"the LOCAL chain {self.name} cannot be started: {why}", hint)


@contextlib.asynccontextmanager
async def local_chains(data: Path) -> AsyncIterator[tuple[LocalChain, ...]]:
    """Both chains of a data folder, for as long as the context lasts; they begin at once."""
    folder = data / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    chains = tuple(LocalChain(name, folder) for name in NAMES)
    for chain in chains:
        chain.start()
    try:
        yield chains
    finally:
        await asyncio.gather(*(chain.stop() for chain in chains))


def _is_free(port: int) -> bool:
    try:
        bind(HOST, port, "--port").close()
    except Problem:
        return False
    return True


def _invalid(message: str, hint: str) -> Problem:
    return Problem(ProblemCode.CONFIG_INVALID, message, hint=hint)
