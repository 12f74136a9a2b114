"""How other nodes are reached from this one, and this one by them, on the way to a coordinator."""

from __future__ import annotations

import logging

from parhelion.identity import NodeKey
from parhelion.link import Address, PairListener, Pairs, is_near
from parhelion.node.pipes import OpenPipe

log = logging.getLogger("parhelion.node")


class Doors:
    """A listener on this machine's own network, and links by tickets of the coordinator there."""

    def __init__(self, key: NodeKey, address: Address, listens: bool) -> None:
        self._key = key
        self._address = address
        self._listens = listens
        self._listener: PairListener | None = None
        self._host: str | None = None

    async def open_at(self, here: str | None) -> tuple[OpenPipe, tuple[str, ...]]:
        """How links are made by a node with this address of its own; and where it listens.

        A node whose address is public, or unknown, listens nowhere: the relay remains.
        """
        if here != self._host:
            await self.close()
            self._host = here
            if self._listens and here is not None and is_near(here):
                self._listener = await self._listen(here)
        pairs = Pairs(self._key, self._address, listener=self._listener, here=here)
        at = None if self._listener is None else self._listener.address
        return pairs.open, () if at is None else (at,)

    async def close(self) -> None:
        """Listen no more; links that carry go on."""
        listener, self._listener, self._host = self._listener, None, None
        if listener is not None:
            await listener.stop()

    async def _listen(self, host: str) -> PairListener | None:
        listener = PairListener()
        try:
            await listener.start(host)
        except OSError as error:
            # A firewall, or no port left: links go by the coordinator's relay.
            log.warning("no direct links", extra={"host": host, "cause": str(error)})
            return None
        return listener
