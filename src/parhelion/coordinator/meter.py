"""From accepted token ids to the text that may be sent and the counts that are billed; pure.

Ids go in one by one, so the text, the cut and the counts do not depend on how they were chunked.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol

_utf8 = codecs.getincrementaldecoder("utf-8")


class Pieces(Protocol):
    """What the meter needs of a model's vocabulary: bytes per id, and the end-of-text ids."""

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """The bytes of every id; empty for an id that shows nothing."""
        ...

    @property
    def eog(self) -> frozenset[int]:
        """Ids that end a generation."""
        ...


class Meter:
    """Counts one answer: feed it ids in order with `accept`, then `flush` once.

    `accepted` ids count up to the cut; `completion_tokens` are those of them that show bytes;
    `silent_ids` the rest (end-of-text and empty pieces). `finish` is None until the cut: "stop"
    (end-of-text or a stop string) or "length" (`max_tokens` ids). `unbilled_from` is the index
    before which an earlier run was billed; `billable_tokens` leaves those out.
    """

    __slots__ = (
        "_decoder",
        "_eog",
        "_held",
        "_let_out",
        "_max_tokens",
        "_pieces",
        "_silent_before",
        "_stops",
        "_unbilled_from",
        "accepted",
        "finish",
        "silent_ids",
    )

    def __init__(
        self,
        vocabulary: Pieces,
        stop: Sequence[str],
        max_tokens: int,
        unbilled_from: int = 0,
    ) -> None:
        self._pieces = vocabulary.pieces
        self._eog = vocabulary.eog
        self._stops = tuple(text for text in stop if text)
        self._max_tokens = max_tokens
        self._unbilled_from = unbilled_from
        self._silent_before = 0
        self._decoder: codecs.IncrementalDecoder | None = None
        self._held = ""
        self._let_out = (0, 0)
        self.accepted = 0
        self.silent_ids = 0
        self.finish: str | None = None

    @property
    def completion_tokens(self) -> int:
        """Accepted ids that show bytes."""
        return self.accepted - self.silent_ids

    @property
    def billable_tokens(self) -> int:
        """Completion tokens that no earlier run of the same request was billed for."""
        if not self._unbilled_from:
            return self.accepted - self.silent_ids
        fresh = max(0, self.accepted - self._unbilled_from)
        return max(0, fresh - (self.silent_ids - self._silent_before))

    @property
    def let_out(self) -> tuple[int, int]:
        """(accepted ids, billable tokens) up to the last id whose whole text was let out."""
        if self._held or self._decoder is not None:
            return self._let_out
        return self.accepted, self.billable_tokens

    def accept(self, ids: Sequence[int]) -> str:
        """Take the next ids; the text that may be sent now. After the cut nothing is taken.

        The caller has checked that every id is inside the vocabulary.
        """
        if self.finish is not None:
            return ""
        pieces, eog, limit = self._pieces, self._eog, self._max_tokens
        sent = ""
        for token in ids:
            self.accepted += 1
            if token in eog:
                self._count_silent()
                self.finish = "stop"
                break
            piece = pieces[token]
            if not piece:
                self._count_silent()
            elif self._decoder is None and piece.isascii():
                # Nearly every token of nearly every answer: no character is pending.
                text = piece.decode("ascii")
                sent += text if not self._stops else self._watch(text)
            else:
                text = self._decode(piece)
                sent += text if not self._stops else self._watch(text)
            if self.finish is not None:
                break
            if self.accepted >= limit:
                self.finish = "length"
                break
        return sent

    def flush(self) -> str:
        """What was held back, once, at the end: a stop string's start, an unfinished character."""
        rest = self._held
        if self._decoder is not None:
            rest += self._decoder.decode(b"", True)
        self._held, self._decoder = "", None
        return rest

    def _count_silent(self) -> None:
        self.silent_ids += 1
        if self.accepted <= self._unbilled_from:
            self._silent_before += 1

    def _hold_back(self) -> None:
        """The present id's text is held back, at least its end; all before it is out."""
        own = self.accepted > self._unbilled_from
        self._let_out = (self.accepted - 1, self.billable_tokens - own)

    def _decode(self, piece: bytes) -> str:
        decoder, starts = self._decoder, self._decoder is None
        if decoder is None:
            decoder = self._decoder = _utf8("replace")
        text = decoder.decode(piece)
        if not decoder.getstate()[0]:
            self._decoder = None
        elif (starts or text) and not self._held:
            self._hold_back()
        return text

    def _watch(self, text: str) -> str:
        """The part of held-back and new text that no stop string can begin in."""
        fresh = len(text)
        text = self._held + text
        starts = [at for at in map(text.find, self._stops) if at >= 0]
        if starts:
            self.finish = "stop"
            # What follows the stop string's start is never sent, a pending character neither.
            self._held, self._decoder = "", None
            return text[: min(starts)]
        keep = _possible_start(text, self._stops)
        if 0 < keep <= fresh:
            self._hold_back()
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _possible_start(text: str, stops: tuple[str, ...]) -> int:
    """The length of the longest end of `text` that is the beginning of a stop string."""
    longest = 0
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), longest, -1):
            if stop.startswith(text[len(text) - size :]):
                longest = size
                break
    return longest
