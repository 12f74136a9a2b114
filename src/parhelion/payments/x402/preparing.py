"""Getting a payment ready for a wallet in a browser: the chain is looked at, nothing is kept.

Anybody may ask, and each asking is a call or two to a node that may count them: so few are asked
at once, each caller only so often, and no call may take long.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from parhelion.allowance import Allowance, Allowances
from parhelion.chain.rpc import RpcRefused, RpcUnavailable
from parhelion.chain.solana import RpcCall
from parhelion.chain.wallet import holdings
from parhelion.identity import Caller, Entropy
from parhelion.payments.x402.desks import Desks
from parhelion.payments.x402.networks import Family, Network, Payee
from parhelion.payments.x402.prepared import (
    Prepared,
    check_holds,
    check_payer,
    for_evm,
    for_solana,
    offer_on,
    spoken,
)
from parhelion.payments.x402.prices import Price
from parhelion.words import Clock, Problem, ProblemCode

if TYPE_CHECKING:
    from parhelion.payments.x402.checkout import Checkout

LOOKS_LIMIT = 8
"""At once, as of the explorer: a person waits a tenth of a second for a public node."""

LOOKS_OF_ONE_LIMIT = 2
"""At once of one caller: where a node is slow, four are needed to take all that there are."""

LOOKS_HIDDEN_LIMIT = 4
"""At once of all strangers behind a proxy, together: the other half is for those who are known."""

PREPARED_AT_ONCE = 30.0
PREPARED_PER_S = 1.0
"""Of one address, or of one account where a proxy hides addresses: a person prepares a few payments
a minute."""

HIDDEN_AT_ONCE = 20.0
HIDDEN_PER_S = 4.0
"""Of all strangers behind a proxy, who sent no credential, together: one of them can take no more
than this of what there is, and who is known by address or account has the rest."""

LOOKS_BURST = 40.0
LOOKS_PER_S = 10.0
"""Of all together: as many people at once as a page has, and what a public node lets one client
ask. Whoever has many addresses gets no more of it."""

LOOK_WAIT_S = 5.0
"""A person waits for the wallet to open; a node that takes longer is away."""

RETRY_S = 2


class Preparing:
    """Prepares payments of the very offers that a 402 makes; `rpcs` are by CAIP-2 id."""

    def __init__(
        self,
        payees: Sequence[Payee],
        desks: Desks,
        checkout: Checkout,
        rpcs: Mapping[str, RpcCall],
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._networks = {payee.network.id: payee.network for payee in payees}
        self._desks = desks
        self._checkout = checkout
        self._rpcs = rpcs
        self._clock = clock
        self._entropy = entropy
        self._slots = asyncio.Semaphore(LOOKS_LIMIT)
        self._looking: Counter[str] = Counter()
        self._asked = Allowances(PREPARED_PER_S, PREPARED_AT_ONCE)
        self._hidden = Allowance(HIDDEN_PER_S, HIDDEN_AT_ONCE)
        self._looks = Allowance(LOOKS_PER_S, LOOKS_BURST)

    async def prepare(
        self, network: str, payer: str, price: Price, url: str, *, caller: Caller
    ) -> Prepared:
        """The payment of a price at a URL, for a wallet on a network (CAIP-2).

        Problem for what cannot be paid: an unknown network, no address there, too little in the
        wallet, a chain that is away, too many askings.
        """
        found = self._network(network)
        # What is wrong with the address is told before its chain is asked.
        check_payer(found, payer, offer_on(self._checkout.offered(price, url), found))
        self._count(caller)
        with self._place_of(caller.share):
            async with self._slots:
                token_micro, has_account = await self._holding(found, payer)
                check_holds(found, price, token_micro, has_account=has_account)
                age_s = await self._desks.freshen(found.id)
        # Made after the chain was asked, so that it has the hint that was waited for.
        required = self._checkout.offered(price, url)
        now_ms = self._clock.now_ms()
        if found.family is Family.EVM:
            made = for_evm(required, found, payer, now_ms=now_ms, entropy=self._entropy)
            return msgspec.structs.replace(made, holds_micro=token_micro)
        if age_s is None or "recentBlockhash" not in offer_on(required, found).extra:
            raise _away(found)
        made = for_solana(required, found, payer, now_ms=now_ms, hint_age_s=age_s)
        return msgspec.structs.replace(made, holds_micro=token_micro)

    def _count(self, caller: Caller) -> None:
        """Take one of the caller's share, then one of all there are; Problem where none is left.

        What is refused for the caller's own sake takes nothing from the others.
        """
        share, now_s = caller.share, self._clock.monotonic_s()
        has_share = self._asked.take(share, now_s) if share else self._hidden.take(now_s)
        limit = LOOKS_OF_ONE_LIMIT if share else LOOKS_HIDDEN_LIMIT
        if not has_share or self._looking[share] >= limit:
            whose = "for you" if share else "through a proxy for who is not signed in"
            raise _later(f"too many payments are being prepared {whose}", ProblemCode.RATE_LIMITED)
        if self._slots.locked() or not self._looks.take(now_s):
            raise _later("too many payments are being prepared", ProblemCode.OVERLOADED)

    @contextmanager
    def _place_of(self, share: str) -> Generator[None]:
        self._looking[share] += 1
        try:
            yield
        finally:
            self._looking[share] -= 1
            # Names are strangers' to choose the number of.
            if not self._looking[share]:
                del self._looking[share]

    def _network(self, id: str) -> Network:
        found = self._networks.get(id)
        if found is None:
            raise Problem(
                ProblemCode.INVALID_REQUEST,
                f"nothing is paid on a network {id[:64]!r} here",
                hint=f"the networks here are {', '.join(self._networks)}",
                param="network",
            )
        return found

    async def _holding(self, network: Network, payer: str) -> tuple[int, bool]:
        """What the payer has of the token, and whether an account for it.

        Of the network's own coin it needs none: the fee of the payment is somebody else's.
        """
        is_solana = network.family is Family.SOLANA
        look = holdings.token_on_solana if is_solana else holdings.token_on_evm
        try:
            async with asyncio.timeout(LOOK_WAIT_S):
                return await look(self._rpcs[network.id], payer, network.token)
        except (RpcRefused, RpcUnavailable, TimeoutError) as error:
            raise _away(network) from error


def _away(network: Network) -> Problem:
    return _later(f"{spoken(network)} cannot be read now", ProblemCode.PAYMENT_UNAVAILABLE)


def _later(what: str, code: ProblemCode) -> Problem:
    hint = "ask again after Retry-After; nothing was signed or paid"
    return Problem(code, what, hint=hint, retry_after_s=RETRY_S)
