"""An ask on its way to its first node: what was settled about it, and who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from parhelion.coordinator.registry import Node
from parhelion.coordinator.relay import Relay
from parhelion.coordinator.route import Need
from parhelion.models import Vocabulary
from parhelion.payments import Buyer, Replay
from parhelion.words import Ask, Quote


class Request:
    """`opened` resolves when the caller may go on."""

    __slots__ = (
        "address",
        "ask",
        "buyer",
        "leave_queue",
        "left",
        "need",
        "offer",
        "opened",
        "relay",
        "reserved",
        "started_s",
        "vocabulary",
    )

    def __init__(
        self,
        ask: Ask,
        buyer: Buyer,
        address: str,
        offer: Quote,
        need: Need,
        vocabulary: Vocabulary,
        started_s: float,
    ) -> None:
        self.ask = ask
        self.buyer = buyer
        self.address = address
        self.offer = offer
        self.need = need
        self.vocabulary = vocabulary
        self.started_s = started_s
        self.relay: Relay | None = None
        self.reserved: Node | None = None
        """A slot that was reserved before the payment was settled, until its first attempt."""
        self.leave_queue: Callable[[], None] | None = None
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
        elif self.leave_queue is not None:
            self.leave_queue()
