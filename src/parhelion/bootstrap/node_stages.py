"""The stages of a node that is a member of pipelines: what it offers, and how it comes by them."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from parhelion.bootstrap.ready import SystemClock, folder
from parhelion.config import Config
from parhelion.words import StageOffer

if TYPE_CHECKING:
    from parhelion.engines.stage_protocol import StageTold
    from parhelion.identity import NodeKey
    from parhelion.link import Address
    from parhelion.node import Stages
    from parhelion.node.stage import StageHost
    from parhelion.words import StageSpec

SLICES_NAME = "slices"
"""Below the data folder: the parts of models that were fetched or cut."""

RESERVE_SHARE = 8
"""Without a limit an eighth of what is free is left: for the node itself, and for what its person
starts next. Who offers all of it is ended by the system in the middle of an answer."""

WIRES = ("fp32", "bf16")
"""What our stages speak."""

log = logging.getLogger("parhelion.bootstrap")


async def open_stages(
    stack: contextlib.AsyncExitStack,
    config: Config,
    key: NodeKey,
    address: Address,
    whole: Mapping[str, Path],
    on_change: Callable[[], None],
) -> Stages:
    """The stages of this node, none of them loaded; `whole` are its files of whole models."""
    from parhelion.engines.stage_supervised import StageHost as Host
    from parhelion.engines.stage_whole import WholeStage
    from parhelion.models.stage_memory import MIB, STAGE_OVERHEAD_BYTES
    from parhelion.node import Stages
    from parhelion.node.slice_finder import SliceFinder
    from parhelion.node.slice_folder import SliceFolder
    from parhelion.node.stage import StageTools

    data, clock = folder(config), SystemClock()
    kept = SliceFolder(data / SLICES_NAME, clock)
    stack.push_async_callback(kept.stop)
    finder = SliceFinder(kept, whole, data / "models", address)

    async def start(path: Path, spec: StageSpec, told: StageTold) -> StageHost:
        if spec.stages == 1:
            return await WholeStage.start(path, spec, config.engine, told)
        return await Host.start(path, spec, config.engine, told)

    tools = StageTools(find=finder.find, start=start, lend=finder.lend, resident_bytes=rss_bytes)
    offer = offer_of(config, whole)
    if offer.memory_bytes <= STAGE_OVERHEAD_BYTES:
        log.warning(
            "this node gives %d MiB to pipelines, and a stage's process takes %d by itself: no "
            "layers will come here; raise --memory-limit, or end other programs",
            offer.memory_bytes // MIB,
            STAGE_OVERHEAD_BYTES // MIB,
        )
    stages = Stages(key, clock, offer, tools, on_change)
    stack.push_async_callback(stages.stop)
    return stages


def offer_of(config: Config, whole: Mapping[str, Path]) -> StageOffer:
    """What this machine gives to pipelines now."""
    import psutil

    from parhelion.engines import offered_memory

    free_bytes = psutil.virtual_memory().available
    limit_bytes = config.node.memory_limit_bytes
    reserve_bytes = free_bytes // RESERVE_SHARE
    return StageOffer(
        memory_bytes=offered_memory(limit_bytes, free_bytes, reserve_bytes),
        threads=config.engine.threads or max(1, (os.cpu_count() or 1) - 1),
        wires=WIRES,
        whole=tuple(whole),
    )


def rss_bytes(pid: int) -> int:
    """What a process takes of the memory; 0 where there is none."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).memory_info().rss if pid else 0
    return 0
