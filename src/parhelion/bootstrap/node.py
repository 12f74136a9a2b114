"""A node: its key, its engines, its agent."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from msgspec import structs

from parhelion import __version__, identity
from parhelion.bootstrap.node_engines import check_parts, files_of, serves_whole, start_engines
from parhelion.bootstrap.node_herald import Heralding
from parhelion.bootstrap.node_stages import open_stages
from parhelion.bootstrap.ready import DRAIN_DEADLINE_S, Ready, SystemClock, folder
from parhelion.config import Config
from parhelion.models import DEFAULT_MODEL_ID
from parhelion.words import Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.engines import Engine, EngineEvent
    from parhelion.link import Address, Carrier, FromCoordinator
    from parhelion.node import Agent, AgentState, Dial, HeldStage, NodeState, Stages

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
    may_be_member: bool = False,
) -> None:
    """Serve models to the coordinator at `address` until `stop` is set, then drain.

    A future address may come while the engines start. `on_ready` is called at the first
    registration, `on_state` at every change; `dial` is how the coordinator is reached. With
    `may_be_member` a node too small for its models serves parts of them. Problem when it refuses
    for good, a model's engine cannot start, or the folder is another node's.
    """
    where = _parsed(address) if isinstance(address, str) else address
    data = folder(config)
    listeners: list[Agent] = []
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(identity.lock_node(data).release)
        key = identity.NodeKey.load_or_create(data / "node.key")
        note = _Note(data, key.peer, name or identity.node_name(key.peer))
        heralding = Heralding(key, note.name, where, dial)
        stack.push_async_callback(heralding.end)
        begin = _begin(stack, config, models, listeners, note, heralding, may_be_member)
        begun = await _unless(stop, begin)
        told = await _unless(stop, where) if isinstance(where, asyncio.Future) else where
        if begun is None or told is None:
            return
        from parhelion.link import connect
        from parhelion.node import Agent

        note.address, note.names = told.url, begun.names
        stages = await _member(stack, config, key, told, begun, note)
        agent = Agent(
            key=key,
            address=told,
            engines=begun.engines,
            name=note.name,
            clock=SystemClock(),
            on_state=_announce(note, heralding.until(on_ready), on_state),
            slots=config.engine.slots,
            dial=dial or connect,
            stages=stages,
            listens=config.node.direct == "auto",
        )
        listeners.append(agent)
        await _run_until(agent, stop)


@dataclass(frozen=True, slots=True)
class _Begun:
    """What a node starts with, and what each digest is called.

    `whole` are the files of a member of pipelines, by digest; None for a node that is none.
    """

    engines: Mapping[str, Engine]
    names: Mapping[str, str]
    whole: Mapping[str, Path] | None


async def _begin(
    stack: contextlib.AsyncExitStack,
    config: Config,
    models: Sequence[str],
    listeners: list[Agent],
    note: _Note,
    heralding: Heralding,
    may_be_member: bool,
) -> _Begun:
    """The engines, or the files of a member; the agent's room is imported while they load."""

    def report(digest: str, event: EngineEvent) -> None:
        level = logging.INFO if event.kind == "ready" else logging.WARNING
        log.log(level, "engine is %s", event.kind, extra={"digest": digest, "reason": event.reason})
        for agent in listeners:
            agent.on_engine(event, digest)

    async def load() -> _Begun:
        # A member needs no file of its own; everybody else has the packaged model.
        wanted = models or (() if config.node.pipeline else (DEFAULT_MODEL_ID,))
        files = await files_of(config, wanted, heralding.tell)
        names = {digest: card.id for digest, (card, _path) in files.items()}
        if not serves_whole(config, files, may_be_member):
            await check_parts(files)
            return _Begun({}, names, {digest: path for digest, (_card, path) in files.items()})
        engines = await start_engines(stack, config, files, report, heralding.tell)
        return _Begun(engines, names, None)

    async def open_room() -> None:
        await asyncio.to_thread(importlib.import_module, "parhelion.node")
        note.write("loading")
        heralding.begin()

    try:
        begun, _ = await asyncio.gather(load(), open_room())
    except Problem as problem:
        note.write("gone", problem.message)
        heralding.fail(problem.code)
        raise
    return begun


async def _member(
    stack: contextlib.AsyncExitStack,
    config: Config,
    key: identity.NodeKey,
    address: Address,
    begun: _Begun,
    note: _Note,
) -> Stages | None:
    """The stages of a member of pipelines, written down as they come and go."""
    if begun.whole is None:
        return None
    stages = await open_stages(
        stack, config, key, address, begun.whole, lambda: note.tell(held_stages(stages))
    )
    note.memory_bytes = stages.offer.memory_bytes
    return stages


def held_stages(stages: Stages) -> tuple[HeldStage, ...]:
    """What `parhelion node status` shows of them."""
    from parhelion.link import clipped
    from parhelion.node import HeldStage

    return tuple(
        HeldStage(
            digest=one.order.spec.digest,
            start=one.order.spec.start,
            end=one.order.spec.end,
            layers=one.order.spec.layers,
            ready=one.is_ready,
            need_bytes=one.need_bytes,
            # The pool's word, which goes to a terminal.
            model=clipped(one.order.spec.name),
        )
        for one in stages.held()
    )


class _Note:
    """Keeps DATA/node.state.json, from which `parhelion node status` reads."""

    def __init__(self, data: Path, peer: str, name: str) -> None:
        self.peer = peer
        self.name = name
        self.address: str | None = None
        self.names: Mapping[str, str] = {}
        """What each digest is called."""
        self.memory_bytes: int | None = None
        """What a member gives to pipelines."""
        self._stages: tuple[HeldStage, ...] = ()
        self._last: NodeState | None = None
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
        from parhelion.node import NodeState

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
            names=self._named((*models, *(stage.digest for stage in self._stages))),
            version=__version__,
            memory_bytes=self.memory_bytes,
            stages=self._stages,
        )
        self._save(now)

    def tell(self, stages: tuple[HeldStage, ...]) -> None:
        """Say what is held from now on; where the node stands has not changed."""
        self._stages = stages
        if self._last is not None:
            digests = (*self._last.models, *(stage.digest for stage in stages))
            self._save(structs.replace(self._last, stages=stages, names=self._named(digests)))

    def _named(self, digests: Iterable[str]) -> dict[str, str]:
        return {digest: self.names[digest] for digest in digests if digest in self.names}

    def _save(self, now: NodeState) -> None:
        from parhelion.node import write_state

        self._last = now
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
                    memory_bytes=note.memory_bytes,
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
