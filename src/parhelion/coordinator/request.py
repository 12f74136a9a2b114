"""An ask on its way to its first node: what was settled about it, and who waits for it."""

from __future__ import annotations

import asyncio

from parhelion.coordinator.relay import Relay
from parhelion.coordinator.route import Need
from parhelion.models import Vocabulary
from parhelion.payments import Replay
from parhelion.words import Ask, Credentials, Quote


class Request:
    """`opened` resolves when the caller may go on."""

    __slots__ = (
        "ask",
        "credentials",
        "left",
        "need",
        "offer",
        "opened",
        "relay",
        "shunned",
        "started_s",
        "vocabulary",
    )

    def __init__(
        self,
        ask: Ask,
        credentials: Credentials,
        offer: Quote,
        need: Need,
        vocabulary: Vocabulary,
        started_s: float,
        shunned: frozenset[str],
    ) -> None:
        self.ask = ask
        self.credentials = credentials
        self.offer = offer
        self.need = need
        self.vocabulary = vocabulary
        self.started_s = started_s
        self.shunned = shunned
        self.relay: Relay | None = None
        self.left = False
        self.opened: asyncio.Future[Relay | Replay] = asyncio.get_running_loop().create_future()

    def open(self, way: Relay | Replay) -> None:
        """The caller may go on."""
        if not self.opened.done():
            self.opened.set_result(way)

    def refuse(self, error: Exception) -> None:
        """The caller gets the error, unless it went on or left already."""
        if not self.opened.done():
            self.opened.set_exception(error)

    def leave(self) -> None:
        """The client left before its job was open."""
        self.left = True
        if self.relay is not None:
            self.relay.disconnect()
