"""We as the carrier of EIP-3009 authorizations: simulate, send in the order of our nonces, look.

Anybody may carry an authorization to the chain. So what decides is never our transaction but the
authorization: spent by whichever transaction, unspent, or expired.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from parhelion.chain.evm import Rpc
from parhelion.chain.rpc import RpcRefused, RpcUnavailable
from parhelion.payments.facilitator import evm_truth
from parhelion.payments.facilitator.evm_truth import FAILURES, quantity, refusal_of
from parhelion.payments.facilitator.offers import EVM, EvmOffer
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

GAS = 150_000
"""USDC's transferWithAuthorization takes 60,000 to 100,000; a token that burns more is refused."""

FEE_LIMIT_WEI = 10**14
"""What one settlement may cost us: some thirty times what it does on Base."""

FEES_FRESH_S = 10.0
"""The price of gas is asked for once in this time; we offer twice of it."""

REORG_BLOCKS = 10
"""How far below the height that we saw an authorization may still be spent after a small fork."""

KNOWN = "already known"
STALE_NONCE = ("nonce too low", "replacement transaction underpriced")
REJECTIONS = (
    *STALE_NONCE,
    "nonce too high",
    "underpriced",
    "intrinsic gas",
    "exceeds block gas limit",
    "max fee per gas less than",
    "invalid sender",
    "txpool is full",
)
"""What nodes say of a transaction that they did not take, in geth's words."""


class _Fees(NamedTuple):
    max_fee_wei: int
    tip_wei: int
    asked_at_s: float


@dataclass(slots=True)
class _Attempt:
    """`transaction` is set while it may have left us."""

    transaction: str = ""


class EmbeddedEvm:
    """One network's facilitator, with one account that pays the gas."""

    def __init__(
        self,
        rpc: Rpc,
        account: LocalAccount,
        clock_s: Callable[[], float],
        *,
        look_every_s: float = LOOK_EVERY_S,
        fee_limit_wei: int = FEE_LIMIT_WEI,
    ) -> None:
        self._rpc = rpc
        self._account = account
        self._clock_s = clock_s
        self._look_every_s = look_every_s
        self._fee_limit_wei = fee_limit_wei
        self._broadcasting = asyncio.Lock()
        self._nonce: int | None = None
        self._fees: _Fees | None = None

    @property
    def address(self) -> str:
        """Who pays the gas."""
        return str(self._account.address)

    async def verify(self, payload: Payload, offer: EvmOffer) -> EvmPayment | Refused:
        """Judge a payment and have the chain try it out; a Problem where the chain is away."""
        judged = await asyncio.to_thread(_judged, payload, offer, self._clock_s())
        if isinstance(judged, Refused):
            return judged
        try:
            height, refused = await asyncio.gather(
                self._rpc("eth_blockNumber", []), self._simulated(judged)
            )
            seen = max(0, quantity(height) - REORG_BLOCKS)
        except FAILURES as error:
            raise unavailable(Code.CHAIN_UNAVAILABLE, str(error)) from error
        return refused or msgspec.structs.replace(judged, seen_block=seen)

    async def settle(self, payment: EvmPayment, deadline_s: float) -> Outcome:
        """Send it and look until it is sure; `deadline_s` is of the loop's clock."""
        attempt = _Attempt()
        try:
            async with asyncio.timeout_at(deadline_s):
                async with self._broadcasting:
                    refused = await self._broadcast(payment, attempt)
                if refused is not None:
                    return refused
                return await self._watch(payment, attempt.transaction)
        except TimeoutError:
            if not attempt.transaction:
                return Refused(code=Code.CHAIN_UNAVAILABLE, reason="not broadcast in time")
            # It may have fallen out of the node's pool, and then every later nonce would wait.
            self._nonce = None
            return Ambiguous(reason="no receipt in time", transaction=attempt.transaction)

    async def reconcile(self, payment: EvmPayment) -> Outcome:
        """What became of a payment that was sent, or perhaps was; sends nothing."""
        return await evm_truth.reconcile(self._rpc, payment)

    async def _broadcast(self, payment: EvmPayment, attempt: _Attempt) -> Refused | None:
        """Send it; a refusal where it went nowhere, else None. Whoever calls holds the lock."""
        try:
            # Once more, for what was sent since it was verified: a revert costs us gas.
            fees, failing = await asyncio.gather(self._current_fees(), self._simulated(payment))
        except FAILURES as error:
            return Refused(code=Code.CHAIN_UNAVAILABLE, reason=str(error))
        if failing is not None:
            return failing
        if fees.max_fee_wei * GAS > self._fee_limit_wei:
            reason = f"gas would cost {fees.max_fee_wei * GAS} wei; {self._fee_limit_wei} at most"
            return Refused(code=Code.NETWORK_FEES_TOO_HIGH, reason=reason)
        refused = await self._send(payment, fees, attempt)
        if refused is not None and refused.reason.startswith(STALE_NONCE):
            # Our count was behind the chain's: it is asked for now, once.
            refused = await self._send(payment, fees, attempt)
        return refused

    async def _simulated(self, payment: EvmPayment) -> Refused | None:
        """Why the token would revert now; None where it would pay."""
        data = await asyncio.to_thread(_call_data, payment)
        call = {"from": self.address, "to": payment.asset, "data": data, "gas": hex(GAS)}
        try:
            await self._rpc("eth_call", [call, "pending"])
        except RpcRefused as error:
            if not _is_revert(error):
                raise
            return refusal_of(error.message)
        return None

    async def _send(self, payment: EvmPayment, fees: _Fees, attempt: _Attempt) -> Refused | None:
        nonce, self._nonce = self._nonce, None
        try:
            if nonce is None:
                count = await self._rpc("eth_getTransactionCount", [self.address, "pending"])
                nonce = quantity(count)
        except FAILURES as error:
            return Refused(code=Code.CHAIN_UNAVAILABLE, reason=str(error))
        raw, transaction = await asyncio.to_thread(_signed, payment, self._account, nonce, fees)
        attempt.transaction = transaction
        try:
            await self._rpc("eth_sendRawTransaction", [raw])
        except (RpcRefused, RpcUnavailable) as error:
            refused = _not_sent(error)
            if refused is not None:
                attempt.transaction = ""
                self._fees = None
            log.warning("a broadcast failed", extra={"tx": transaction, "cause": str(error)})
            return refused
        # Only now it is known to count: after any error the next one asks the chain.
        self._nonce = nonce + 1
        return None

    async def _current_fees(self) -> _Fees:
        now_s = asyncio.get_running_loop().time()
        if self._fees is None or now_s - self._fees.asked_at_s > FEES_FRESH_S:
            price, tip = await asyncio.gather(
                self._rpc("eth_gasPrice", []), self._rpc("eth_maxPriorityFeePerGas", [])
            )
            tip_wei = quantity(tip)
            self._fees = _Fees(max(2 * quantity(price), tip_wei), tip_wei, now_s)
        return self._fees

    async def _watch(self, payment: EvmPayment, transaction: str) -> Outcome:
        while True:
            try:
                outcome = await evm_truth.look(self._rpc, payment, transaction)
            except FAILURES as error:
                log.info("a look at the chain failed", extra={"cause": str(error)})
                outcome = None
            if outcome is not None:
                return outcome
            await asyncio.sleep(self._look_every_s)


def _not_sent(error: RpcRefused | RpcUnavailable) -> Refused | None:
    """A refusal where the transaction cannot have gone anywhere; None where it may have."""
    if isinstance(error, RpcUnavailable):
        return None if error.left_us else Refused(code=Code.CHAIN_UNAVAILABLE, reason=str(error))
    message = error.message.lower()
    if KNOWN in message:
        return None
    if "insufficient funds" in message:
        return Refused(code=Code.FACILITATOR_OUT_OF_FUNDS, reason=message[:200])
    if any(saying in message for saying in REJECTIONS):
        return Refused(code=Code.CHAIN_UNAVAILABLE, reason=message[:200])
    return None


def _is_revert(error: RpcRefused) -> bool:
    return error.code == 3 or "revert" in error.message.lower() or "out of gas" in error.message


def _judged(payload: Payload, offer: EvmOffer, now_s: float) -> EvmPayment | Refused:
    # keccak and libsecp256k1 are loaded here, in a thread, when the first payment comes.
    from parhelion.payments.facilitator import evm

    return evm.judge(payload.payload, offer, now_s)


def _call_data(payment: EvmPayment) -> str:
    from parhelion.payments.facilitator import evm

    return "0x" + evm.call_data(payment).hex()


def _signed(payment: EvmPayment, account: LocalAccount, nonce: int, fees: _Fees) -> tuple[str, str]:
    from parhelion.payments.facilitator import evm

    call: dict[str, Any] = {
        "type": 2,
        "chainId": int(payment.network.removeprefix(EVM)),
        "nonce": nonce,
        "to": evm.checksummed(payment.asset),
        "value": 0,
        "data": evm.call_data(payment),
        "gas": GAS,
        "maxFeePerGas": fees.max_fee_wei,
        "maxPriorityFeePerGas": fees.tip_wei,
    }
    signed = account.sign_transaction(call)
    return "0x" + bytes(signed.raw_transaction).hex(), "0x" + bytes(signed.hash).hex()
