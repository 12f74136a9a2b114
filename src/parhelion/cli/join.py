"""`parhelion join`: serve models to a coordinator as one of its nodes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from parhelion.cli import say
from parhelion.cli.options import ALONE, Alone
from parhelion.cli.serving import attend, for_person, ready_line
from parhelion.cli.up import Memory, Models
from parhelion.words import Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.bootstrap import Ready
    from parhelion.config import Config
    from parhelion.link import Address, LanPool
    from parhelion.node import AgentState


@dataclass(frozen=True, slots=True)
class Joining:
    """One join as it was asked for."""

    config: Config
    address: Address
    models: tuple[str, ...]
    name: str | None
    was_found: bool = False
    """Found by asking the network: it is found again that way when its address changes."""


def join(
    *,
    address: Annotated[
        str | None,
        Parameter(
            name=["--scheduler", "-s"],
            help="The coordinator: HOST:PORT, a multiaddr, a URL, or a peer id of this network; "
            "#INVITE where one is asked. Without it this network is searched.",
        ),
    ] = None,
    model: Models = (),
    name: Annotated[str | None, Parameter(help="Name shown for this node.")] = None,
    memory_limit: Memory = None,
    pipeline: Annotated[
        bool,
        Parameter(
            negative="",
            help="Serve only layers, in pipelines, as the pool asks; -m names files to cut from.",
        ),
    ] = False,
    service: Annotated[
        bool,
        Parameter(negative="", help="Join once, then keep joining as a service of this user."),
    ] = False,
    options: Alone = ALONE,
) -> int:
    """Serve models, or parts of them, to a coordinator until Ctrl-C, which drains."""
    said = {"memory_limit": memory_limit, "pipeline": True if pipeline else None}
    config = for_person(options.settings(node=said), terminal=sys.stderr.isatty())
    talk = quiet if options.json else say.talk
    where, was_found = found(config, address, talk)
    joining = Joining(config, where, model, name, was_found)
    if service:
        from parhelion.cli.node import install

        return install(joining, address, options, talk)

    def on_ready(ready: Ready) -> None:
        say.data(ready_line(ready) if options.json else joined(ready))

    return attend(config, partial(serve, joining, talk), on_ready)


def found(config: Config, said: str | None, talk: Callable[[str], None]) -> tuple[Address, bool]:
    """The address that was said, or the one on this network that a person or a peer id means.

    And whether it is the latter.
    """
    from parhelion.link import Address, parse_target

    target = parse_target(said)
    if isinstance(target, Address):
        return target, False
    from parhelion.bootstrap import lan

    if target.peer is not None:
        talk("looking for it on this network")
        return asyncio.run(lan.find(config, target)), True
    talk("looking for a pool on this network")
    pool = one_of(asyncio.run(lan.look(config)), ask=asks() if talk is say.talk else None)
    talk(f"found {shown(pool)}")
    return asyncio.run(lan.reach(config, pool)), True


def one_of(pools: Sequence[LanPool], ask: Callable[[str], str] | None) -> LanPool:
    """The only pool there is, or the one that a person chooses; Problem where none can be asked."""
    if len(pools) == 1:
        return pools[0]
    listed = "\n".join(f"  {number}  {shown(pool)}" for number, pool in enumerate(pools, 1))
    if ask is None:
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            f"several pools answer on this network:\n{listed}",
            hint=f"say which by its peer id: join -s {pools[0].peer}",
        )
    answer = ask(
        f"Several pools answer on this network:\n{listed}\nWhich one (1 to {len(pools)})? "
    )
    if not answer.strip().isdecimal() or not 1 <= int(answer) <= len(pools):
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            f"{answer.strip()!r} is none of them",
            hint=f"a number from 1 to {len(pools)}, or join -s PEER",
        )
    return pools[int(answer) - 1]


def asks() -> Callable[[str], str] | None:
    """How a person is asked; None where there is nobody to ask."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None

    def ask(question: str) -> str:
        sys.stderr.write(question)
        sys.stderr.flush()
        return sys.stdin.readline()

    return ask


def shown(pool: LanPool) -> str:
    """A pool as a person tells it from others."""
    host = pool.host or pool.hosts[0]
    return f"{pool.name} at {host}:{pool.port}, {pool.peer}"


async def serve(
    joining: Joining,
    talk: Callable[[str], None],
    *,
    on_ready: Callable[[Ready], None],
    stop: asyncio.Event,
) -> None:
    """Knock, load, join, and serve until `stop` is set."""
    from parhelion.bootstrap import SystemClock, knock, run_node

    dial = None
    if joining.was_found:
        from parhelion.bootstrap.lan import Follower

        dial = Follower(joining.config.lan.interfaces, SystemClock()).dial
    nobody = await knock(joining.config, joining.address)
    if nobody is not None:
        talk(f"{nobody.message}: it is waited for\n\nhint: {nobody.hint}\n")
    is_member = joining.config.node.pipeline
    talk("joining" if is_member else "loading the model and joining")
    await run_node(
        joining.config,
        joining.address,
        joining.models,
        name=joining.name,
        on_ready=on_ready,
        stop=stop,
        # Who stopped it was told so, and needs no further word on what follows from that.
        on_state=lambda state: None if stop.is_set() else talk_of(state, talk),
        dial=dial,
        may_be_member=True,
    )


def talk_of(state: AgentState, talk: Callable[[str], None]) -> None:
    """One line at each change of where the node stands; what is a fault was logged as one."""
    if not state.fault and (line := standing_line(state)) is not None:
        talk(line)


def standing_line(state: AgentState) -> str | None:
    """Where the node stands now, for a person; None for what is told elsewhere."""
    from parhelion.node import refused_hint

    why = f": {state.reason}" if state.reason else ""
    match state.shown:
        case "joining":
            return f"joining: waiting for the coordinator{why}" if why else None
        case "kept out":
            return f"kept out, and asks again every few seconds{why}"
        case "measuring":
            return f"measuring: no paid work yet{why}"
        case "ready":
            return f"ready: it gets paid work{why}" if state.standing else "joined again"
        case "refused":
            return f"refused: no paid work{why}\n\nhint: {refused_hint(state.accepted)}\n"
        case "draining":
            return f"draining: nothing new{why}"
        case _:
            return None


def quiet(text: str) -> None:
    """Who asked for JSON reads no talk."""


def joined(ready: Ready) -> str:
    """What a person reads when the node has joined."""
    lines = [f"Joined {ready.coordinator}", f"  Node   {ready.node}"]
    lines += [f"  Model  {model}" for model in ready.models]
    if ready.memory_bytes is not None:
        given = say.memory(ready.memory_bytes)
        lines.append(f"  Gives  {given} to pipelines; what it holds: parhelion node status")
    lines += [f"  Not taken: {model}" for model in ready.refused]
    if ready.refused:
        lines.append("  Its owner adds a model with: parhelion models add ID --gguf FILE")
    return "\n".join([*lines, "Ctrl-C drains and leaves."])
