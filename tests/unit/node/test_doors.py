"""Where a node listens for its neighbours: on its own network, or nowhere."""

from __future__ import annotations

import asyncio

import pytest

from parhelion.identity import NodeKey
from parhelion.link import parse_address
from parhelion.node.doors import Doors

ADDRESS = parse_address("127.0.0.1:9")


async def test_a_node_listens_where_it_reaches_its_coordinator_and_stays_there(
    key: NodeKey,
) -> None:
    doors = Doors(key, ADDRESS, listens=True)
    _, direct = await doors.open_at("127.0.0.1")
    assert len(direct) == 1 and direct[0].startswith("127.0.0.1:")
    assert (await doors.open_at("127.0.0.1"))[1] == direct, "each session would open another port"
    await doors.close()
    host, port = direct[0].split(":")
    with pytest.raises(OSError):
        await asyncio.open_connection(host, int(port))


@pytest.mark.parametrize(
    ("here", "listens"), [("127.0.0.1", False), ("203.0.113.7", True), (None, True)]
)
async def test_it_listens_nowhere_else(here: str | None, listens: bool, key: NodeKey) -> None:
    doors = Doors(key, ADDRESS, listens)
    assert (await doors.open_at(here))[1] == ()
    await doors.close()


async def test_a_port_that_cannot_be_had_leaves_the_relay(key: NodeKey) -> None:
    doors = Doors(key, ADDRESS, listens=True)
    # A private address of no interface of this machine.
    assert (await doors.open_at("10.255.254.253"))[1] == ()
