"""What `up`, `run`, `join` and `serve` share: signals, and what they print when ready."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from parhelion.cli import say
from parhelion.config import Config, LogConfig

if TYPE_CHECKING:
    from parhelion.bootstrap import Ready

EXIT_FORCED = 130
"""What a shell reports for a process ended by Ctrl-C."""

PROMPT = "Why is the sky blue?"
"""One that the packaged model answers sensibly; many others it does not."""


class Served(Protocol):
    """A part of bootstrap that serves until `stop` is set."""

    def __call__(
        self, *, on_ready: Callable[[Ready], None], stop: asyncio.Event
    ) -> Awaitable[None]: ...


def attend(config: Config, served: Served, on_ready: Callable[[Ready], None]) -> int:
    """Serve until Ctrl-C or SIGTERM, which drain; a second one ends at once. The exit code."""
    from parhelion import logs

    logs.set_up(config.log)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_until_stopped(served, on_ready))
    return 0


def for_person(config: Config, *, terminal: bool) -> Config:
    """Short lines of what matters in a terminal where no logging was configured; else as it is.

    It must be settled before the local node is started, which gets its settings from here.
    """
    if terminal and config.log == LogConfig():
        log = LogConfig(level="warning", format="text")
        return msgspec.structs.replace(config, log=log)
    return config


def ready_line(ready: Ready) -> str:
    """The one line of JSON that `--json` prints when ready."""
    fields: dict[str, object] = {
        "api": ready.api,
        "web": ready.web,
        "key": ready.key,
        "node": ready.node,
        "coordinator": ready.coordinator,
    }
    if ready.models or ready.refused:
        fields |= {"models": ready.models, "refused": ready.refused}
    if ready.memory_bytes is not None:
        fields["memory_bytes"] = ready.memory_bytes
    if ready.chains:
        fields["chains"] = ready.chains
    return msgspec.json.encode(fields).decode()


def welcome(ready: Ready, *, free: bool = False, chat: str = "parhelion chat") -> str:
    """Addresses, the key and a first request; who may use it where others can reach it."""
    lines: list[str] = []
    if ready.model:
        lines.append(f"  Model  {ready.model}{_demonstration(ready.model)}")
    lines += [f"  API    {ready.api}", f"  Web    {ready.web}"]
    if ready.lan_api:
        lines.append(f"  LAN    {ready.lan_api} (the API for other machines)")
    if ready.key:
        lines.append(f"  Key    {ready.key}{_grant(ready)}")
    if ready.chains:
        lines.append(f"  Pay    {paid_in(ready)}")
    if ready.lan_api:
        lines += ["", who_may(free)]
    lines += ["", "Ask it something:", "", curl(ready), ""]
    lines.append(f"Or talk to it: {chat}")
    return "\n".join(lines)


def paid_in(ready: Ready) -> str:
    """What payments come in and from where, and how to make one."""
    if any(chain.local for chain in ready.chains):
        where = "two chains" if len(ready.chains) == 2 else "a chain"
        return (
            f"USDC.local on {where} of this machine (LOCAL play money): "
            "parhelion wallet new, wallet fund, pay chat"
        )
    return f"USDC by x402 on {', '.join(chain.network for chain in ready.chains)}"


def who_may(free: bool) -> str:
    """Who may use an API that other machines reach, in words."""
    if free:
        return "Anyone who can reach this address may prompt, without a key and for free."
    return "Anyone who can reach this address and has a key may prompt."


def admin_words(secret: str, path: Path) -> str:
    """What is told once, beside the data: a redirected standard output must not hold it."""
    return f"Admin key {secret}\n  shown this once; kept in {path}"


def curl(ready: Ready) -> str:
    """A request that works as it stands, pasted into a shell."""
    message = f'{{"role": "user", "content": "{PROMPT}"}}'
    body = f'{{"messages": [{message}], "max_tokens": 64, "temperature": 0.2, "stream": false}}'
    key = f"  -H 'Authorization: Bearer {ready.key}' \\\n" if ready.key else ""
    return (
        f"  curl {ready.api}/v1/chat/completions \\\n{key}"
        f"  -H 'Content-Type: application/json' \\\n"
        f"  -d '{body}'"
    )


def command_line(name: str, data: Path | None) -> str:
    """How a person here calls another command of ours: as this one was called."""
    program = "parhelion"
    if shutil.which(program) is None and Path(sys.argv[0]).name == program:
        program = sys.argv[0]
    where = [] if data is None else ["--data", str(data)]
    return shlex.join([program, name, *where])


def first_admin_key(folder: Path) -> Callable[[], tuple[str, Path] | None]:
    """Called before the start: a function that gives the admin key if this start made it."""
    path = folder / "admin.key"
    existed = path.exists()

    def made() -> tuple[str, Path] | None:
        from parhelion.identity import read_secret

        return None if existed or not path.exists() else (read_secret(path), path)

    return made


def _grant(ready: Ready) -> str:
    if ready.balance_micro is None:
        return ""
    return f" (holds {say.amount(ready.balance_micro, ready.asset or '')})"


def _demonstration(model: str) -> str:
    from parhelion.models import DEFAULT_MODEL_ID

    return " (small, for demonstration)" if model == DEFAULT_MODEL_ID else ""


async def _until_stopped(served: Served, on_ready: Callable[[Ready], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked_to_stop() -> None:
        if stop.is_set():
            _told("ended without draining")
            # Children end by themselves when our side of their pipes closes.
            os._exit(EXIT_FORCED)
        stop.set()
        _told("\ndraining; once more ends at once")

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, asked_to_stop)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(asked_to_stop))
    await served(on_ready=on_ready, stop=stop)


def _told(text: str) -> None:
    """Say it to whoever may be there: a terminal that was closed must not keep us from ending."""
    with contextlib.suppress(OSError):
        say.talk(text)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop
