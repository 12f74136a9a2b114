"""What a running pool tells its person about nodes that come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from parhelion.bootstrap.coordinator import _tell_changes
from parhelion.coordinator import Health, NodeView


class Owner:
    """A coordinator whose state a test says."""

    def __init__(self) -> None:
        self.status: Any = "ready"
        self.names = ["amber"]
        self.look: Any = None

    def health(self) -> Health:
        return Health(status=self.status, model=None, nodes=1, need=1, local=True)

    def watch_nodes(self, look: Callable[[], None]) -> None:
        self.look = look

    def nodes(self) -> tuple[NodeView, ...]:
        return tuple(
            NodeView(
                name=name,
                peer=f"12D3KooW{name}",
                operator=f"node:12D3KooW{name}",
                state="ready",
                reason=None,
                models=(),
                slots=1,
                slots_busy=0,
                tokens_per_s=None,
                version="0.1.0",
                device="cpu",
                backend="echo",
                connected_at_ms=0,
                served=0,
                failed=0,
            )
            for name in self.names
        )


def test_a_node_that_leaves_is_news_and_one_that_leaves_a_draining_pool_is_none() -> None:
    for draining, told in ((False, [("amber",), ()]), (True, [("amber",)])):
        owner, heard = Owner(), []
        _tell_changes(owner, 1, lambda pool, heard=heard: heard.append(pool.ready))  # type: ignore[arg-type, misc]
        if draining:
            owner.status = "draining"
        owner.names = []
        owner.look()
        assert heard == told
