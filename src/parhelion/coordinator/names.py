"""What nodes may be called, kept as they come and go, so that a name is looked up at once; no I/O.

A word may be a peer id, the operator of several nodes, or a name, which several may have.
"""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple, Protocol


class Named(Protocol):
    """A node as names are looked up: the three that `/v1/nodes` shows."""

    @property
    def peer(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def operator(self) -> str: ...


class Called(NamedTuple):
    """A node's words beside its peer id."""

    name: str
    operator: str


class Names:
    """An index of nodes by peer id, operator and name."""

    def __init__(self) -> None:
        self._called: dict[str, Called] = {}
        self._by_operator: dict[str, set[str]] = {}
        self._by_name: dict[str, set[str]] = {}

    def add(self, node: Named) -> None:
        """A node is known; one of the same peer id is this one, whatever it was called."""
        self.discard(node.peer)
        called = self._called[node.peer] = Called(node.name, node.operator)
        self._by_operator.setdefault(called.operator, set()).add(node.peer)
        self._by_name.setdefault(called.name, set()).add(node.peer)

    def discard(self, peer: str) -> None:
        """A node is not known any more; nothing happens when it was not."""
        called = self._called.pop(peer, None)
        if called is not None:
            _discard(self._by_operator, called.operator, peer)
            _discard(self._by_name, called.name, peer)

    def by_id(self, word: str) -> Set[str]:
        """The peers behind a peer id or an operator."""
        here = {word} if word in self._called else set[str]()
        return here | self._by_operator.get(word, set())

    def by_name(self, word: str) -> Set[str]:
        """The peers that are called so."""
        return self._by_name.get(word, set())

    def name_of(self, peer: str) -> str | None:
        """What a peer is called; None where it is not known."""
        called = self._called.get(peer)
        return None if called is None else called.name


def _discard(index: dict[str, set[str]], word: str, peer: str) -> None:
    peers = index[word]
    peers.discard(peer)
    if not peers:
        del index[word]
