"""What whoever brings a payment may have us ask a chain, before any of it is known to be good.

A payment of nobody's costs its maker a signature, and us a call or two to a node that may be slow,
and may count them. So few are checked at once, no address takes all the places, and an address
whose payments come to nothing waits. What it costs to settle is bounded elsewhere: by balances.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from parhelion.allowance import Allowances
from parhelion.identity import site_of
from parhelion.words import Clock, Problem, ProblemCode

CHECKS_LIMIT = 32
"""At once on one network: at the 0.1 s of a public node, 300 payments a second."""

SITE_LIMIT = 8
"""Of one address, so that four of them have to agree to keep the others out."""

UNKNOWN_LIMIT = 16
"""Of all that a proxy speaks for, whose addresses are not known: half."""

WAITING_LIMIT = 128
"""Of one address, for one of its places: as many as an agent asks at once. They cost the chain
nothing; each holds its request."""

WAITING_IN_ALL_LIMIT = 1024

WAIT_S = 2.0
"""How long one waits for its place. Sooner refused, a client asks again in time."""

RETRY_S = 1

FAILED_AT_ONCE = 120.0
FAILED_PER_S = 2.0
"""Payments of one address that came to nothing. A wallet that runs dry has a few; an office behind
one address some more. Those that a proxy speaks for are not counted: one would stop them all."""

FAILED_ON_CHAIN_TIMES = 12.0
"""What a payment counts that was sent and failed: it cost us the network's fee."""


@dataclass(slots=True)
class _Site:
    """One address on one network, while it has something checked or waiting."""

    places: asyncio.Semaphore
    here: int = 0


@dataclass(slots=True)
class _Network:
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CHECKS_LIMIT))
    sites: dict[str, _Site] = field(default_factory=dict[str, _Site])


class Strangers:
    """Places to have a payment checked, by network and address (`site_of`, "" where unknown)."""

    def __init__(self, clock: Clock, *, wait_s: float = WAIT_S) -> None:
        self._clock = clock
        self._wait_s = wait_s
        self._networks: dict[str, _Network] = {}
        self._here = 0
        self._failures = Allowances(FAILED_PER_S, FAILED_AT_ONCE)

    @asynccontextmanager
    async def checking(self, network: str, address: str) -> AsyncGenerator[None, None]:
        """A place for as long as the chain is asked; Problem where there is none, or no more.

        A Problem PAYMENT_REQUIRED that is raised inside is a payment that came to nothing.
        """
        site = site_of(address)
        async with self._place(network, site):
            # Taken before it is known: of many at once each would find something left.
            if site and not self._failures.take(site, self._clock.monotonic_s()):
                raise _too_often()
            is_good = True
            try:
                yield
            except Problem as problem:
                is_good = problem.code is not ProblemCode.PAYMENT_REQUIRED
                raise
            finally:
                if site and is_good:
                    self._failures.give_back(site)

    def failed(self, address: str, times: float = 1.0) -> None:
        """A payment from there came to nothing, after it was found good."""
        site = site_of(address)
        if site:
            self._failures.give_back(site, -times)

    @asynccontextmanager
    async def _place(self, network: str, name: str) -> AsyncGenerator[None, None]:
        """A place of the address, then one of the network: who has many waits for his own."""
        found = self._networks.setdefault(network, _Network())
        most = SITE_LIMIT if name else UNKNOWN_LIMIT
        site = found.sites.setdefault(name, _Site(asyncio.Semaphore(most)))
        if site.here >= most + WAITING_LIMIT or self._here >= WAITING_IN_ALL_LIMIT:
            if not site.here:
                del found.sites[name]
            raise _busy()
        site.here += 1
        self._here += 1
        try:
            await self._enter(found, site)
            try:
                yield
            finally:
                found.places.release()
                site.places.release()
        finally:
            self._here -= 1
            site.here -= 1
            if not site.here:
                del found.sites[name]

    async def _enter(self, network: _Network, site: _Site) -> None:
        try:
            async with asyncio.timeout(self._wait_s):
                await site.places.acquire()
                try:
                    await network.places.acquire()
                except BaseException:
                    site.places.release()
                    raise
        except TimeoutError as error:
            raise _busy() from error


def _busy() -> Problem:
    return Problem(
        ProblemCode.OVERLOADED,
        "too many payments are being checked",
        hint="nothing was taken; send the same payment again after Retry-After",
        retry_after_s=RETRY_S,
    )


def _too_often() -> Problem:
    return Problem(
        ProblemCode.RATE_LIMITED,
        "too many payments from this address came to nothing",
        hint="look at why they were refused; nothing was taken, and nothing was asked now",
        retry_after_s=math.ceil(1 / FAILED_PER_S),
    )
