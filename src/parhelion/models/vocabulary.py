"""A vocabulary as the coordinator needs it: which bytes an id shows, and which ids end a text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A table of raw bytes per id; one id may show a part of a UTF-8 character, or nothing.

    `eog` are the ids that end a generation. `bos`, `eos`: None where the model has none.
    """

    pieces: tuple[bytes, ...]
    eog: frozenset[int]
    digest: str
    bos: int | None = None
    eos: int | None = None
    add_bos: bool = False

    def is_silent(self, id: int) -> bool:
        """Whether a reader sees nothing of this id: it ends the text, or has no bytes."""
        return id in self.eog or not self.pieces[id]

    def show(self, ids: Iterable[int]) -> bytes:
        """The bytes that these ids show, in order."""
        return b"".join([self.pieces[id] for id in ids])
