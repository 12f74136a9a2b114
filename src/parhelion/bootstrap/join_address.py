"""What another machine says after `join -s`, good for days whenever it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parhelion.bootstrap.reach import Reach
from parhelion.config import LOOPBACK, Config
from parhelion.identity import Mode

if TYPE_CHECKING:
    from parhelion.api.rooms import Rooms

INVITE_USES = 1000
INVITE_TTL_S = 7 * 24 * 3600
"""The printed join command serves a lab for a week; `parhelion run` again prints a new one."""

FRESH_S = INVITE_TTL_S / 2
"""Whoever asks later than this gets a new one: what a page shows is good for half a week."""


def admission(config: Config) -> Mode:
    """Who may join: on a loopback bind who comes from this machine, else an invite is asked."""
    if config.nodes.admit != "auto":
        return config.nodes.admit
    # Not open: a reverse proxy on this machine brings strangers to a loopback bind as well.
    return "near" if config.api.host in LOOPBACK else "invite"


class JoinAddress:
    """The address, the coordinator's peer id, and an invite where one is needed."""

    def __init__(self, rooms: Rooms, reach: Reach) -> None:
        self._rooms = rooms
        self._reach = reach
        self._made: tuple[str, float] | None = None

    async def now(self) -> str:
        """The address as it is good for days from now; asked again it makes no new invite."""
        if admission(self._rooms.config) != "invite":
            return self._reach.join
        now_s = self._rooms.clock.monotonic_s()
        if self._made is None or now_s - self._made[1] > FRESH_S:
            invite = await self._rooms.invites.create(uses=INVITE_USES, ttl_s=INVITE_TTL_S)
            self._made = (f"{self._reach.join}#{invite}", now_s)
        return self._made[0]
