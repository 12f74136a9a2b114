"""Texts that killed the tokeniser host: refused for an hour, so that repeating one costs nobody."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

TERM_S = 3600.0
"""Long enough that a client's retries end; a fixed library or file is then tried again."""

CONVICTS_LIMIT = 1024
"""Each is 32 bytes of a text that cost two restarts; the oldest goes first."""


class Convicts:
    """What was found guilty, by sha256: the texts themselves are not kept."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._sentences: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sentences)

    def convict(self, text: bytes, why: str) -> None:
        """Remember for TERM_S that a text is refused, and why."""
        name = hashlib.sha256(text).digest()
        self._sentences[name] = (self._now_s() + TERM_S, why)
        self._sentences.move_to_end(name)
        if len(self._sentences) > CONVICTS_LIMIT:
            self._sentences.popitem(last=False)

    def verdict(self, text: bytes) -> str | None:
        """Why this text is refused; None when it was not found guilty within TERM_S."""
        name = hashlib.sha256(text).digest()
        free_at_s, why = self._sentences.get(name, (0.0, None))
        if why is not None and free_at_s <= self._now_s():
            del self._sentences[name]
            return None
        return why
