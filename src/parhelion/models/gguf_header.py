"""A bounded reader of a GGUF file's metadata, for files from strangers.

Nothing is mapped, no tensor is read, and every count and length is checked against a limit and
against the size of the file before a byte of it is read. The `gguf` package maps the whole file
and trusts its counts, and its import costs 16 MB; so it is used by tests and tools only.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

MAGIC = b"GGUF"
VERSIONS = (2, 3)
KEYS_LIMIT = 4096
"""Real files have 20 to 60 keys."""

KEY_BYTES_LIMIT = 1024
STRING_BYTES_LIMIT = 1024 * 1024
"""The longest honest string is a chat template, of some 20 kB."""

ELEMENTS_LIMIT = 8_000_000
"""Over all arrays: a vocabulary of 256k pieces has 256k types, 256k scores and 500k merges."""

KEPT_ELEMENTS = 4096
"""Short arrays are kept (heads per layer); of long ones, only count and digest."""

TENSORS_LIMIT = 200_000
"""The largest models have some 20,000, and each is remembered for a moment."""

TENSOR_NAME_BYTES_LIMIT = 256
"""llama.cpp takes 63."""

DIMENSIONS_LIMIT = 4

STRING, ARRAY = 8, 9
SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}

Scalar = int | float | bool | str


class HeaderBroken(Exception):
    """The file is not a GGUF file that we are willing to read; the message says where."""


@dataclass(frozen=True, slots=True)
class Array:
    """An array of the metadata: count, sha256 of the bytes as stored, a short one's values.

    `kind` is GGUF's number for the type of its elements.
    """

    count: int
    sha256: bytes
    values: tuple[Scalar, ...]
    kind: int = STRING


Header = dict[str, Scalar | Array]


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies: `offset` counts from the first byte behind all that is read here."""

    name: str
    elements: int
    kind: int
    offset: int
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Outline:
    """All of a file but its weights; `read_bytes` is where the part with the weights may begin.

    `spans` are the first byte of each key's entry and the one behind its last, in the file's order.
    """

    header: Header
    tensors: tuple[Tensor, ...]
    read_bytes: int
    size_bytes: int
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])


def read_outline(path: Path) -> Outline:
    """Metadata and tensor list; HeaderBroken when it is not readable GGUF, OSError by the disk."""
    size_bytes = path.stat().st_size
    with path.open("rb", buffering=1024 * 1024) as file:
        return _Reader(file, size_bytes).outline()


class _Reader:
    """Reads forward only, and knows how many bytes can still come."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self._left_bytes = size_bytes
        self._elements = 0

    def outline(self) -> Outline:
        if self._take(4, "magic") != MAGIC:
            raise HeaderBroken("it does not begin with GGUF")
        version = self._number("<I", "version")
        if version not in VERSIONS:
            raise HeaderBroken(f"GGUF version {version} is not one of {VERSIONS}")
        tensors = self._number("<Q", "tensor count")
        keys = self._number("<Q", "key count")
        if tensors > TENSORS_LIMIT or keys > KEYS_LIMIT:
            raise HeaderBroken(f"it claims {tensors} tensors and {keys} keys")
        found: Header = {}
        spans: dict[str, tuple[int, int]] = {}
        for _ in range(keys):
            begin = self._at()
            key = self._string("key", KEY_BYTES_LIMIT)
            if key in found:
                raise HeaderBroken(f"key {key!r} comes twice")
            found[key] = self._value(key)
            spans[key] = (begin, self._at())
        listed = tuple(self._tensor() for _ in range(tensors))
        return Outline(found, listed, self._at(), self._size_bytes, spans)

    def _at(self) -> int:
        return self._size_bytes - self._left_bytes

    def _tensor(self) -> Tensor:
        name = self._string("tensor name", TENSOR_NAME_BYTES_LIMIT)
        dimensions = self._number("<I", name)
        if dimensions > DIMENSIONS_LIMIT:
            raise HeaderBroken(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(self._number("<Q", name) for _ in range(dimensions))
        kind = self._number("<I", name)
        return Tensor(name, math.prod(shape), kind, self._number("<Q", name), shape)

    def _value(self, key: str) -> Scalar | Array:
        kind = self._number("<I", key)
        if kind == STRING:
            return self._string(key, STRING_BYTES_LIMIT)
        if kind == ARRAY:
            return self._array(key)
        return self._scalar(kind, key)

    def _array(self, key: str) -> Array:
        kind = self._number("<I", key)
        count = self._number("<Q", key)
        self._elements += count
        if self._elements > ELEMENTS_LIMIT:
            raise HeaderBroken(f"{key!r} claims {count} elements")
        if kind == STRING:
            return self._strings(key, count)
        layout = SCALARS.get(kind)
        if layout is None:
            # Among them the array of arrays: legal GGUF, used by no model. So nothing nests.
            raise HeaderBroken(f"{key!r} is an array of the unknown type {kind}")
        raw = self._take(count * struct.calcsize(layout), key)
        values: tuple[Scalar, ...] = ()
        if count <= KEPT_ELEMENTS:
            values = tuple(value for (value,) in struct.iter_unpack(layout, raw))
        return Array(count, hashlib.sha256(raw).digest(), values, kind)

    def _strings(self, key: str, count: int) -> Array:
        sha256 = hashlib.sha256()
        kept: list[Scalar] = []
        for _ in range(count):
            head = self._take(8, key)
            size_bytes = int.from_bytes(head, "little")
            if size_bytes > STRING_BYTES_LIMIT:
                raise HeaderBroken(f"{key!r} has a string of {size_bytes} bytes")
            body = self._take(size_bytes, key)
            # The length goes in too, so that no two lists of strings hash alike.
            sha256.update(head + body)
            if count <= KEPT_ELEMENTS:
                kept.append(body.decode("utf-8", "replace"))
        return Array(count, sha256.digest(), tuple(kept))

    def _scalar(self, kind: int, key: str) -> Scalar:
        layout = SCALARS.get(kind)
        if layout is None:
            raise HeaderBroken(f"{key!r} has the unknown type {kind}")
        return self._number(layout, key)

    def _string(self, key: str, limit_bytes: int) -> str:
        size_bytes = self._number("<Q", key)
        if size_bytes > limit_bytes:
            raise HeaderBroken(f"{key!r} has a string of {size_bytes} bytes")
        return self._take(size_bytes, key).decode("utf-8", "replace")

    def _number(self, layout: str, what: str) -> int:
        return struct.unpack(layout, self._take(struct.calcsize(layout), what))[0]

    def _take(self, size_bytes: int, what: str) -> bytes:
        if size_bytes > self._left_bytes:
            raise HeaderBroken(f"it ends inside {what!r}")
        self._left_bytes -= size_bytes
        raw = self._file.read(size_bytes)
        if len(raw) != size_bytes:
            raise HeaderBroken(f"it ends inside {what!r}")
        return raw
