"""A pool from its settings to its end; its own node begins before its rooms are imported."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import msgspec

from parhelion.bootstrap.local_node import NodeOrder, local_node_process
from parhelion.bootstrap.node import model_file
from parhelion.bootstrap.ready import Pool, Ready, folder
from parhelion.config import Config
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
    # Here, so that a file that must be fetched is not fetched by two processes at once.
    names = models or (DEFAULT_MODEL_ID,)
    files = [await asyncio.to_thread(model_file, name) for name in names]
    async with contextlib.AsyncExitStack() as stack:
        node = None
        if local_node:
            settings = msgspec.structs.replace(config, data=str(data / "node"))
            order = NodeOrder(config=settings, models=tuple(models))
            node = await stack.enter_async_context(local_node_process(order))
        # Only now: its process loads the model while the coordinator's rooms are imported here,
        # which saves a third of a start.
        from parhelion.bootstrap.coordinator import serve_pool

        await serve_pool(
            config,
            files,
            need=need,
            free=free,
            node=node,
            on_ready=on_ready,
            stop=stop,
            on_pool=on_pool,
        )
