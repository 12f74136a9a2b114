"""`parhelion up`: coordinator, node and engine on this machine, in one command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from parhelion import __version__, setup
from parhelion.cli import say
from parhelion.cli.options import OPTIONS, Options
from parhelion.cli.serving import (
    admin_words,
    attend,
    command_line,
    first_admin_key,
    for_person,
    ready_line,
    welcome,
)
from parhelion.config import memory_bytes

if TYPE_CHECKING:
    from parhelion.bootstrap import Pool, Ready
    from parhelion.config import Config


def _memory(_: Any, value: str | None) -> None:
    if value is not None:
        memory_bytes(value)


Models = Annotated[
    tuple[str, ...],
    Parameter(
        name=["--model", "-m"],
        negative="",
        show_default=False,
        help="Model id or GGUF file; may be given several times. Default: the packaged one.",
    ),
]
Memory = Annotated[
    str | None,
    Parameter(
        name="--memory-limit",
        validator=_memory,
        help="What models may take of this machine's memory: 500MB, 2GiB; default: what is free.",
    ),
]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Serving:
    """What `up`, `run` and `serve` are told of the pool that they start."""

    model: Models = ()
    host: Annotated[
        str | None, Parameter(help="Address to bind; 0.0.0.0 lets other machines join.")
    ] = None
    open_: Annotated[
        bool, Parameter(name="--open", negative="", help="Let nodes join without an invite.")
    ] = False
    play_money_on_lan: Annotated[
        bool,
        Parameter(
            name="--play-money-on-lan",
            negative="",
            help="Take LOCAL play money although other machines reach this pool.",
        ),
    ] = False
    memory_limit: Memory = None
    tls_cert: Annotated[
        Path | None, Parameter(help="Certificate chain (PEM): serve by https; needs --tls-key.")
    ] = None
    tls_key: Annotated[Path | None, Parameter(help="The certificate's private key (PEM).")] = None

    def settings(self, options: Options, **api: int) -> Config:
        """The settings with what the command line says of binding and joining."""
        files = {"tls_cert": self.tls_cert, "tls_key": self.tls_key}
        named = {name: str(path.absolute()) for name, path in files.items() if path is not None}
        return options.settings(
            api={"host": self.host, **named, **api},
            web={"host": self.host},
            nodes={"admit": "open" if self.open_ else None},
            node={"memory_limit": self.memory_limit},
            x402={"play_money_on_lan": True if self.play_money_on_lan else None},
        )


SERVING = Serving()


def up(*, serving: Serving = SERVING, options: Options = OPTIONS) -> int:
    """Start a coordinator, a node and an engine on this machine; Ctrl-C drains and ends."""
    config = serving.settings(options)
    return start(options, config, serving.model, need=1, free=False, local_node=True)


def start(
    options: Options,
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
    # For the words below; `run_coordinator` looks for itself what it goes by.
    chosen = setup.settled(setup.told_of(config, models, need, free), setup.read(options.folder()))
    admin = first_admin_key(options.folder())
    chat = command_line("chat", options.data)

    def on_ready(ready: Ready) -> None:
        if options.json:
            say.data(ready_line(ready))
            return
        opening = ready_words() if local_node else waiting(ready, chosen.nodes, models)
        say.data(f"{opening}\n\n{welcome(ready, free=chosen.private, chat=chat)}")
        if local_node and ready.join:
            how = setup.join_command(ready.join, models)
            say.data(f"Add a node: {how}{needs_file(models)}{who_may_join(ready)}")
        if (made := admin()) is not None:
            say.talk(admin_words(*made))

    served = partial(
        run_coordinator,
        config,
        need=need,
        free=free,
        local_node=local_node,
        models=models,
        on_pool=None if options.json else tell_pool(local_node),
    )
    if not options.json:
        say.talk("starting (a few seconds; a model's first use may take longer)")
    return attend(config, served, on_ready)


def ready_words() -> str:
    """The first line when prompts are served from now on."""
    return f"Parhelion {__version__} is ready."


def waiting(ready: Ready, need: int, models: tuple[str, ...]) -> str:
    """What a private pool says until its nodes have joined."""
    nodes = "1 node" if need == 1 else f"{need} nodes"
    where = "On each machine" if ready.lan_api else "In another terminal of this machine"
    if not ready.lan_api and need > 1:
        where = "In other terminals of this machine, each with a --data DIR of its own"
    together = (
        "\nA model that is too large for each of them: join with --pipeline instead of -m, and "
        "each fetches just its layers."
    )
    return (
        f"Parhelion {__version__} is waiting for {nodes}. {where}:\n\n"
        f"  {setup.join_command(ready.join or '', models)}\n\n"
        "It serves as soon as they have joined."
        f"{needs_file(models)}{together if need > 1 else ''}{who_may_join(ready)}"
    )


def needs_file(models: tuple[str, ...]) -> str:
    """What the join command cannot say: a model file must be on each machine."""
    files = [Path(name).name for name in models if setup.is_file(name)]
    if not files:
        return ""
    return f"\nEach machine needs {', '.join(files)} itself: say after -m where it is there."


def who_may_join(ready: Ready) -> str:
    """What the join command's address hides: on loopback no other machine reaches it."""
    if ready.lan_api:
        return ""
    return (
        "\nOnly this machine reaches that address; start with --host 0.0.0.0 to let others join: "
        "the command then has their address and an invite."
    )


def tell_pool(has_own: bool) -> Callable[[Pool], None]:
    """Tell on standard error who joins and leaves; `has_own` leaves out this machine's node."""
    before: Pool | None = None

    def tell(now: Pool) -> None:
        nonlocal before
        if before is not None or not has_own:
            say.talk(news(before, now))
        before = now

    return tell


def news(before: Pool | None, now: Pool) -> str:
    """What changed among the nodes, in a line; a second one when it starts or stops to serve."""
    then = before.ready if before is not None else ()
    known, here = frozenset(then), frozenset(now.ready)
    # As sets: of thousands of nodes hundreds come at once.
    came = [name for name in now.ready if name not in known]
    left = [name for name in then if name not in here]
    count = f"{len(now.ready)} of {now.need}" if len(now.ready) <= now.need else f"{len(now.ready)}"
    lines = []
    if came:
        lines.append(f"{count} joined: {', '.join(came)}")
    if left:
        lines.append(f"{', '.join(left)} left; {count} here")
    was_complete = before is not None and before.complete
    if now.complete != was_complete:
        lines.append("ready" if now.complete else "waiting: no prompt can be served now")
    elif came and not now.complete and len(now.ready) >= now.need:
        lines.append(
            "waiting until layers are dealt and loaded; `parhelion plan` shows them, or what is "
            "missing"
            if now.has_members
            else "waiting: none of them serves this pool's model; join as the command says"
        )
    return "\n".join(lines)
