"""Finding a pool on this network, and seeing that it is the one that was meant."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

from parhelion.bootstrap.node import prove
from parhelion.config import Config
from parhelion.identity import NodeKey
from parhelion.link import (
    BROWSE_S,
    Address,
    Carrier,
    FromCoordinator,
    LanPool,
    Sought,
    connect,
    searching,
)
from parhelion.words import Clock, Problem, ProblemCode

SEARCH_AGAIN_S = 30.0
"""A pool that is switched off for the night is not asked for every few seconds."""

log = logging.getLogger("parhelion.bootstrap")


async def look(config: Config, wait_s: float = BROWSE_S) -> tuple[LanPool, ...]:
    """Every pool that answers on this network; Problem LINK_BROKEN when none does."""
    found: dict[str, LanPool] = {}
    async with searching(config.lan.interfaces, wait_s) as search:
        while (pool := await search.next()) is not None:
            found.setdefault(pool.peer, pool)
    if not found:
        raise _nobody("no pool answers on this network")
    return tuple(sorted(found.values(), key=lambda pool: (pool.name, pool.peer)))


async def find(config: Config, sought: Sought, wait_s: float = BROWSE_S) -> Address:
    """Where the coordinator with the peer id that is sought answers, and has proven its key.

    A record may be anybody's: each that names the id is tried until one holds. Problem LINK_BROKEN
    with what the last one said when none does.
    """
    assert sought.peer is not None
    tried: Problem | None = None
    async with searching(config.lan.interfaces, wait_s) as search:
        while (pool := await search.next()) is not None:
            if pool.peer != sought.peer:
                continue
            found, tried = await _first(config, pool.addresses(sought.invite))
            if found is not None:
                return found
    if tried is not None:
        raise tried
    raise _nobody(f"nobody on this network says that it is {sought.peer}")


class Follower:
    """Dials a coordinator, and looks for its peer id on this network when it does not answer.

    Addresses of a LAN change: a node that was told an id alone finds its pool again by it.
    """

    def __init__(self, interfaces: Sequence[str], clock: Clock, wait_s: float = BROWSE_S) -> None:
        self._interfaces = interfaces
        self._clock = clock
        self._wait_s = wait_s
        self._moved: Address | None = None
        self._searched_s: float | None = None

    async def dial(self, address: Address, key: NodeKey) -> Carrier[FromCoordinator]:
        """A carrier to the coordinator that `address` names, there or where it is now."""
        try:
            return await connect(self._moved or address, key)
        except Problem:
            now_s = self._clock.monotonic_s()
            if self._searched_s is not None and now_s - self._searched_s < SEARCH_AGAIN_S:
                raise
            self._searched_s = now_s
            found = await self._search(address, key)
            if found is None:
                raise
            return found

    async def _search(self, address: Address, key: NodeKey) -> Carrier[FromCoordinator] | None:
        try:
            async with searching(self._interfaces, self._wait_s) as search:
                while (pool := await search.next()) is not None:
                    candidates = pool.addresses(address.invite) if pool.peer == address.peer else ()
                    for candidate in candidates:
                        with contextlib.suppress(Problem):  # A record may be anybody's.
                            carrier = await connect(candidate, key)
                            self._moved = candidate
                            return carrier
        except Problem as problem:
            log.warning("the pool is not looked for", extra={"cause": problem.message})
        return None


async def reach(config: Config, pool: LanPool) -> Address:
    """The address of a pool at which its coordinator proves the id that the pool's record names."""
    found, tried = await _first(config, pool.addresses())
    if found is None:
        raise tried or _nobody(f"{pool.name} has no address")
    return found


async def _first(
    config: Config, addresses: Sequence[Address]
) -> tuple[Address | None, Problem | None]:
    """The first address that holds, and why the last one before it did not."""
    tried: Problem | None = None
    for address in addresses:
        tried = await _prove(config, address)
        if tried is None:
            return address, None
    return None, tried


async def _prove(config: Config, address: Address) -> Problem | None:
    try:
        return await prove(config, address)
    except Problem as problem:
        if problem.code is not ProblemCode.LINK_REFUSED:
            raise  # This node's own folder: no other address changes it.
        return problem


def _nobody(message: str) -> Problem:
    return Problem(
        ProblemCode.LINK_BROKEN,
        message,
        hint="is one running with --host 0.0.0.0? Many networks (guests, other floors, VPNs) carry "
        "no such questions: give its address then, join -s HOST:PORT",
    )
