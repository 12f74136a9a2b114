"""The desks that offers are made at: each network as it is now, with a recent blockhash at hand.

A 402 asks no chain. The hint is fetched beside it, for those that come after, and only while
somebody asks: an idle pool calls nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from parhelion.chain.rpc import RpcRefused, RpcUnavailable
from parhelion.chain.solana import RpcCall
from parhelion.payments.x402.networks import Family, Payee
from parhelion.payments.x402.offers import Desk, Hint
from parhelion.words import Clock

log = logging.getLogger("parhelion.payments")

FRESH_S = 5.0
"""A dozen slots; whoever asks later has a new one fetched for those after him."""

STALE_S = 20.0
"""A blockhash lives for about a minute: with two thirds of it left a person can still pay."""

FETCH_S = 5.0
"""What a chain's node gets to answer; the next try waits for FRESH_S in any case."""


@dataclass(slots=True)
class _Kept:
    """The latest hint of a network, when it was asked for, and when asking was last begun."""

    hint: Hint | None = None
    asked_at_s: float = 0.0
    tried_at_s: float | None = None
    task: asyncio.Task[None] | None = None


class _Value(msgspec.Struct, rename="camel"):
    blockhash: str
    last_valid_block_height: int


class _Latest(msgspec.Struct):
    value: _Value


class Desks:
    """Every network that we are paid on; `fee_payers` and `rpcs` are by CAIP-2 id."""

    def __init__(
        self,
        payees: Sequence[Payee],
        fee_payers: Mapping[str, str],
        rpcs: Mapping[str, RpcCall],
        clock: Clock,
    ) -> None:
        self._desks = tuple(
            Desk(payee=payee, fee_payer=fee_payers.get(payee.network.id, "")) for payee in payees
        )
        self._rpcs = rpcs
        self._clock = clock
        self._kept = {
            payee.network.id: _Kept()
            for payee in payees
            if payee.network.family is Family.SOLANA and payee.network.id in rpcs
        }
        self._closed = False

    def now(self) -> tuple[Desk, ...]:
        """One desk a network, the preferred first; never waits."""
        return tuple(self._with_hint(desk) for desk in self._desks)

    async def freshen(self, network: str) -> float | None:
        """The age in seconds of a network's hint, after asking anew for one older than FRESH_S.

        For who signs with it by hand, and has to read first; waits FETCH_S at most. None where
        there is none to be had; then an offer has none either.
        """
        kept = self._kept.get(network)
        if kept is None:
            return None
        now_s = self._clock.monotonic_s()
        if kept.hint is None or now_s - kept.asked_at_s >= FRESH_S:
            self._refresh(network, kept, now_s)
            if kept.task is not None:
                # Whoever else waits for it goes on waiting when this one leaves.
                await asyncio.wait([kept.task])
        age_s = self._clock.monotonic_s() - kept.asked_at_s
        return None if kept.hint is None or age_s > STALE_S else age_s

    async def close(self) -> None:
        """Stop asking; what is under way is given up."""
        self._closed = True
        tasks = [kept.task for kept in self._kept.values() if kept.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _with_hint(self, desk: Desk) -> Desk:
        kept = self._kept.get(desk.payee.network.id)
        if kept is None:
            return desk
        now_s = self._clock.monotonic_s()
        self._refresh(desk.payee.network.id, kept, now_s)
        if kept.hint is None or now_s - kept.asked_at_s > STALE_S:
            return desk
        return msgspec.structs.replace(desk, hint=kept.hint)

    def _refresh(self, network: str, kept: _Kept, now_s: float) -> None:
        """Have a new hint fetched where this one is old; one call at a time."""
        is_due = kept.tried_at_s is None or now_s - kept.tried_at_s >= FRESH_S
        if self._closed or kept.task is not None or not is_due:
            return
        kept.tried_at_s = now_s
        kept.task = asyncio.create_task(self._fetch(network, kept), name=f"hint-{network}")

    async def _fetch(self, network: str, kept: _Kept) -> None:
        assert kept.tried_at_s is not None
        asked_at_s = kept.tried_at_s
        try:
            async with asyncio.timeout(FETCH_S):
                how = {"commitment": "confirmed"}
                told = await self._rpcs[network]("getLatestBlockhash", [how])
            latest = msgspec.convert(told, _Latest).value
        except (RpcRefused, RpcUnavailable, TimeoutError, msgspec.ValidationError) as error:
            # Clients ask the chain themselves then, as they would without us.
            log.info("no blockhash for offers", extra={"network": network, "cause": str(error)})
        else:
            # Its age counts from before the call: an answer that took long is as old as that.
            kept.asked_at_s = asked_at_s
            kept.hint = Hint(
                blockhash=latest.blockhash,
                last_valid_block_height=latest.last_valid_block_height,
            )
        finally:
            kept.task = None
