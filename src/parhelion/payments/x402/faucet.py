"""Play money for a wallet in a browser on this machine: LOCAL networks only, and only so often."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence

from parhelion.chain.local import gifts
from parhelion.chain.rpc import RpcRefused, RpcUnavailable
from parhelion.chain.solana import RpcCall
from parhelion.chain.wallet import holdings
from parhelion.payments.x402.networks import Family, Payee, address_form, is_address
from parhelion.payments.x402.prepared import WALLET_SHOWN_CHARS, spoken
from parhelion.words import Clock, Problem, ProblemCode, Record

GIFT_MICRO = 20_000_000
"""$20: the largest top-up once, or twenty of the usual ones."""

GIFTS_PER_HOUR_LIMIT = 60
"""In all. A person takes one for each wallet; a program that asks on and on only fills the file of
a chain that is never emptied."""

HOUR_S = 3600.0

GIVE_WAIT_S = 5.0
SEEN_WAIT_S = 5.0
"""A local chain confirms a gift in a slot or two; whoever pays from it at once must find it."""

LOOK_EVERY_S = 0.1
"""A quarter of a slot. JSON-RPC over HTTP tells nobody of anything by itself."""


class Gift(Record, frozen=True, kw_only=True):
    """What was given, in which transaction."""

    transaction: str
    amount_micro: int
    asset: str


class Faucet:
    """Gives play money on the LOCAL networks of a pool; `rpcs` are by CAIP-2 id."""

    def __init__(
        self,
        payees: Sequence[Payee],
        rpcs: Mapping[str, RpcCall],
        clock: Clock,
        *,
        seen_wait_s: float = SEEN_WAIT_S,
    ) -> None:
        self._local = {each.network.id: each.network for each in payees if each.network.is_local}
        self._rpcs = rpcs
        self._clock = clock
        self._seen_wait_s = seen_wait_s
        self._given_at_s: deque[float] = deque(maxlen=GIFTS_PER_HOUR_LIMIT)

    async def give(self, id: str, address: str) -> Gift:
        """GIFT_MICRO for an address, once it can be seen there; Problem where none is given."""
        network = self._local.get(id)
        if network is None:
            raise Problem(
                ProblemCode.NOT_FOUND,
                f"nobody gives money away on {id[:64]!r}",
                hint=f"only on {', '.join(self._local)}" if self._local else _REAL,
                param="network",
            )
        name = spoken(network)
        if not is_address(network, address):
            raise Problem(
                ProblemCode.INVALID_REQUEST,
                f"{address[:WALLET_SHOWN_CHARS]!r} is no address on {name}",
                hint=f"an address on {name} is {address_form(network)}",
                param="address",
            )
        self._count()
        rpc = self._rpcs[id]
        look = holdings.on_solana if network.family is Family.SOLANA else holdings.on_evm
        try:
            async with asyncio.timeout(GIVE_WAIT_S):
                before_micro = (await look(rpc, address, network.token)).token_micro
                transaction = await gifts.give(rpc, id, address, GIFT_MICRO)
        except RpcRefused as refused:
            raise Problem(
                ProblemCode.INVALID_REQUEST,
                f"{name} gives nothing to {address}: {refused.message[:200]}",
                hint="take the address of a wallet; only this machine's own chains have a faucet",
                param="address",
            ) from refused
        except (RpcUnavailable, TimeoutError) as error:
            raise Problem(
                ProblemCode.PAYMENT_UNAVAILABLE,
                f"{name} does not answer now",
                hint="look at the wallet's balance, then ask again",
                retry_after_s=1,
            ) from error
        try:
            async with asyncio.timeout(self._seen_wait_s):
                while True:
                    if (await look(rpc, address, network.token)).token_micro > before_micro:
                        break
                    await asyncio.sleep(LOOK_EVERY_S)
        except (RpcRefused, RpcUnavailable, TimeoutError):
            pass  # It was given all the same, and its transaction says so.
        return Gift(transaction=transaction, amount_micro=GIFT_MICRO, asset=network.asset)

    def _count(self) -> None:
        """Count one more of this hour; Problem RATE_LIMITED where all were given."""
        now_s, given = self._clock.monotonic_s(), self._given_at_s
        if len(given) == GIFTS_PER_HOUR_LIMIT and now_s - given[0] < HOUR_S:
            wait_s = int(given[0] + HOUR_S - now_s) + 1
            raise Problem(
                ProblemCode.RATE_LIMITED,
                f"{GIFTS_PER_HOUR_LIMIT} gifts of play money were given within the hour",
                hint="parhelion wallet fund gives more on this machine",
                retry_after_s=wait_s,
            )
        given.append(now_s)


_REAL = "every network here is a real one"
