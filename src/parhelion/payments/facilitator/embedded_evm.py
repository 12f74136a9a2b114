"""We as the carrier of EIP-3009 authorizations: simulate, send in the order of our nonces, look.

Anybody may carry an authorization to the chain. So what decides is never our transaction but the
authorization: spent by whichever transaction, unspent, or expired.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from parhelion.chain.evm import Rpc
from parhelion.chain.rpc import RpcRefused
from parhelion.payments.facilitator import evm_truth
from parhelion.payments.facilitator.evm_line import (
    FEE_LIMIT_WEI,
    GAS,
    PUSH_AFTER_S,
    Line,
    Sent,
)
from parhelion.payments.facilitator.evm_truth import FAILURES, quantity, refusal_of
from parhelion.payments.facilitator.offers import EvmOffer
from parhelion.payments.facilitator.outcomes import (
    Ambiguous,
    Code,
    EvmPayment,
    Outcome,
    Refused,
    unavailable,
)
from parhelion.payments.facilitator.payload import Payload

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

log = logging.getLogger("parhelion.payments")

LOOK_EVERY_S = 0.2
"""JSON-RPC over HTTP has no event for it; a tenth of the time of Base's blocks."""

HEIGHT_FRESH_S = 10.0
"""A search of the logs begins below this height: one of some blocks ago only makes it longer."""

REORG_BLOCKS = 10
"""How far below the height that we saw an authorization may still be spent after a small fork."""


class _Height(NamedTuple):
    block: int
    asked_at_s: float


class EmbeddedEvm:
    """One network's facilitator, with one account that pays the gas.

    What nobody has claimed yet is tried out through `trying`, a line of its own to the same node:
    however many strangers wait there, what is settled does not wait behind them.
    """

    def __init__(
        self,
        rpc: Rpc,
        account: LocalAccount,
        clock_s: Callable[[], float],
        *,
        look_every_s: float = LOOK_EVERY_S,
        fee_limit_wei: int = FEE_LIMIT_WEI,
        push_after_s: float = PUSH_AFTER_S,
        trying: Rpc | None = None,
    ) -> None:
        self._rpc = rpc
        self._trying = trying or rpc
        self._clock_s = clock_s
        self._look_every_s = look_every_s
        self._push_after_s = push_after_s
        self._line = Line(rpc, account, fee_limit_wei=fee_limit_wei, push_after_s=push_after_s)
        self._height: _Height | None = None

    @property
    def address(self) -> str:
        """Who pays the gas."""
        return self._line.address

    async def verify(self, payload: Payload, offer: EvmOffer) -> EvmPayment | Refused:
        """Judge a payment and have the chain try it out; a Problem where the chain is away."""
        judged = await asyncio.to_thread(_judged, payload, offer, self._clock_s())
        if isinstance(judged, Refused):
            return judged
        try:
            height, refused = await asyncio.gather(
                self._recent_height(), self._simulated(judged, self._trying)
            )
            seen = max(0, height - REORG_BLOCKS)
        except FAILURES as error:
            raise unavailable(Code.CHAIN_UNAVAILABLE, str(error)) from error
        return refused or msgspec.structs.replace(judged, seen_block=seen)

    async def settle(self, payment: EvmPayment, deadline_s: float) -> Outcome:
        """Send it and look until it is sure; `deadline_s` is of the loop's clock.

        One that was sent before and waits keeps its nonce: it is not sent twice.
        """
        try:
            async with asyncio.timeout_at(deadline_s):
                async with self._line.turn:
                    refused = await self._broadcast(payment)
                sent = self._line.waiting.get(payment.key)
                if refused is not None:
                    return refused
                assert sent is not None
                outcome = await self._watch(sent)
                self._line.waiting.pop(payment.key, None)
                return outcome
        except TimeoutError:
            sent = self._line.waiting.get(payment.key)
            if sent is None:
                return Refused(code=Code.CHAIN_UNAVAILABLE, reason="not broadcast in time")
            # It may have fallen out of the node's pool, and then every later nonce would wait.
            self._line.doubt()
            return Ambiguous(reason="no receipt in time", transaction=sent.transactions[-1])

    async def reconcile(self, payment: EvmPayment) -> Outcome:
        """What became of a payment that was sent, or perhaps was."""
        outcome = await evm_truth.reconcile(self._rpc, payment)
        if isinstance(outcome, Ambiguous):
            await self.urge(payment)
        return outcome

    async def urge(self, payment: EvmPayment) -> None:
        """Offer more for a payment that was sent and waits; sends nothing that was not sent."""
        sent = self._line.waiting.get(payment.key)
        if sent is None:
            return
        try:
            async with self._line.turn:
                await self._line.push(sent)
        except FAILURES as error:
            log.info("a payment that waits was not urged", extra={"cause": str(error)})

    async def _broadcast(self, payment: EvmPayment) -> Refused | None:
        """Send it; a refusal where it went nowhere, else None. Whoever calls holds the turn."""
        earlier = self._line.waiting.get(payment.key)
        try:
            if earlier is not None:
                earlier.payment = payment  # A withdrawal may have been signed anew meanwhile.
                await self._line.push(earlier)
                if payment.key in self._line.waiting:
                    return None
            # Once more, for what was sent since it was verified: a revert costs us gas.
            fees, failing = await asyncio.gather(
                self._line.fees(), self._simulated(payment, self._rpc)
            )
        except FAILURES as error:
            return Refused(code=Code.CHAIN_UNAVAILABLE, reason=str(error))
        if failing is not None:
            return failing
        if isinstance(fees, Refused):
            return fees
        return await self._line.send(payment, fees)

    async def _simulated(self, payment: EvmPayment, rpc: Rpc) -> Refused | None:
        """Why the token would revert now; None where it would pay."""
        data = _call_data(payment)
        call = {"from": self.address, "to": payment.asset, "data": data, "gas": hex(GAS)}
        try:
            await rpc("eth_call", [call, "pending"])
        except RpcRefused as error:
            if not _is_revert(error):
                raise
            return refusal_of(error.message)
        return None

    async def _recent_height(self) -> int:
        now_s = _now_s()
        if self._height is None or now_s - self._height.asked_at_s > HEIGHT_FRESH_S:
            self._height = _Height(quantity(await self._trying("eth_blockNumber", [])), now_s)
        return self._height.block

    async def _watch(self, sent: Sent) -> Outcome:
        is_told = False
        while True:
            try:
                outcome = await self._look(sent)
                if outcome is not None:
                    return outcome
                if _now_s() - sent.touched_at_s >= self._push_after_s:
                    async with self._line.turn:
                        await self._line.push(sent)
            except FAILURES as error:
                if not is_told:
                    # Once: a chain that is down is looked at many times by each payment.
                    log.info("a look at the chain failed", extra={"cause": str(error)})
                is_told = True
            await asyncio.sleep(self._look_every_s)

    async def _look(self, sent: Sent) -> Outcome | None:
        # The newest is the dearest; of all of them one lands at most.
        for transaction in reversed(sent.transactions):
            outcome = await evm_truth.look(self._rpc, sent.payment, transaction)
            if outcome is not None:
                return outcome
        return None


def _is_revert(error: RpcRefused) -> bool:
    return error.code == 3 or "revert" in error.message.lower() or "out of gas" in error.message


def _judged(payload: Payload, offer: EvmOffer, now_s: float) -> EvmPayment | Refused:
    # keccak and libsecp256k1 are loaded here, in a thread, when the first payment comes.
    from parhelion.payments.facilitator import evm

    return evm.judge(payload.payload, offer, now_s)


def _call_data(payment: EvmPayment) -> str:
    # Loaded by whoever judged or signed the payment: some microseconds are left, no thread's work.
    from parhelion.payments.facilitator import evm

    return "0x" + evm.call_data(payment).hex()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
