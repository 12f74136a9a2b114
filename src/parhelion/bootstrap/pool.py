"""A pool from its settings to its end; its own node begins before its rooms are imported."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import msgspec

from parhelion.bootstrap.local_node import NodeOrder, local_node_process
from parhelion.bootstrap.node import model_file
from parhelion.bootstrap.ports import take_ports
from parhelion.bootstrap.ready import Pool, Ready, folder
from parhelion.config import Config
from parhelion.identity import NodeKey
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
    Problem when it cannot start.
    """
    data = folder(config)
    async with contextlib.AsyncExitStack() as stack:
        ports = take_ports(config, data)
        stack.callback(ports.close)
        # Here, so that a file that must be fetched is not fetched by two processes at once.
        names = models or (DEFAULT_MODEL_ID,)
        files = [await asyncio.to_thread(model_file, name) for name in names]
        node = None
        if local_node:
            settings = msgspec.structs.replace(config, data=str(data / "node"))
            config = _with_own_node(config, settings)
            order = NodeOrder(config=settings, models=tuple(models))
            node = await stack.enter_async_context(local_node_process(order))
        # Only now: its process loads the model while the coordinator's rooms are imported here,
        # which saves a third of a start.
        from parhelion.bootstrap.coordinator import serve_pool

        await serve_pool(
            config,
            files,
            ports,
            need=need,
            free=free,
            node=node,
            on_ready=on_ready,
            stop=stop,
            on_pool=on_pool,
        )


def _with_own_node(config: Config, node: Config) -> Config:
    """The settings of a coordinator that lets its own node in, whomever else it admits."""
    # Made here where it is new, before the node's process could make another.
    own = NodeKey.load_or_create(folder(node) / "node.key").peer
    nodes = msgspec.structs.replace(config.nodes, allowed=(*config.nodes.allowed, own))
    return msgspec.structs.replace(config, nodes=nodes)
