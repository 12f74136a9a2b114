"""`parhelion join`: serve models to a coordinator as one of its nodes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from parhelion.cli import say
from parhelion.cli.options import COMMON, Common
from parhelion.cli.serving import attend, for_person, ready_line
from parhelion.cli.up import Models

if TYPE_CHECKING:
    from parhelion.bootstrap import Ready


def join(
    *,
    address: Annotated[
        str,
        Parameter(
            name=["--scheduler", "-s"],
            help="The coordinator: HOST:PORT, a multiaddr, or a URL; #INVITE where one is asked.",
        ),
    ],
    model: Models = (),
    name: Annotated[str | None, Parameter(help="Name shown for this node.")] = None,
    common: Common = COMMON,
) -> int:
    """Serve models to the coordinator at ADDRESS until Ctrl-C, which drains."""
    from parhelion.bootstrap import run_node

    config = for_person(common.settings(), terminal=sys.stderr.isatty())

    def on_ready(ready: Ready) -> None:
        say.data(ready_line(ready) if common.json else joined(ready))

    def served(*, on_ready: Callable[[Ready], None], stop: asyncio.Event) -> Awaitable[None]:
        return run_node(config, address, model, name=name, on_ready=on_ready, stop=stop)

    if not common.json:
        say.talk("loading the model and joining")
    return attend(config, served, on_ready)


def joined(ready: Ready) -> str:
    """What a person reads when the node has joined."""
    return f"Joined {ready.coordinator}\n  Node   {ready.node}\nCtrl-C drains and leaves."
