"""Pools and nodes of one network find each other, by real mDNS on this machine's loopback."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from parhelion.bootstrap import SystemClock, knock, lan
from parhelion.config import Config, LanConfig
from parhelion.identity import NodeKey
from parhelion.link import Address, LanPool, Sought, announced, searching
from parhelion.testing.processes import Running
from parhelion.words import Problem

pytest.importorskip("zeroconf", reason="zeroconf is not installed: make install")

LOOPBACK = ("127.0.0.1",)
SEARCH_S = 1.5

ANNOUNCED_S = 10.0
"""A record is announced after three probes, which take a second."""


def settings(data: Path) -> Config:
    return Config(data=str(data), lan=LanConfig(interfaces=LOOPBACK))


def pool(key: NodeKey, port: int, name: str = "lab") -> LanPool:
    return LanPool(name=name, peer=key.peer, hosts=LOOPBACK, port=port)


async def heard(peers: set[str], wait_s: float = ANNOUNCED_S) -> dict[str, LanPool]:
    """The pools with these peer ids, as they answer."""
    found: dict[str, LanPool] = {}
    async with searching(LOOPBACK, wait_s) as search:
        while not peers <= set(found) and (one := await search.next()) is not None:
            found[one.peer] = one
    return {peer: found[peer] for peer in peers & set(found)}


async def test_what_is_announced_is_found_and_what_has_left_is_not() -> None:
    one, two = NodeKey(os.urandom(32)), NodeKey(os.urandom(32))
    async with announced(pool(one, 3001), LOOPBACK), announced(pool(two, 3002, "b"), LOOPBACK):
        found = await heard({one.peer, two.peer})
        assert found == {one.peer: pool(one, 3001), two.peer: pool(two, 3002, "b")}
    assert await heard({one.peer}, wait_s=0.5) == {}


async def test_a_record_that_borrows_a_peer_id_is_passed_over(
    plain_pool: Running, tmp_path: Path
) -> None:
    peer = str(plain_pool.ready["coordinator"])
    with_socket = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = with_socket.sockets[0].getsockname()[1]
    liar = LanPool(name="liar", peer=peer, hosts=LOOPBACK, port=port)
    found, tried = await lan._first(settings(tmp_path), (*liar.addresses(), *await addresses(peer)))
    with_socket.close()
    assert found is not None and tried is None
    assert found.url == plain_pool.api


async def addresses(peer: str) -> tuple[Any, ...]:
    return (await heard({peer}))[peer].addresses()


async def test_only_the_coordinator_that_proves_the_id_is_taken(
    plain_pool: Running, tmp_path: Path
) -> None:
    mine = str(plain_pool.ready["coordinator"])
    other, nobody = NodeKey(os.urandom(32)), NodeKey(os.urandom(32))
    port = urlsplit(plain_pool.api).port
    assert port is not None
    folders = [tmp_path / name for name in ("a", "b", "c", "d")]
    # Somebody says that he is this other one, at an address where the pool proves its own id.
    async with announced(pool(other, port, "another"), LOOPBACK):
        await heard({other.peer})
        found, refused, missing, several = await asyncio.gather(
            lan.find(settings(folders[0]), Sought(peer=mine, invite="inv"), SEARCH_S),
            lan.find(settings(folders[1]), Sought(peer=other.peer), SEARCH_S),
            lan.find(settings(folders[2]), Sought(peer=nobody.peer), SEARCH_S),
            lan.look(settings(folders[3]), SEARCH_S),
            return_exceptions=True,
        )
    assert not isinstance(found, BaseException)
    assert (found.url, found.peer, found.invite) == (plain_pool.api, mine, "inv")
    # Found is who it is; whether it lets this node in is what the knock asks.
    with pytest.raises(Problem, match="this invite is unknown"):
        await knock(settings(folders[0]), found)
    assert isinstance(refused, Problem) and refused.code == "link_refused"
    assert "another coordinator answered" in refused.message
    assert isinstance(missing, Problem) and missing.code == "link_broken"
    assert nobody.peer in missing.message and "join -s HOST:PORT" in missing.hint
    assert not isinstance(several, BaseException)
    assert {mine, other.peer} <= {one.peer for one in several}


async def test_a_node_that_was_given_an_id_finds_its_pool_where_it_has_moved(
    plain_pool: Running, free_port: int
) -> None:
    peer, key = str(plain_pool.ready["coordinator"]), NodeKey(os.urandom(32))
    before = Address(url=f"http://127.0.0.1:{free_port}", peer=peer)
    follower = lan.Follower(LOOPBACK, SystemClock(), SEARCH_S)
    carrier = await follower.dial(before, key)
    assert carrier.peer == peer
    await carrier.abort()
    # Nobody else is taken for it, and the network is not asked again at once.
    other = Address(url=before.url, peer=NodeKey(os.urandom(32)).peer)
    stranger = lan.Follower(LOOPBACK, SystemClock(), 0.5)
    for _ in range(2):
        with pytest.raises(Problem, match="nobody listens"):
            await stranger.dial(other, key)


def can_isolate() -> bool:
    unshare = shutil.which("unshare")
    if unshare is None or shutil.which("ip") is None:
        return False
    tried = subprocess.run([unshare, "--net", "ip", "link", "set", "lo", "up"], capture_output=True)
    return tried.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_isolate(), reason="no network namespace of its own is allowed here")
def test_the_only_pool_of_a_network_is_joined_without_an_address(
    tmp_path: Path, lan: dict[str, str], smollm2: Path
) -> None:
    script = (
        "ip link set lo up\n"
        f"{sys.executable} -m parhelion.testing.pool --data {tmp_path}/pool >{tmp_path}/ready &\n"
        "pool=$!\n"
        f"until grep -q announced {tmp_path}/log; do sleep 0.1; done\n"
        f"{sys.executable} -m parhelion join --json --data {tmp_path}/node >{tmp_path}/joined &\n"
        "node=$!\n"
        f"until grep -q coordinator {tmp_path}/joined; do kill -0 $node || break; sleep 0.1; done\n"
        "kill $node; wait $node; kill $pool; wait $pool\n"
    )
    with (tmp_path / "log").open("wb") as log:
        subprocess.run(
            ["unshare", "--net", "sh", "-c", script],
            stderr=log,
            env={**os.environ, **lan},
            timeout=60,
            check=True,
        )
    ready, joined = ((tmp_path / name).read_text() for name in ("ready", "joined"))
    assert joined, (tmp_path / "log").read_text()
    peer = joined.partition('"coordinator":"')[2][:52]
    assert peer and peer in ready
