"""`parhelion node`: the node of this data folder: its state, its log, its end; and its service."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from parhelion.cli import say
from parhelion.cli.options import ALONE, Alone
from parhelion.cli.serving import attend
from parhelion.config import at_home, default_data
from parhelion.words import Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.bootstrap import Ready
    from parhelion.cli.join import Joining
    from parhelion.node import HeldStage, NodeState

app = App(name="node", help="Look at the node of this data folder, drain it, or read its log.")

DRAIN_DEADLINE_S = 45.0
"""The 30 s that a drain gives running answers, its goodbyes, and some."""

DRAIN_POLL_S = 0.1
"""How often its lock is looked at: the system tells nobody when another process lets go of one."""

EXIT_INTERRUPTED = 130


@app.command
def status(*, options: Alone = ALONE) -> int:
    """Show where this folder's node stands; 0 when it runs, 1 when it does not."""
    folder, state, running = _state(options)
    if options.json:
        import msgspec

        say.data_json({"running": running, "folder": str(folder), **msgspec.to_builtins(state)})
    else:
        say.data(described(state, running=running, now_ms=time.time_ns() // 1_000_000))
    return 0 if running else 1


@app.command
def drain(*, options: Alone = ALONE) -> int:
    """Let this folder's node finish what it serves and leave; returns when it has."""
    import psutil

    from parhelion.node import is_running

    folder, state, running = _state(options)
    if not running:
        raise _not_running(folder)
    if folder != options.folder():
        raise Problem(
            ProblemCode.CONFLICT,
            "this node belongs to a running `parhelion up`, which would start it again",
            hint="stop that one with Ctrl-C: it drains its node first",
        )
    try:
        # The lock says that it lives; SIGTERM is what `join` drains at.
        psutil.Process(state.pid).send_signal(signal.SIGTERM)
    except psutil.NoSuchProcess:
        pass
    except psutil.AccessDenied as error:
        raise Problem(
            ProblemCode.FORBIDDEN,
            f"the node's process {state.pid} belongs to another user",
            hint="drain it as that user",
        ) from error
    say.talk("draining")
    until_s = time.monotonic() + DRAIN_DEADLINE_S
    # The lock, not the process: a dead one whose parent sleeps still has its number.
    while is_running(folder):
        if time.monotonic() > until_s:
            raise Problem(
                ProblemCode.DEADLINE_EXCEEDED,
                f"it has not ended within {DRAIN_DEADLINE_S:g} s",
                hint=f"look at its log; at worst: kill {state.pid}",
            )
        time.sleep(DRAIN_POLL_S)
    say.data("drained")
    return 0


@app.command
def logs(
    *,
    lines: Annotated[int, Parameter(name=["--lines", "-n"], help="How many lines.")] = 50,
    follow: Annotated[
        bool, Parameter(name=["--follow", "-f"], negative="", help="Go on until Ctrl-C.")
    ] = False,
    options: Alone = ALONE,
) -> int:
    """Show the log of this folder's node, where it runs as a service."""
    from parhelion.node import service

    folder = options.folder()
    command = service.log_command(
        service.label_of(folder, _default_folder()),
        str(folder),
        _home(),
        os.environ,
        lines,
        follow,
    )
    try:
        return subprocess.run(command, check=False).returncode
    except FileNotFoundError as error:
        raise Problem(ProblemCode.NOT_FOUND, f"there is no {command[0]} on this machine") from error


def install(joining: Joining, said: str | None, options: Alone, talk: Callable[[str], None]) -> int:
    """Join once for real, then leave it to a service of this user; the exit code."""
    from parhelion.node import service

    service.check()
    if not _joins(joining, talk):
        return EXIT_INTERRUPTED
    folder = options.folder()
    wanted = service.Service(
        label=service.label_of(folder, _default_folder()),
        command=tuple(service_command(joining, said, folder, options.config)),
        environment=service.kept(os.environ),
        folder=str(folder),
    )
    done = service.install(wanted, _home(), os.environ)
    if options.json:
        say.data_json(done)
        return 0
    say.data(
        f"It joined, and does so from now on as the service {wanted.label}.\n"
        f"  File    {done.file}\n"
        f"  Look    parhelion node status; parhelion node logs; {done.look}\n"
        f"  Remove  {done.remove}"
    )
    if done.note:
        say.talk(f"It ends when you log out. To let it run on: {done.note}")
    return 0


def service_command(
    joining: Joining, said: str | None, folder: Path, config: Path | None
) -> list[str]:
    """The join command that the service runs: absolute, and without the invite."""
    # The pool has let this node in, and knows it by its key: the invite is of no more use.
    where = said.strip().partition("#")[0] if said else joining.address.peer or joining.address.url
    words = [sys.executable, "-m", "parhelion", "join", "-s", where, "--data", str(folder)]
    for model in joining.models:
        words += ["-m", str(Path(model).absolute()) if Path(model).is_file() else model]
    if joining.name is not None:
        words += ["--name", joining.name]
    if joining.config.node.pipeline:
        words.append("--pipeline")
    if limit := joining.config.node.memory_limit:
        words += ["--memory-limit", limit]
    if config is not None:
        words += ["--config", str(config.absolute())]
    return words


def described(state: NodeState, *, running: bool, now_ms: int) -> str:
    """A node's state for a person."""
    head = f"{state.state}" if running else "not running"
    reason = f" ({state.reason})" if state.reason else ""
    since_s = max(0, (now_ms - state.since_ms) // 1000)
    lines = [f"{head}{reason}, since {say.moment(state.since_ms)} ({_long(since_s)})"]
    lines += [f"  Node   {state.name}, {state.peer}", f"  Pool   {state.coordinator or '-'}"]
    if state.address:
        lines.append(f"  At     {state.address}")
    models = [state.names.get(digest, digest[:12]) for digest in state.models]
    lines.append(f"  Models {', '.join(models) or '-'}")
    if running and state.memory_bytes is not None:
        lines.append(f"  Gives  {say.memory(state.memory_bytes)} to pipelines")
    held = state.stages if running else ()
    lines += [f"  Stage  {stage_line(stage, state.names)}" for stage in held]
    if running:
        lines.append(f"  Pid    {state.pid}, up since {say.moment(state.started_at_ms)}")
    return "\n".join(lines)


def stage_line(stage: HeldStage, names: Mapping[str, str]) -> str:
    """Which layers are held of which model, and what they take."""
    model = names.get(stage.digest) or stage.model or stage.digest[:12]
    word = "" if stage.ready else ", not ready"
    layers = f"layers {stage.start} to {stage.end - 1} of {stage.layers}"
    return f"{model}, {layers}, up to {say.memory(stage.need_bytes)}{word}"


def _joins(joining: Joining, talk: Callable[[str], None]) -> bool:
    """Whether the node was let in, its model loaded; Problem with the cause when it was not."""
    from parhelion.bootstrap import knock
    from parhelion.cli.join import serve

    let_in: list[str] = []

    async def once(*, on_ready: Callable[[Ready], None], stop: asyncio.Event) -> None:
        nobody = await knock(joining.config, joining.address)
        if nobody is not None:
            raise nobody

        def ready(told: Ready) -> None:
            on_ready(told)
            stop.set()

        await serve(joining, talk, on_ready=ready, stop=stop)

    attend(joining.config, once, lambda told: let_in.append(told.coordinator))
    return bool(let_in)


def _state(options: Alone) -> tuple[Path, NodeState, bool]:
    """The node's folder and state, and whether it runs: of `join`, else of `up` on this folder."""
    from parhelion.node import is_running, read_state

    folder = options.folder()
    for place in (folder, folder / "node"):
        state = read_state(place)
        if state is not None:
            return place, state, is_running(place)
    raise _not_running(folder)


def _not_running(folder: Path) -> Problem:
    return Problem(
        ProblemCode.NOT_FOUND,
        f"no node runs from the folder {folder}",
        hint="start one with `parhelion join`, or name its folder with --data",
    )


def _default_folder() -> Path | None:
    """The folder whose service needs no suffix; None where this user has no such folder."""
    try:
        return default_data()
    except Problem:
        return None


def _home() -> Path:
    return at_home(lambda: str(Path.home()), "a user's services need one")


def _long(seconds: int) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
