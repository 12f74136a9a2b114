"""A node: its key, its engines, its agent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from parhelion import identity, models
from parhelion.bootstrap.ready import DRAIN_DEADLINE_S, Ready, SystemClock, folder
from parhelion.config import Config
from parhelion.words import Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.engines import Engine, EngineEvent
    from parhelion.node import Agent, AgentState

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
    address: str,
    models: Sequence[str],
    *,
    name: str | None,
    on_ready: Callable[[Ready], None],
    stop: asyncio.Event,
) -> None:
    """Serve models to the coordinator at `address` until `stop` is set, then drain.

    `on_ready` is called at the first registration. Problem when the coordinator refuses for good,
    or a model's engine cannot start.
    """
    from parhelion.link import parse_address
    from parhelion.node import Agent

    where = parse_address(address)
    key = identity.NodeKey.load_or_create(folder(config) / "node.key")
    listeners: list[Agent] = []
    async with contextlib.AsyncExitStack() as stack:
        engines = await _start_engines(stack, config, models, listeners)
        agent = Agent(
            key=key,
            address=where,
            engines=engines,
            name=name or identity.node_name(key.peer),
            clock=SystemClock(),
            on_state=_announce(key.peer, on_ready),
        )
        listeners.append(agent)
        await _run_until(agent, stop)


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


def _announce(peer: str, on_ready: Callable[[Ready], None]) -> Callable[[AgentState], None]:
    told = False

    def on_state(state: AgentState) -> None:
        nonlocal told
        log.info("node is %s", state.state, extra={"node": peer, "reason": state.reason})
        if state.state == "ready" and not told:
            told = True
            on_ready(Ready(node=peer, coordinator=state.coordinator or ""))

    return on_state


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
