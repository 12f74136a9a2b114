"""A pool from its settings to its end; its own node begins before its rooms are imported."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from parhelion import setup
from parhelion.bootstrap.local_chains import LocalChain, local_chains, takes_play_money
from parhelion.bootstrap.local_node import NodeOrder, local_node_process
from parhelion.bootstrap.node_engines import model_file
from parhelion.bootstrap.open_files import raise_open_files
from parhelion.bootstrap.ports import take_ports
from parhelion.bootstrap.ready import Pool, Ready, folder
from parhelion.config import ApiConfig, Config
from parhelion.identity import Certificate, NodeKey, read_certificate
from parhelion.models import DEFAULT_MODEL_ID


async def run_coordinator(
    config: Config,
    *,
    need: int,
    free: bool,
    local_node: bool,
    models: Sequence[str],
    on_ready: Callable[[Ready], None],
    stop: asyncio.Event,
    on_pool: Callable[[Pool], None] | None = None,
) -> None:
    """Serve until `stop` is set, then drain; `on_ready` is called once.

    With `local_node` ready means that a prompt is served; without, that nodes may join. `free`
    sets every rate to 0, so that no key is needed. `on_pool` is called when nodes come or go.
    What the owner set up since then is kept in the data folder and holds instead (`setup`).
    Problem when it cannot start.
    """
    raise_open_files()
    data = folder(config)
    told = setup.told_of(config, tuple(models), need, free)
    chosen = setup.SetupBook(data, told, setup.read(data))
    start = chosen.start
    config = setup.with_start(config, start)
    has_chains = takes_play_money(config, free=start.private)
    if config.x402.networks:
        # What cannot be is said before anything slow begins.
        from parhelion.payments.x402 import payees

        payees(config.x402.networks, config.money.asset_class)
    certificate = served_certificate(config.api)
    async with contextlib.AsyncExitStack() as stack:
        ports = take_ports(config, data)
        stack.callback(ports.close)
        # Here, so that a file that must be fetched is not fetched by two processes at once.
        names = dict.fromkeys((*(models or (DEFAULT_MODEL_ID,)), *config.fallback.models))
        files = [await asyncio.to_thread(model_file, name) for name in names]
        node = fallback = node_peer = fallback_peer = None
        if local_node:
            settings = msgspec.structs.replace(config, data=str(data / "node"))
            node_peer = _peer_of(settings)
            config = _with_own_node(config, node_peer)
            order = NodeOrder(config=settings, models=tuple(models))
            node = await stack.enter_async_context(local_node_process(order))
        if config.fallback.models:
            order = _fallback_order(config, data / "fallback")
            fallback_peer = _peer_of(order.config)
            fallback = await stack.enter_async_context(local_node_process(order))
        chains: tuple[LocalChain, ...] = ()
        if has_chains:
            chains = await stack.enter_async_context(local_chains(data))
        # Only now: its process loads the model while the coordinator's rooms are imported here,
        # which saves a third of a start.
        from parhelion.bootstrap.coordinator import serve_pool

        await serve_pool(
            config,
            files,
            ports,
            chosen=chosen,
            node=node,
            fallback=fallback,
            fallback_peer=fallback_peer,
            own=() if node_peer is None else (node_peer,),
            certificate=certificate,
            on_ready=on_ready,
            stop=stop,
            on_pool=on_pool,
            chains=chains,
        )


def _peer_of(node: Config) -> str:
    """The peer id of a node of ours, which the coordinator knows before it knocks."""
    # Made here where it is new, before the node's process could make another.
    return NodeKey.load_or_create(folder(node) / "node.key").peer


def _with_own_node(config: Config, own: str) -> Config:
    """The settings of a coordinator that lets its own node in, whomever else it admits."""
    nodes = msgspec.structs.replace(config.nodes, allowed=(*config.nodes.allowed, own))
    return msgspec.structs.replace(config, nodes=nodes)


def served_certificate(config: ApiConfig) -> Certificate | None:
    """The certificate of the settings, checked; Problem CONFIG_INVALID when it is no good."""
    if not (config.tls_cert or config.tls_key):
        return None
    return read_certificate(config.tls_cert, config.tls_key)


def _fallback_order(config: Config, data: Path) -> NodeOrder:
    """The pool's own engine is a node like any other, with a key that the coordinator knows."""
    engine = msgspec.structs.replace(config.engine, slots=config.fallback.slots)
    settings = msgspec.structs.replace(config, data=str(data), engine=engine)
    return NodeOrder(config=settings, models=config.fallback.models)
