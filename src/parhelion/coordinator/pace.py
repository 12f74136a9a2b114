"""What one running attempt shows of its node's speed, and how far it is; pure, times are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parhelion.coordinator.registry import Node

WINDOW_S = 1.0
"""A long answer is measured this often, so that a node's new speed is known before its end."""


class Pace:
    """One attempt's times: a prefill sample at its first id, decode samples from then on.

    Decode is counted from the first frame with ids, and beside the mean number of streams that the
    node ran meanwhile.
    """

    __slots__ = (
        "_cached",
        "_closed",
        "_first",
        "_from_ids",
        "_from_s",
        "_from_streams",
        "_node",
        "_opened_s",
        "_prompt",
        "_room",
        "_sampled",
        "ids",
    )

    def __init__(
        self, node: Node, digest: str, prompt: int, cached: int, before: int, now_s: float
    ) -> None:
        room = node.rooms[digest]
        self._node = node
        self._room = room
        # A prompt behind another one, or known to be cached, says nothing of the prefill's speed.
        self._sampled = room.prefill_tokens == 0 and not cached
        self._prompt = max(0, prompt - cached)
        self._cached = cached
        self._opened_s = self._from_s = now_s
        self._from_ids, self._from_streams = 0, 0.0
        self._first = self._closed = False
        self.ids = before
        room.prefill_tokens += self._prompt
        room.ids_out += before

    def made(self, count: int, now_s: float) -> None:
        """So many ids were accepted."""
        if self._closed:
            return
        self.ids += count
        self._room.ids_out += count
        if not self._first:
            self._first = True
            if self.ids == count:
                self._room.note_first_id(now_s - self._opened_s)
            self._room.prefill_tokens -= self._prompt
            if self._sampled:
                self._room.speed.prefilled(self._prompt, now_s - self._opened_s)
            self._start(now_s)
        elif now_s - self._from_s >= WINDOW_S:
            self._sample(now_s)
            self._start(now_s)

    def close(self, last_s: float, said_cached: int) -> None:
        """The attempt is over; its last id came at `last_s`, and the node said what was cached.

        That word is believed only where it speaks against the node.
        """
        if self._closed:
            return
        self._closed = True
        self._room.ids_out -= self.ids
        if self._first:
            self._sample(last_s)
            if self._cached:
                self._room.note_cached(self._cached, said_cached)
        else:
            self._room.prefill_tokens -= self._prompt

    def _start(self, now_s: float) -> None:
        self._from_s, self._from_ids = now_s, self.ids
        self._from_streams = self._node.stream_seconds(now_s)

    def _sample(self, now_s: float) -> None:
        seconds = now_s - self._from_s
        if seconds > 0:
            streams = (self._node.stream_seconds(now_s) - self._from_streams) / seconds
            self._room.speed.decoded(self.ids - self._from_ids, seconds, max(1.0, streams))
