"""What coordinator and tokeniser host say to each other, one msgpack frame each.

The host works strictly in order, one frame at a time: so when it dies, the oldest unanswered
request is the one it died at.
"""

from __future__ import annotations

import msgspec

MODELS_LOADED = 8
"""Vocabularies a host keeps; the least recently used goes first. One is 5 to 60 MB."""


class PrepareFrame(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Make ids of a chat (`messages`: role and content) or of a raw `prompt`."""

    number: int
    digest: str
    path: str
    messages: tuple[tuple[str, str], ...] | None
    prompt: str | None


class PiecesFrame(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Give the vocabulary of a model."""

    number: int
    digest: str
    path: str


class PingFrame(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Say that you live; asked of a host that has nothing to do."""


class PongFrame(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """The answer to a PingFrame."""


class ReadyFrame(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The host has imported its library and reads."""


class IdsFrame(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The ids of a prompt."""

    number: int
    ids: tuple[int, ...]


class VocabularyFrame(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """A vocabulary (see vocabulary.Vocabulary)."""

    number: int
    pieces: tuple[bytes, ...]
    eog: tuple[int, ...]
    bos: int | None
    eos: int | None
    add_bos: bool


class RefusedFrame(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The request is at fault, or the model's file; the fields are those of a Problem."""

    number: int
    code: str
    message: str
    hint: str


Question = PrepareFrame | PiecesFrame
Heard = Question | PingFrame
"""All that the host hears."""

Answer = IdsFrame | VocabularyFrame | RefusedFrame
Told = Answer | ReadyFrame | PongFrame
"""All that the host tells."""
