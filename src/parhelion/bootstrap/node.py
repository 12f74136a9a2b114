"""A node: its key, its engines, its agent."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from parhelion import __version__, identity
from parhelion.bootstrap.node_engines import start_engines
from parhelion.bootstrap.ready import DRAIN_DEADLINE_S, Ready, SystemClock, folder
from parhelion.config import Config
from parhelion.words import Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.engines import Engine, EngineEvent
    from parhelion.link import Address, Carrier, FromCoordinator
    from parhelion.node import Agent, AgentState, Dial

T = TypeVar("T")

log = logging.getLogger("parhelion.bootstrap")


async def run_node(
    config: Config,
    address: str | Address | asyncio.Future[Address],
    models: Sequence[str],
    *,
    name: str | None,
    on_ready: Callable[[Ready], None],
    stop: asyncio.Event,
    on_state: Callable[[AgentState], None] | None = None,
    dial: Dial | None = None,
) -> None:
    """Serve models to the coordinator at `address` until `stop` is set, then drain.

    A future address may come while the engines start. `on_ready` is called at the first
    registration, `on_state` at every change; `dial` is how the coordinator is reached. Problem
    when it refuses for good, a model's engine cannot start, or the folder is another node's.
    """
    where = _parsed(address) if isinstance(address, str) else address
    data = folder(config)
    listeners: list[Agent] = []
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(identity.lock_node(data).release)
        key = identity.NodeKey.load_or_create(data / "node.key")
        note = _Note(data, key.peer, name or identity.node_name(key.peer))
        begun = await _unless(stop, _begin(stack, config, models, listeners, note))
        told = await _unless(stop, where) if isinstance(where, asyncio.Future) else where
        if begun is None or told is None:
            return
        from parhelion.link import connect
        from parhelion.node import Agent

        engines, names = begun
        note.address, note.names = told.url, names
        agent = Agent(
            key=key,
            address=told,
            engines=engines,
            name=note.name,
            clock=SystemClock(),
            on_state=_announce(note, on_ready, on_state),
            slots=config.engine.slots,
            dial=dial or connect,
        )
        listeners.append(agent)
        await _run_until(agent, stop)


async def _begin(
    stack: contextlib.AsyncExitStack,
    config: Config,
    models: Sequence[str],
    listeners: list[Agent],
    note: _Note,
) -> tuple[dict[str, Engine], dict[str, str]]:
    """The engines and their names; the agent's room is imported while they load."""

    def report(digest: str, event: EngineEvent) -> None:
        level = logging.INFO if event.kind == "ready" else logging.WARNING
        log.log(level, "engine is %s", event.kind, extra={"digest": digest, "reason": event.reason})
        for agent in listeners:
            agent.on_engine(event, digest)

    async def open_room() -> None:
        await asyncio.to_thread(importlib.import_module, "parhelion.node")
        note.write("loading")

    try:
        begun, _ = await asyncio.gather(start_engines(stack, config, models, report), open_room())
    except Problem as problem:
        note.write("gone", problem.message)
        raise
    return begun


class _Note:
    """Keeps DATA/node.state.json, from which `parhelion node status` reads."""

    def __init__(self, data: Path, peer: str, name: str) -> None:
        self.peer = peer
        self.name = name
        self.address: str | None = None
        self.names: Mapping[str, str] = {}
        """What each digest is called."""
        self._data = data
        self._started_at_ms = SystemClock().now_ms()

    def write(
        self,
        state: str,
        reason: str | None = None,
        coordinator: str | None = None,
        models: tuple[str, ...] = (),
    ) -> None:
        """Say where the node stands from now on."""
        from parhelion.node import NodeState, write_state

        now = NodeState(
            pid=os.getpid(),
            peer=self.peer,
            name=self.name,
            state=state,
            reason=reason,
            since_ms=SystemClock().now_ms(),
            started_at_ms=self._started_at_ms,
            address=self.address,
            coordinator=coordinator,
            models=models,
            names={digest: self.names[digest] for digest in models if digest in self.names},
            version=__version__,
        )
        try:
            write_state(self._data, now)
        except OSError as error:
            # A full disk must not end a node that serves.
            log.warning("the node's state cannot be written", extra={"cause": str(error)})


def _parsed(address: str) -> Address:
    from parhelion.link import parse_address

    return parse_address(address)


async def _unless(stop: asyncio.Event, work: Awaitable[T]) -> T | None:
    """What `work` gives; None, and it is cancelled, when `stop` is set first."""
    working = asyncio.ensure_future(work)
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        stopped.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait([working])


async def prove(config: Config, address: Address) -> Problem | None:
    """See that a coordinator answers at `address` and proves its key; why not, where it may pass.

    Nothing is asked and no invite is sent: whether it lets this node in is another question.
    Problem as `knock` raises it.
    """
    met = await _meet(config, address)
    if isinstance(met, Problem):
        return met
    await met.abort()
    return None


async def knock(config: Config, address: str | Address) -> Problem | None:
    """Ask at `address` to be let in, before a model is loaded for it; why nobody answers, if so.

    What may pass is returned, because a node waits for its coordinator; Problem for what does not:
    another program, another key, a pool that will not have this node, or a folder that another
    node runs from. No invite is spent: that is for the registration.
    """
    from parhelion.link import Bye, LinkBroken
    from parhelion.node import FOR_GOOD
    from parhelion.node import knock as ask

    where = _parsed(address) if isinstance(address, str) else address
    carrier = await _meet(config, where)
    if isinstance(carrier, Problem):
        return carrier
    try:
        answer = await ask(carrier, where.invite)
    except LinkBroken as cause:
        return cause.problem()
    finally:
        await carrier.abort()
    if not isinstance(answer, Bye):
        return None
    if answer.code in FOR_GOOD:
        raise Problem(ProblemCode.LINK_REFUSED, answer.message, hint=answer.hint)
    return Problem(ProblemCode.LINK_BROKEN, answer.message, hint=answer.hint)


async def _meet(config: Config, address: Address) -> Carrier[FromCoordinator] | Problem:
    """A carrier to the coordinator at `address`, its key proven; or what may pass."""
    from parhelion.link import connect

    data = folder(config)
    lock = identity.lock_node(data)
    try:
        return await connect(address, identity.NodeKey.load_or_create(data / "node.key"))
    except Problem as problem:
        if problem.code is ProblemCode.LINK_BROKEN:
            return problem
        raise
    finally:
        lock.release()


def _announce(
    note: _Note,
    on_ready: Callable[[Ready], None],
    on_state: Callable[[AgentState], None] | None,
) -> Callable[[AgentState], None]:
    told = False
    names = note.names

    def announce(state: AgentState) -> None:
        nonlocal told
        log.info("node is %s", state.shown, extra={"node": note.peer, "reason": state.reason})
        note.write(state.shown, state.reason, state.coordinator, state.accepted)
        if state.state == "ready" and not told:
            told = True
            on_ready(
                Ready(
                    node=note.peer,
                    coordinator=state.coordinator or "",
                    models=tuple(names.get(digest, digest) for digest in state.accepted),
                    refused=tuple(
                        f"{names.get(one.digest, one.digest)}: {one.reason}"
                        for one in state.refused
                    ),
                )
            )
        elif on_state is not None:
            on_state(state)

    return announce


async def _run_until(agent: Agent, stop: asyncio.Event) -> None:
    running = asyncio.create_task(agent.run(), name="agent")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait([running, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not running.done():
        await agent.drain("its operator stopped it", DRAIN_DEADLINE_S)
        running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
