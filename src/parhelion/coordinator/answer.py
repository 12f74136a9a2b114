"""What a dialect gets for an ask: chunks to send, and a way to say that the client left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from parhelion.coordinator.relay import Relay
from parhelion.words import Bought, Chunk, Evidence, Problem, Receipt, Usage, kin

DISCONNECT_WAIT_S = 5.0
"""Settling takes a signature's 2 s and a commit; nobody waits for more."""


class Answer:
    """A stream of chunks; the last one carries `finish_reason` and `usage`.

    A Problem is raised where the stream is lost. `__anext__` may be cancelled and called again:
    nothing is lost by it.
    """

    def __init__(self, relay: Relay, life: asyncio.Task[None]) -> None:
        order = relay.order
        self.request = order.ask.request
        self.model = order.quote.model.id
        self.receipt = kin("rcpt", self.request)
        self.bought = order.grant.bought
        self.prompt_tokens = len(order.quote.prompt_ids)
        self._relay = relay
        self._life = life
        self._ended = False

    def nodes(self) -> tuple[str, ...]:
        """Peer ids of who makes it now, in order of the route; none while nobody does."""
        last = self._relay.last
        # A short one may be over, and its attempts gone, before its first text is taken.
        if isinstance(last, Chunk) and last.usage is not None:
            # The last stretch's: of an answer that moved, `nodes` are all who ever made it.
            return last.usage.segments[-1] if last.usage.segments else ()
        return self._relay.nodes

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        relay = self._relay
        relay.acknowledge()
        while True:
            if text := relay.take():
                return Chunk(text=text)
            if relay.last is not None:
                return self._last(relay.last)
            await relay.more()

    async def whole(self) -> Chunk:
        """The whole answer as one chunk, once it is there: nothing has gone out before.

        So nothing is journalled, and a crash costs the client of an unstreamed answer nothing.
        """
        relay = self._relay
        last = self._last(await relay.over())
        return Chunk(text=relay.text, finish_reason=last.finish_reason, usage=last.usage)

    async def disconnect(self) -> None:
        """The client left: what was delivered is settled, the node is told to stop."""
        self._relay.disconnect()
        await asyncio.wait([self._life], timeout=DISCONNECT_WAIT_S)

    def _last(self, last: Chunk | Problem) -> Chunk:
        if self._ended:
            raise StopAsyncIteration
        self._ended = True
        if isinstance(last, Problem):
            raise last
        return last


class Replayed:
    """A finished answer told again from its evidence: free, with the same ids and receipt."""

    def __init__(
        self, request: str, receipt: Receipt, evidence: Evidence, bought: Bought | None
    ) -> None:
        self.request = request
        self.model = receipt.model
        self.receipt = receipt.id
        self.bought = bought
        self.prompt_tokens = receipt.prompt_tokens
        unused_micro = 0 if bought is None else bought.amount_micro - int(receipt.cost_micro)
        usage = usage_of(receipt, kin("hold", request), str(unused_micro))
        chunks = [Chunk(text=evidence.text)] if evidence.text else []
        self._chunks = iter([*chunks, Chunk(finish_reason=receipt.finish_reason, usage=usage)])
        self._text = evidence.text
        self._nodes = usage.nodes

    def nodes(self) -> tuple[str, ...]:
        """Peer ids of who made it, in order of the route."""
        return self._nodes

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration

    async def whole(self) -> Chunk:
        """The whole answer as one chunk."""
        *_, last = self._chunks
        return Chunk(text=self._text, finish_reason=last.finish_reason, usage=last.usage)

    async def disconnect(self) -> None:
        """Nothing runs, so nothing ends."""


def usage_of(receipt: Receipt, hold: str, credited: str) -> Usage:
    """What the last chunk says of an answer: the counts and the cost of its receipt."""
    return Usage(
        prompt_tokens=receipt.prompt_tokens,
        completion_tokens=receipt.completion_tokens,
        cached_tokens=receipt.cached_tokens,
        cost=receipt.cost_micro,
        asset=receipt.rate.asset,
        nodes=tuple(dict.fromkeys(node for one in receipt.segments for node in one.nodes)),
        segments=tuple(one.nodes for one in receipt.segments),
        route="fallback" if receipt.route == "fallback" else "pool",
        migrations=receipt.migrations,
        hold=hold,
        receipt=receipt.id,
        credited=credited,
    )
