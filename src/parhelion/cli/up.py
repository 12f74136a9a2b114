"""`parhelion up`: coordinator, node and engine on this machine, in one command."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from parhelion import __version__
from parhelion.cli import say
from parhelion.cli.options import COMMON, Common
from parhelion.cli.serving import (
    attend,
    command_line,
    first_admin_key,
    for_person,
    ready_line,
    welcome,
)

if TYPE_CHECKING:
    from parhelion.bootstrap import Ready
    from parhelion.config import Config

Models = Annotated[
    tuple[str, ...],
    Parameter(name=["--model", "-m"], help="Model id or GGUF file; may be given several times."),
]
Host = Annotated[str | None, Parameter(help="Address to bind; 0.0.0.0 lets other machines join.")]
Open = Annotated[
    bool, Parameter(name="--open", negative="", help="Let nodes join without an invite.")
]


def up(
    *, model: Models = (), host: Host = None, open_: Open = False, common: Common = COMMON
) -> int:
    """Start a coordinator, a node and an engine on this machine; Ctrl-C drains and ends."""
    return start(common, bind(common, host, open_), model, need=1, free=False, local_node=True)


def bind(common: Common, host: str | None, open_: bool, **api: int) -> Config:
    """The settings with what the command line says of binding and joining."""
    return common.settings(
        api={"host": host, **api},
        web={"host": host},
        nodes={"admit": "open" if open_ else None},
    )


def start(
    common: Common,
    config: Config,
    models: tuple[str, ...],
    *,
    need: int,
    free: bool,
    local_node: bool,
) -> int:
    """Run a coordinator as `up`, `run` and `serve` want it; the exit code."""
    from parhelion.bootstrap import run_coordinator

    config = for_person(config, terminal=sys.stderr.isatty())
    admin = first_admin_key(common.folder())
    chat = command_line("chat", common.data)

    def on_ready(ready: Ready) -> None:
        if common.json:
            say.data(ready_line(ready))
            return
        opening = ready_words() if local_node else waiting(ready, need, models)
        say.data(f"{opening}\n\n{welcome(ready, admin=admin(), chat=chat)}")
        if local_node and ready.join:
            say.data(f"Add a machine: {join_command(ready, models)}")

    served = partial(
        run_coordinator, config, need=need, free=free, local_node=local_node, models=models
    )
    if not common.json:
        say.talk("starting (a few seconds; a model's first use may take longer)")
    return attend(config, served, on_ready)


def ready_words() -> str:
    """The first line when prompts are served from now on."""
    return f"Parhelion {__version__} is ready."


def waiting(ready: Ready, need: int, models: tuple[str, ...]) -> str:
    """What a private pool says until its nodes have joined."""
    nodes = "1 node" if need == 1 else f"{need} nodes"
    return (
        f"Parhelion {__version__} is waiting for {nodes}. On each machine:\n\n"
        f"  {join_command(ready, models)}\n\n"
        f"It serves as soon as they have joined."
    )


def join_command(ready: Ready, models: tuple[str, ...]) -> str:
    """What another machine is told; a node needs the pool's models as files of its own."""
    files = "".join(f" -m {shlex.quote(name)}" for name in models)
    return f"parhelion join -s '{ready.join}'{files}"
