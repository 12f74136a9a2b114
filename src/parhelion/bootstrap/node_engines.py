"""The engines of a node: one host process for each model, the machine shared among them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from parhelion import models
from parhelion.bootstrap.ready import folder
from parhelion.config import Config
from parhelion.words import LoadPhase, ModelCard, Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.engines import Engine, EngineEvent

log = logging.getLogger("parhelion.bootstrap")

SHORT_NAMES = frozenset({"smollm2", models.DEFAULT_MODEL_ID.rpartition("/")[2].lower()})
"""What a person types for the packaged model, beside its whole id."""

Files = Mapping[str, tuple[ModelCard, Path]]
"""Models and their files, by digest."""

Report = Callable[[str, "EngineEvent"], None]
"""Told of every change of an engine, by its model's digest."""

Tell = Callable[[LoadPhase, int | None], None]
"""Told how far a node is on its way to its engines; of several models, of the one in hand."""


def model_file(name: str) -> tuple[str, Path]:
    """The id and file of a model that a command names: the packaged one, or any GGUF file.

    A file's id is its stem, never its path. Problem MODEL_NOT_FOUND when it is neither.
    """
    if name.lower() in SHORT_NAMES | {models.DEFAULT_MODEL_ID.lower()}:
        return models.DEFAULT_MODEL_ID, models.packaged_model()
    path = Path(name)
    if path.suffix == ".gguf" and path.is_file():
        return path.stem, path
    published = models.known_model(name)
    what = f"there is no model {name!r} here"
    if published is not None:
        what = f"{published.id} comes with no file: fetch a GGUF of it first"
    raise Problem(
        ProblemCode.MODEL_NOT_FOUND,
        what,
        hint=f"name a .gguf file, or {models.DEFAULT_MODEL_ID} (packaged)",
        param="model",
    )


async def files_of(config: Config, names: Sequence[str], tell: Tell = lambda *_: None) -> Files:
    """The files that were named; a file named twice is one. Problem where one is no model."""
    loop = asyncio.get_running_loop()

    def read(percent: int) -> None:
        # The loop may have ended: who stops a node does not wait for its thread.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(tell, "checking", percent)

    tell("checking", None)
    return await asyncio.to_thread(_inspected, names, folder(config) / "models", read)


def serves_whole(config: Config, files: Files, may_be_member: bool) -> bool:
    """Whether these models are served whole; else their node is a member of pipelines.

    Problem CONFIG_INVALID where they need more than `[node] memory_limit`, and it may not be one.
    """
    from parhelion.engines import check_fit

    if config.node.pipeline:
        return False
    cards = [card for card, _path in files.values()]
    try:
        check_fit(cards, config.node.memory_limit_bytes, config.engine)
    except Problem as problem:
        if not may_be_member:
            raise
        log.warning("%s: it serves a part of it, as a member of pipelines", problem.message)
        return False
    return True


async def check_parts(files: Files) -> None:
    """Problem MODEL_NOT_SLICEABLE where a member of pipelines names a file that cannot be cut.

    It is told when it offers its part, not when a pipeline would be made of it.
    """
    for card, path in files.values():
        try:
            await asyncio.to_thread(models.check_file_sliceable, path)
        except Problem as problem:
            raise Problem(
                problem.code, f"{card.id}: {problem.message}", hint=problem.hint
            ) from problem


async def start_engines(
    stack: contextlib.AsyncExitStack,
    config: Config,
    files: Files,
    report: Report,
    tell: Tell = lambda *_: None,
) -> dict[str, Engine]:
    """The engines by digest; Problem of the first model that cannot be loaded, with its name."""
    import psutil

    from parhelion.engines import EngineHost, bounded, offered_memory, share

    cards = [card for card, _path in files.values()]
    limit_bytes = config.node.memory_limit_bytes
    free_bytes = offered_memory(limit_bytes, psutil.virtual_memory().available)
    _warn_of_size(cards, free_bytes)
    settings = share(config.engine, cards, os.cpu_count() or 1, free_bytes)
    if len(cards) == 1:
        settings = (bounded(settings[0], cards[0], limit_bytes),)
    engines: dict[str, Engine] = {}
    tell("loading", None)
    for (digest, (card, path)), setting in zip(files.items(), settings, strict=True):
        try:
            engine = await EngineHost.start(
                path,
                digest,
                setting,
                partial(report, digest),
                lambda coming: tell(coming.phase, coming.percent),
            )
        except Problem as problem:
            if len(files) == 1:
                raise
            raise Problem(
                problem.code, f"{card.id}: {problem.message}", hint=problem.hint
            ) from problem
        stack.push_async_callback(engine.stop)
        engines[digest] = engine
    return engines


def _inspected(
    names: Sequence[str], cache: Path, read: Callable[[int], None]
) -> dict[str, tuple[ModelCard, Path]]:
    files: dict[str, tuple[ModelCard, Path]] = {}
    for wanted in names:
        known, path = model_file(wanted)
        card = models.inspect(path, known, cache, read)
        files.setdefault(card.digest, (card, path))
    return files


def _warn_of_size(cards: Sequence[ModelCard], free_bytes: int) -> None:
    """Say so where the files alone are more than the free memory: they will be read from disk."""
    need_bytes = sum(card.size_bytes for card in cards)
    if need_bytes > free_bytes:
        log.warning(
            "the models are larger than the free memory: without a GPU they will be slow",
            extra={"need_bytes": need_bytes, "free_bytes": free_bytes},
        )
