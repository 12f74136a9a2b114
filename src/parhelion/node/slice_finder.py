"""Where a stage's slice comes from: a whole file of the model here, else whoever serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from parhelion.link import Address, LoadStage, ServeSlice
from parhelion.models import SliceCard, slices
from parhelion.models.gguf_header import Array, Header
from parhelion.models.gguf_tensors import size_bytes
from parhelion.models.model_weight import KV_BYTES_PER_VALUE
from parhelion.models.stage_memory import STAGE_OVERHEAD_BYTES, buffer_bytes, vocabulary_bytes
from parhelion.node.fetching import Progress
from parhelion.node.holder_source import HolderSource
from parhelion.node.pipes import OpenPipe
from parhelion.node.slice_folder import SliceFolder, check_card
from parhelion.node.slice_server import Lent
from parhelion.node.sources import FileSource, HttpSource, Source, SourceWrong, layout_in
from parhelion.node.stage import Found
from parhelion.words import Problem, ProblemCode, StageSpec


class SliceFinder:
    """Finds slices for one node; `whole` are the files of whole models here, by digest."""

    def __init__(
        self, folder: SliceFolder, whole: Mapping[str, Path], cache: Path, coordinator: Address
    ) -> None:
        self._folder = folder
        self._whole = whole
        self._cache = cache
        self._coordinator = coordinator

    async def find(self, order: LoadStage, open_pipe: OpenPipe) -> Found:
        """The slice's file, whole and verified; Problem ARTEFACT_UNAVAILABLE where none has it.

        `open_pipe` leads to other nodes that have it.
        """
        spec = order.spec
        want = SliceCard(
            digest=spec.digest,
            start=spec.start,
            end=spec.end,
            size_bytes=order.size_bytes,
            sha256=order.sha256,
        )
        count = _Count()
        holders = [HolderSource(ticket, open_pipe) for ticket in order.holders]
        try:
            sources = self._sources(order, holders)
            held = await self._folder.take(want, sources, on_progress=count.note)
        finally:
            for holder in holders:
                await holder.close()
        try:
            need_bytes = await asyncio.to_thread(stage_bytes, held.path, spec)
        except BaseException:
            held.release()
            raise
        return Found(held.path, count.fetched_bytes, need_bytes, held.release)

    def _sources(self, order: LoadStage, holders: Sequence[Source]) -> list[Source]:
        """In the order in which they are asked: neighbours spare the coordinator its bandwidth."""
        path = self._whole.get(order.spec.digest)
        sources: list[Source] = [] if path is None else [FileSource(path, self._cache)]
        # The coordinator has what it plans with, and what lies: it is the last one to be asked.
        ours = self._coordinator
        return [*sources, *holders, HttpSource(ours.url, order.token, ours.certificate)]

    async def lend(self, order: ServeSlice) -> Lent:
        """A slice that is here, for another node; Problem where it is not."""
        want = SliceCard(
            digest=order.digest,
            start=order.start,
            end=order.end,
            size_bytes=order.size_bytes,
            sha256=order.sha256,
        )
        check_card(want)
        held = await self._folder.lend(want)
        if held is not None:
            return Lent(partial(_read, held.path), held.release)
        path = self._whole.get(order.digest)
        if path is None:
            raise Problem(ProblemCode.ARTEFACT_UNAVAILABLE, "this node has no such slice any more")
        try:
            layout = await asyncio.to_thread(layout_in, path, self._cache, want)
        except SourceWrong as wrong:
            raise Problem(ProblemCode.ARTEFACT_UNAVAILABLE, wrong.cause) from wrong

        def read(offset_bytes: int, length_bytes: int) -> bytes:
            behind_bytes = offset_bytes + length_bytes
            return b"".join(layout.iterate(path, offset_bytes, behind_bytes, length_bytes))

        return Lent(read, lambda: None)


def _read(path: Path, offset_bytes: int, length_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset_bytes)
        return file.read(length_bytes)


class _Count:
    """How much of a slice came over the network."""

    def __init__(self) -> None:
        self.fetched_bytes = 0
        self._have_bytes: int | None = None

    def note(self, progress: Progress) -> None:
        """So much is here by now."""
        before, self._have_bytes = self._have_bytes, progress.have_bytes
        # What was here before this fetch is not known: its first block (64 kB) is left out.
        if progress.by_network and before is not None:
            self.fetched_bytes += max(0, progress.have_bytes - before)


SLACK_BYTES = 1024 * 1024
"""The coordinator weighs the whole file's tensors, a node the slice's own: with fillers, which are
some hundred bytes more. What the planner filled to the last byte is not refused for those."""


def stage_bytes(path: Path, spec: StageSpec) -> int:
    """What a stage's process takes with weights and KV memory, from its slice's own header.

    Counted as the planner does (coordinator.pipeline_pool): what it dealt out fits.
    """
    outline = slices.outline_of(path)
    architecture = outline.header.get("general.architecture")
    width = outline.header.get(f"{architecture}.embedding_length")
    hidden_size = width if isinstance(width, int) else 0
    # Not the file's size: names and vocabulary are read, and are not kept as they stand there.
    weights = sum(map(size_bytes, outline.tensors))
    own = STAGE_OVERHEAD_BYTES + buffer_bytes(hidden_size, spec.kv_tokens)
    tokens = outline.header.get("tokenizer.ggml.tokens")
    if spec.is_last and isinstance(tokens, Array):
        own += vocabulary_bytes(tokens.count, spec.slots)
    return weights + kv_bytes(outline.header, spec) + own - SLACK_BYTES


def kv_bytes(header: Header, spec: StageSpec) -> int:
    """What the KV memory of a slice takes at most, as its header tells; pure."""
    architecture = header.get("general.architecture")

    def number(key: str, default: int) -> int:
        value = header.get(f"{architecture}.{key}")
        if isinstance(value, Array):
            # One number a layer: the largest, for all of them.
            value = max((one for one in value.values if isinstance(one, int)), default=default)
        return value if isinstance(value, int) else default

    heads = max(1, number("attention.head_count", 1))
    width = number("embedding_length", 0) // heads
    key = number("attention.key_length", width)
    value = number("attention.value_length", width)
    if number("attention.key_length_mla", 0) and number("attention.value_length_mla", 0):
        value = 0  # Latent attention: the values are a part of the keys.
    a_layer = number("attention.head_count_kv", heads) * (key + value) * KV_BYTES_PER_VALUE
    return max(0, a_layer) * (spec.end - spec.start) * spec.kv_tokens
