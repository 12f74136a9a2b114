"""We as the fee payer on Solana: simulate, co-sign, broadcast once, and look until it is sure.

Nothing that bears our signature leaves this process before the payment was judged and simulated:
so what is refused up to then can never land. A payment is settled once; whoever does not know what
became of it asks `reconcile`, which never sends.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import TYPE_CHECKING, Any, cast

from parhelion.chain.rpc import RpcRefused, RpcUnavailable
from parhelion.chain.solana import RpcCall
from parhelion.payments.facilitator import solana_truth
from parhelion.payments.facilitator.offers import SolanaOffer
from parhelion.payments.facilitator.outcomes import (
    Ambiguous,
    Code,
    Outcome,
    Refused,
    SolanaPayment,
    unavailable,
)
from parhelion.payments.facilitator.payload import Payload
from parhelion.payments.facilitator.solana_truth import is_object, refusal_of
from parhelion.words import Problem

if TYPE_CHECKING:
    from solders.keypair import Keypair

log = logging.getLogger("parhelion.payments")

LOOK_EVERY_S = 0.2
"""JSON-RPC over HTTP has no event for it; half a slot, so that confirmation costs no second one."""

PREFLIGHT_FAILURE = -32002
NEVER_SENT = frozenset({PREFLIGHT_FAILURE, -32003, -32005, -32602})
"""Preflight and signature failures, a node behind, bad parameters: nothing went to the cluster."""


class EmbeddedSolana:
    """One network's facilitator, with one fee payer.

    What nobody has claimed yet is tried out through `trying`, a line of its own to the same node:
    however many strangers wait there, what is settled does not wait behind them.
    """

    def __init__(
        self,
        rpc: RpcCall,
        fee_payer: Keypair,
        *,
        look_every_s: float = LOOK_EVERY_S,
        trying: RpcCall | None = None,
    ) -> None:
        self._rpc = rpc
        self._trying = trying or rpc
        self._fee_payer = fee_payer
        self._look_every_s = look_every_s
        self._broadcasting = asyncio.Lock()

    @property
    def address(self) -> str:
        """The fee payer that offers must name."""
        return str(self._fee_payer.pubkey())

    async def verify(self, payload: Payload, offer: SolanaOffer) -> SolanaPayment | Refused:
        """Judge a payment and have the chain try it out; a Problem where the chain is away."""
        if offer.fee_payer != self.address:
            reason = f"the offer names {offer.fee_payer} as fee payer; ours is {self.address}"
            return Refused(code=Code.WRONG_FEE_PAYER, reason=reason)
        judged = await asyncio.to_thread(_judged, payload, offer, self._fee_payer)
        if isinstance(judged, Refused):
            return judged
        how = {"encoding": "base64", "sigVerify": False, "commitment": "processed"}
        try:
            tried = await self._trying("simulateTransaction", [_base64(judged.wire), how])
        except (RpcUnavailable, RpcRefused) as error:
            raise unavailable(Code.CHAIN_UNAVAILABLE, str(error)) from error
        error = _simulated(tried)
        if error is None:
            return judged
        refused = refusal_of(error)
        if refused.is_ours:
            raise unavailable(refused.code, refused.reason)
        return refused

    async def settle(self, payment: SolanaPayment, deadline_s: float) -> Outcome:
        """Co-sign, broadcast and look until it is sure; `deadline_s` is of the loop's clock."""
        sent = False
        try:
            async with asyncio.timeout_at(deadline_s):
                async with self._broadcasting:
                    wire = await asyncio.to_thread(_signed, payment.wire, self._fee_payer)
                    sent = True
                    refused = await self._broadcast(wire, payment)
                if refused is not None:
                    return refused
                return await self._watch(payment)
        except TimeoutError:
            if not sent:
                reason = "no turn to broadcast in time"
                return Refused(code=Code.CHAIN_UNAVAILABLE, reason=reason)
            return Ambiguous(reason="not confirmed in time", transaction=payment.transaction)

    async def reconcile(self, payment: SolanaPayment) -> Outcome:
        """What became of a payment that was sent, or perhaps was; sends nothing."""
        return await solana_truth.reconcile(self._rpc, payment)

    async def _broadcast(self, wire: bytes, payment: SolanaPayment) -> Refused | None:
        """Send it; a refusal where the node says that it went nowhere, else None."""
        how = {"encoding": "base64", "preflightCommitment": "processed"}
        try:
            answer = await self._rpc("sendTransaction", [_base64(wire), how])
        except RpcUnavailable as error:
            if not error.left_us:
                return Refused(code=Code.CHAIN_UNAVAILABLE, reason=str(error))
            log.warning("a broadcast went unanswered", extra={"tx": payment.transaction})
            return None
        except RpcRefused as error:
            return _not_sent(error)
        if answer != payment.transaction:
            log.warning("a node named another transaction", extra={"tx": payment.transaction})
        return None

    async def _watch(self, payment: SolanaPayment) -> Outcome:
        is_told = False
        while True:
            try:
                outcome = await solana_truth.look(self._rpc, payment)
            except (RpcUnavailable, RpcRefused, Problem) as error:
                if not is_told:
                    # Once: a chain that is down is looked at many times by each payment.
                    log.info("a look at the chain failed", extra={"cause": str(error)})
                outcome, is_told = None, True
            if outcome is not None:
                return outcome
            await asyncio.sleep(self._look_every_s)


def _not_sent(error: RpcRefused) -> Refused | None:
    if error.code not in NEVER_SENT:
        log.warning("a broadcast was answered with an error", extra={"cause": str(error)})
        return None
    if error.code != PREFLIGHT_FAILURE:
        return Refused(code=Code.CHAIN_UNAVAILABLE, reason=str(error))
    data = cast("dict[str, Any]", error.data) if is_object(error.data) else {}
    refused = refusal_of(data.get("err"))
    # It is on the chain: by a broadcast of ours that went unanswered. Looking tells how it went.
    return None if refused.code is Code.ALREADY_USED else refused


def _judged(payload: Payload, offer: SolanaOffer, fee_payer: Keypair) -> SolanaPayment | Refused:
    # solders is loaded here, in a thread, when the first payment comes.
    from parhelion.payments.facilitator import solana

    judged = solana.judge_payload(payload.payload, offer)
    if isinstance(judged, Refused):
        return judged
    return solana.named(judged, fee_payer)


def _signed(wire: bytes, fee_payer: Keypair) -> bytes:
    from parhelion.payments.facilitator import solana

    return solana.co_signed(wire, fee_payer)


def _simulated(answer: Any) -> Any:
    value = cast("dict[str, Any]", answer).get("value") if is_object(answer) else None
    if not is_object(value) or "err" not in cast("dict[str, Any]", value):
        raise unavailable(Code.CHAIN_UNAVAILABLE, "simulateTransaction: an answer without a value")
    return cast("dict[str, Any]", value)["err"]


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
