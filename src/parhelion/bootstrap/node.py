"""A node: its key, its engines, its agent."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from parhelion import identity, models
from parhelion.bootstrap.ready import DRAIN_DEADLINE_S, Ready, SystemClock, folder
from parhelion.config import Config
from parhelion.words import Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.engines import Engine, EngineEvent
    from parhelion.link import Address
    from parhelion.node import Agent, AgentState

T = TypeVar("T")

log = logging.getLogger("parhelion.bootstrap")

SHORT_NAMES = frozenset({"smollm2", models.DEFAULT_MODEL_ID.rpartition("/")[2].lower()})
"""What a person types for the packaged model, beside its whole id."""


def model_file(name: str) -> tuple[str, Path]:
    """The id and file of a model that a command names: the packaged one, or any GGUF file.

    A file's id is its stem, never its path. Problem MODEL_NOT_FOUND when it is neither.
    """
    if name.lower() in SHORT_NAMES | {models.DEFAULT_MODEL_ID.lower()}:
        return models.DEFAULT_MODEL_ID, models.packaged_model()
    path = Path(name)
    if path.suffix == ".gguf" and path.is_file():
        return path.stem, path
    raise Problem(
        ProblemCode.MODEL_NOT_FOUND,
        f"there is no model {name!r} here",
        hint=f"name a .gguf file, or {models.DEFAULT_MODEL_ID} (packaged)",
        param="model",
    )


async def run_node(
    config: Config,
    address: str | asyncio.Future[str],
    models: Sequence[str],
    *,
    name: str | None,
    on_ready: Callable[[Ready], None],
    stop: asyncio.Event,
    on_state: Callable[[AgentState], None] | None = None,
) -> None:
    """Serve models to the coordinator at `address` until `stop` is set, then drain.

    A future address may come while the engines start. `on_ready` is called at the first
    registration, `on_state` at every change. Problem when the coordinator refuses for good, a
    model's engine cannot start, or the folder is another node's.
    """
    if isinstance(address, str):
        _parsed(address)
    data = folder(config)
    listeners: list[Agent] = []
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(identity.lock_node(data).release)
        key = identity.NodeKey.load_or_create(data / "node.key")
        begun = await _unless(stop, _begin(stack, config, models, listeners))
        told = address if isinstance(address, str) else await _unless(stop, address)
        if begun is None or told is None:
            return
        from parhelion.node import Agent

        agent = Agent(
            key=key,
            address=_parsed(told),
            engines=begun,
            name=name or identity.node_name(key.peer),
            clock=SystemClock(),
            on_state=_announce(key.peer, on_ready, on_state),
        )
        listeners.append(agent)
        await _run_until(agent, stop)


async def _begin(
    stack: contextlib.AsyncExitStack,
    config: Config,
    models: Sequence[str],
    listeners: list[Agent],
) -> dict[str, Engine]:
    """The engines; the room that the agent lives in is imported while they load."""
    engines, _ = await asyncio.gather(
        _start_engines(stack, config, models, listeners),
        asyncio.to_thread(importlib.import_module, "parhelion.node"),
    )
    return engines


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


async def knock(config: Config, address: str) -> Problem | None:
    """Ask at `address` to be let in, before a model is loaded for it; why nobody answers, if so.

    What may pass is returned, because a node waits for its coordinator; Problem for what does not:
    another program, another key, a pool that will not have this node, or a folder that another
    node runs from. No invite is spent: that is for the registration.
    """
    from parhelion.link import Bye, LinkBroken, connect, parse_address
    from parhelion.node import FOR_GOOD
    from parhelion.node import knock as ask

    where = parse_address(address)
    data = folder(config)
    lock = identity.lock_node(data)
    try:
        carrier = await connect(where, identity.NodeKey.load_or_create(data / "node.key"))
    except Problem as problem:
        if problem.code is ProblemCode.LINK_BROKEN:
            return problem
        raise
    finally:
        lock.release()
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


async def _start_engines(
    stack: contextlib.AsyncExitStack,
    config: Config,
    names: Sequence[str],
    listeners: list[Agent],
) -> dict[str, Engine]:
    from parhelion.engines import EngineHost

    def report(digest: str, event: EngineEvent) -> None:
        level = logging.INFO if event.kind == "ready" else logging.WARNING
        log.log(level, "engine is %s", event.kind, extra={"digest": digest, "reason": event.reason})
        for agent in listeners:
            agent.on_engine(event, digest)

    engines: dict[str, Engine] = {}
    for wanted in names or (models.DEFAULT_MODEL_ID,):
        known, path = model_file(wanted)
        cache = folder(config) / "models"
        card = await asyncio.to_thread(models.inspect, path, known, cache)
        engine = await EngineHost.start(
            path, card.digest, config.engine, partial(report, card.digest)
        )
        stack.push_async_callback(engine.stop)
        engines[card.digest] = engine
    return engines


def _announce(
    peer: str,
    on_ready: Callable[[Ready], None],
    on_state: Callable[[AgentState], None] | None,
) -> Callable[[AgentState], None]:
    told = False

    def announce(state: AgentState) -> None:
        nonlocal told
        log.info("node is %s", state.state, extra={"node": peer, "reason": state.reason})
        if state.state == "ready" and not told:
            told = True
            on_ready(Ready(node=peer, coordinator=state.coordinator or ""))
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
