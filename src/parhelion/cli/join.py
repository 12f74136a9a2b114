"""`parhelion join`: serve models to a coordinator as one of its nodes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from parhelion.cli import say
from parhelion.cli.options import ALONE, Alone
from parhelion.cli.serving import attend, for_person, ready_line
from parhelion.cli.up import Models

if TYPE_CHECKING:
    from parhelion.bootstrap import Ready
    from parhelion.node import AgentState


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
    options: Alone = ALONE,
) -> int:
    """Serve models to the coordinator at ADDRESS until Ctrl-C, which drains."""
    from parhelion.bootstrap import knock, run_node

    config = for_person(options.settings(), terminal=sys.stderr.isatty())

    def on_ready(ready: Ready) -> None:
        say.data(ready_line(ready) if options.json else joined(ready))

    talk = quiet if options.json else say.talk

    async def served(*, on_ready: Callable[[Ready], None], stop: asyncio.Event) -> None:
        nobody = await knock(config, address)
        if nobody is not None:
            talk(f"{nobody.message}: it is waited for\n\nhint: {nobody.hint}\n")
        talk("loading the model and joining")
        await run_node(
            config,
            address,
            model,
            name=name,
            on_ready=on_ready,
            stop=stop,
            on_state=lambda state: talk_of(state, talk),
        )

    return attend(config, served, on_ready)


def talk_of(state: AgentState, talk: Callable[[str], None]) -> None:
    """Tell what a person can do nothing about, but may wonder at; faults are logged."""
    if state.state == "joining" and state.reason and not state.fault:
        talk(f"waiting for the coordinator: {state.reason}")
    elif state.state == "ready":
        talk("joined again")


def quiet(text: str) -> None:
    """Who asked for JSON reads no talk."""


def joined(ready: Ready) -> str:
    """What a person reads when the node has joined."""
    return f"Joined {ready.coordinator}\n  Node   {ready.node}\nCtrl-C drains and leaves."
