"""How long a model's answers are: a measured mean, because max_tokens is only an upper bound."""

from __future__ import annotations

WEIGHT = 0.05
"""Answers differ a lot; twenty of them outweigh what was before."""


class Lengths:
    """Mean output ids of an answer by model; as many entries as the catalogue has models."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def note(self, digest: str, ids: int) -> None:
        """An answer ended after so many ids."""
        known = self._means.get(digest)
        self._means[digest] = ids if known is None else known + WEIGHT * (ids - known)

    def expected(self, digest: str, max_tokens: int) -> int:
        """Ids to expect of the next answer; its bound until an answer of the model has ended."""
        known = self._means.get(digest)
        return max_tokens if known is None else max(1, min(max_tokens, round(known)))
