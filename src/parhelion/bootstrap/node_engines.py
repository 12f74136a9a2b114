"""The engines of a node: one host process for each model, the machine shared among them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from parhelion import models
from parhelion.bootstrap.ready import folder
from parhelion.config import Config
from parhelion.words import ModelCard, Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.engines import Engine, EngineEvent

log = logging.getLogger("parhelion.bootstrap")

SHORT_NAMES = frozenset({"smollm2", models.DEFAULT_MODEL_ID.rpartition("/")[2].lower()})
"""What a person types for the packaged model, beside its whole id."""

Report = Callable[[str, "EngineEvent"], None]
"""Told of every change of an engine, by its model's digest."""


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


async def start_engines(
    stack: contextlib.AsyncExitStack, config: Config, names: Sequence[str], report: Report
) -> tuple[dict[str, Engine], dict[str, str]]:
    """The engines by digest, and what each digest was called; a file named twice is one engine.

    Problem of the first model that cannot be loaded, with its name.
    """
    import psutil

    from parhelion.engines import EngineHost, share

    files = await asyncio.to_thread(_inspected, names, folder(config) / "models")
    cards = [card for card, _path in files.values()]
    free_bytes = psutil.virtual_memory().available
    _warn_of_size(cards, free_bytes)
    settings = share(config.engine, cards, os.cpu_count() or 1, free_bytes)
    engines: dict[str, Engine] = {}
    for (digest, (card, path)), setting in zip(files.items(), settings, strict=True):
        try:
            engine = await EngineHost.start(path, digest, setting, partial(report, digest))
        except Problem as problem:
            if len(files) == 1:
                raise
            raise Problem(
                problem.code, f"{card.id}: {problem.message}", hint=problem.hint
            ) from problem
        stack.push_async_callback(engine.stop)
        engines[digest] = engine
    return engines, {digest: card.id for digest, (card, _path) in files.items()}


def _inspected(names: Sequence[str], cache: Path) -> dict[str, tuple[ModelCard, Path]]:
    files: dict[str, tuple[ModelCard, Path]] = {}
    for wanted in names or (models.DEFAULT_MODEL_ID,):
        known, path = model_file(wanted)
        card = models.inspect(path, known, cache)
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
