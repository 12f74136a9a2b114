"""Slices: the part of a model file that one stage of a pipeline loads, as a GGUF file of its own.

A slice need not lie anywhere: it is laid out over the whole file and read from there, from any byte
on, so that it can be sent without a copy. Nothing is mapped and no weight is looked at.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from parhelion.models.anatomy import anatomy
from parhelion.models.digests import derived_digest
from parhelion.models.gguf_header import HeaderBroken, Outline, read_outline
from parhelion.models.model_weight import ModelWeight, weight_of
from parhelion.models.slice_layout import Segment, segments
from parhelion.words import Problem, ProblemCode

CHUNK_BYTES = 1024 * 1024
"""One read: large enough that the disk is the cost, small enough to hold many at once."""

SLICE_MODE = 0o644
"""Weights are no secret; a temporary file would be its owner's only."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Layers [start, end) of a model of `layers`, as runs of a file of `whole_bytes`."""

    start: int
    end: int
    layers: int
    whole_bytes: int
    segments: tuple[Segment, ...]
    size_bytes: int

    def iterate(
        self,
        path: Path,
        offset_bytes: int = 0,
        end_bytes: int | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> Iterator[bytes]:
        """The slice's bytes [offset_bytes, end_bytes) out of the whole file at `path`.

        Problem ARTEFACT_UNAVAILABLE when that file cannot be read or is another than was laid out.
        """
        end_bytes = self.size_bytes if end_bytes is None else end_bytes
        if not 0 <= offset_bytes <= end_bytes <= self.size_bytes:
            raise Problem(
                ProblemCode.INVALID_REQUEST,
                f"bytes {offset_bytes} to {end_bytes} are not in a slice of {self.size_bytes}",
            )
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size != self.whole_bytes:
                    raise _changed()
                for segment in _within(self.segments, offset_bytes, end_bytes):
                    yield from _read(file, segment, chunk_bytes)
        except OSError as error:
            raise _unavailable(f"the model's file cannot be read: {error.strerror}") from error


def check_sliceable(outline: Outline) -> None:
    """Problem MODEL_NOT_SLICEABLE or ARTEFACT_INVALID when a model cannot be cut into stages."""
    anatomy(outline)


def check_file_sliceable(path: Path) -> None:
    """The same of the model in this file."""
    check_sliceable(outline_of(path))


def layout(path: Path, start: int, end: int) -> Layout:
    """The slice of layers [start, end) of the model in this file.

    Problem MODEL_NOT_SLICEABLE, ARTEFACT_INVALID, ARTEFACT_UNAVAILABLE, or INVALID_REQUEST for a
    cut that the model does not have.
    """
    return layout_of(outline_of(path), start, end)


def layout_of(outline: Outline, start: int, end: int) -> Layout:
    """The same for a file that was read already."""
    model = anatomy(outline)
    made = segments(model, start, end)
    size_bytes = sum(segment.size_bytes for segment in made)
    return Layout(start, end, model.layers, outline.size_bytes, made, size_bytes)


def weigh(path: Path) -> ModelWeight:
    """What each part of the model in this file weighs; Problem as `layout` raises it."""
    return weight_of(anatomy(outline_of(path)))


def outline_of(path: Path) -> Outline:
    """All of a model file but its weights; Problem where `read_outline` has errors of its own."""
    try:
        return read_outline(path)
    except HeaderBroken as error:
        raise Problem(
            ProblemCode.ARTEFACT_INVALID,
            f"the file is no model we can read: {error}",
            hint="give the path of a whole, unbroken GGUF model",
        ) from error
    except OSError as error:
        raise _unavailable(f"the model's file cannot be read: {error.strerror}") from error


def write_slice(path: Path, layout: Layout, target: Path) -> str:
    """Write the slice to `target`, all of it or nothing; its sha256."""
    sha256 = hashlib.sha256()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix="slice-", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in layout.iterate(path):
                    sha256.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fchmod(file.fileno(), SLICE_MODE)
                os.fsync(file.fileno())
            os.replace(name, target)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name)
            raise
    except OSError as error:
        raise _unavailable(f"the slice cannot be stored: {error.strerror}") from error
    return sha256.hexdigest()


def slice_sha256(path: Path, layout: Layout, cache_dir: Path | None = None) -> str:
    """The slice's sha256 in lower-case hex, remembered for as long as the whole file is the same.

    `cache_dir` is the folder that remembers (default: the user's cache folder).
    """

    def compute() -> str:
        sha256 = hashlib.sha256()
        for chunk in layout.iterate(path):
            sha256.update(chunk)
        return sha256.hexdigest()

    # What was laid out is part of the name: a later version may lay out the same cut otherwise.
    shape = hashlib.sha256(repr(layout.segments).encode()).hexdigest()
    try:
        return derived_digest(path, f"{layout.start}-{layout.end} {shape}", compute, cache_dir)
    except OSError as error:
        raise _unavailable(f"the model's file cannot be read: {error.strerror}") from error


def _within(segments: tuple[Segment, ...], begin: int, behind: int) -> Iterator[Segment]:
    """The segments' parts that lie in [begin, behind) of the slice."""
    at = 0
    for size_bytes, source, body in segments:
        low, high = max(begin - at, 0), min(behind - at, size_bytes)
        at += size_bytes
        if low < high:
            place = None if source is None else source + low
            yield Segment(high - low, place, body[low:high])


def _read(file: BinaryIO, segment: Segment, chunk_bytes: int) -> Iterator[bytes]:
    if segment.source is not None:
        file.seek(segment.source)
    for at in range(0, segment.size_bytes, chunk_bytes):
        wanted = min(chunk_bytes, segment.size_bytes - at)
        if segment.body:
            yield segment.body[at : at + wanted]
        elif segment.source is None:
            yield bytes(wanted)
        else:
            chunk = file.read(wanted)
            if len(chunk) != wanted:
                raise _changed()
            yield chunk


def _changed() -> Problem:
    return _unavailable("the model's file is not the one that was laid out")


def _unavailable(message: str) -> Problem:
    return Problem(
        ProblemCode.ARTEFACT_UNAVAILABLE,
        message,
        hint="put the file back, and look whether the disk is full or its mode forbids it",
    )
