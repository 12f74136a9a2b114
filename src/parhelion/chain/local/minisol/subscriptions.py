"""Subscriptions over a WebSocket: `signatureSubscribe` and `slotSubscribe`, which @solana/kit's
`sendAndConfirmTransaction` and solana-py's WebSocket client wait on.

One task serves all lines, and only while somebody subscribes: it sleeps until a slot begins or
something lands.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import msgspec
from solders.signature import Signature

from parhelion.chain.local.minisol.chain import Chain
from parhelion.chain.local.minisol.methods_transactions import status_of
from parhelion.chain.local.minisol.params import VERSION, Call
from parhelion.chain.local.minisol.problems import RpcError, invalid_params
from parhelion.chain.local.minisol.slots import FINALIZED_AFTER_SLOTS, LAG_SLOTS, Commitment

log = logging.getLogger("parhelion.minisol")

SUBSCRIPTIONS_LIMIT = 100
"""Of one line."""


@dataclass(frozen=True, slots=True)
class Watch:
    """A transaction that somebody waits for; None for the slots themselves."""

    signature: Signature
    commitment: Commitment


@dataclass(slots=True, eq=False)
class Line:
    """One WebSocket and what it waits for."""

    hub: Hub
    send: Callable[[bytes], Awaitable[None]]
    watches: dict[int, Watch | None] = field(default_factory=dict[int, "Watch | None"])

    def methods(self) -> dict[str, Callable[[Call], Any]]:
        """What only a WebSocket can ask."""
        return {
            "signatureSubscribe": self.subscribe_signature,
            "signatureUnsubscribe": self.unsubscribe,
            "slotSubscribe": self.subscribe_slot,
            "slotUnsubscribe": self.unsubscribe,
        }

    def subscribe_signature(self, call: Call) -> int:
        """Tell once when a transaction reaches a commitment, or has reached it already."""
        text = call.at(0, "a signature")
        try:
            signature = Signature.from_string(text)
        except (ValueError, TypeError) as error:
            raise invalid_params(f"Invalid param: {error}") from error
        return self._add(Watch(signature, call.config(1).commitment()))

    def subscribe_slot(self, call: Call) -> int:
        """Tell of each new slot."""
        return self._add(None)

    def unsubscribe(self, call: Call) -> bool:
        """Tell no more."""
        number = call.integer(0, "a subscription", 2**53)
        if number not in self.watches:
            raise invalid_params("Invalid subscription id.")
        del self.watches[number]
        return True

    def _add(self, watch: Watch | None) -> int:
        if len(self.watches) >= SUBSCRIPTIONS_LIMIT:
            raise RpcError(-32006, f"Too many subscriptions; max {SUBSCRIPTIONS_LIMIT}")
        number = next(self.hub.numbers)
        self.watches[number] = watch
        self.hub.start()
        return number


class Hub:
    """All lines, and the task that tells them."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._lines: set[Line] = set()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.numbers = count(1)
        chain.on_landed = self._news.set

    @property
    def lines(self) -> int:
        """How many are open."""
        return len(self._lines)

    def open(self, send: Callable[[bytes], Awaitable[None]]) -> Line:
        """A new line."""
        line = Line(self, send)
        self._lines.add(line)
        return line

    async def close(self, line: Line) -> None:
        """A line is gone; the last one takes the task along."""
        self._lines.discard(line)
        if not self._lines and self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    def start(self) -> None:
        """Wake the task, or start it."""
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._tell(), name="minisol-subscriptions")

    async def _tell(self) -> None:
        told_slot = self._chain.now()
        while any(line.watches for line in self._lines):
            await self._next(told_slot)
            slot = self._chain.now()
            for line in list(self._lines):
                for message in self._due(line, told_slot, slot):
                    await self._send(line, message)
            told_slot = slot

    async def _next(self, slot: int) -> None:
        """Sleep until the next slot begins, or something lands or is asked for."""
        left_s = self._chain.timeline.starts_s(slot + 1) - self._chain.clock.monotonic_s()
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                await self._news.wait()
        except TimeoutError:
            pass  # A slot began.
        self._news.clear()

    async def _send(self, line: Line, message: dict[str, Any]) -> None:
        try:
            await line.send(msgspec.json.encode(message))
        except (TimeoutError, OSError, RuntimeError) as error:
            # Its own task sees the end of it too; it only must not hold up the others again.
            log.info("a subscriber is gone", extra={"cause": str(error)})
            line.watches.clear()

    def _due(self, line: Line, told_slot: int, slot: int) -> list[dict[str, Any]]:
        due: list[dict[str, Any]] = []
        for number, watch in list(line.watches.items()):
            if watch is None:
                due += [_slot_news(number, each) for each in range(told_slot + 1, slot + 1)]
                continue
            status = status_of(self._chain, watch.signature)
            if status is not None and slot - status["slot"] >= LAG_SLOTS[watch.commitment]:
                del line.watches[number]
                due.append(_signature_news(number, status))
        return due


def _slot_news(number: int, slot: int) -> dict[str, Any]:
    root = max(0, slot - FINALIZED_AFTER_SLOTS)
    return _news("slotNotification", number, {"slot": slot, "parent": slot - 1, "root": root})


def _signature_news(number: int, status: dict[str, Any]) -> dict[str, Any]:
    context = {"apiVersion": VERSION, "slot": status["slot"]}
    result = {"context": context, "value": {"err": status["err"]}}
    return _news("signatureNotification", number, result)


def _news(method: str, number: int, result: dict[str, Any]) -> dict[str, Any]:
    params = {"result": result, "subscription": number}
    return {"jsonrpc": "2.0", "method": method, "params": params}
