"""The fee payer's transactions in the order of their nonces, and how the line never stands still.

A chain takes an account's transactions in order, so one whose fee is too low (the base fee rose
after it was sent) holds up all that come after it. It is sent again under the same nonce for more:
at most one of the two lands, and a payment never has a second nonce while its first may be used.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from parhelion.chain.evm import Rpc
from parhelion.chain.rpc import RpcRefused, RpcUnavailable
from parhelion.payments.facilitator.evm_truth import FAILURES, quantity
from parhelion.payments.facilitator.offers import EVM
from parhelion.payments.facilitator.outcomes import Code, EvmPayment, Refused

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

log = logging.getLogger("parhelion.payments")

GAS = 150_000
"""USDC's transferWithAuthorization takes 60,000 to 100,000; a token that burns more is refused."""

EMPTY_GAS = 21_000
"""What a transaction takes that does nothing."""

FEE_LIMIT_WEI = 10**14
"""What one settlement may cost us: some thirty times what it does on Base."""

FEES_FRESH_S = 10.0
"""The price of gas is asked for once in this time; we offer twice of it."""

PUSH_AFTER_S = 4.0
"""Two blocks of Base without a receipt: then its fee is too low, or its node has lost it."""

PUSHED_AT_ONCE = 16
"""Of those that wait; the rest has its turn with the next push."""

FILL_TRIES = 8
"""Each offers twice as much: what an earlier process offered is not known."""

LINE_LIMIT = 256
"""As many as are settled at once; a node keeps no more than some hundred of one account."""

KNOWN = "already known"
REPLACEMENT = "replacement transaction underpriced"
STALE = (
    "nonce too low",
    REPLACEMENT,
    "max fee per gas less than",
)
REJECTIONS = (
    *STALE,
    "nonce too high",
    "underpriced",
    "intrinsic gas",
    "exceeds block gas limit",
    "invalid sender",
    "txpool is full",
)
"""What nodes say of a transaction that they did not take, in geth's words."""


class Fees(NamedTuple):
    """What is offered for a unit of gas."""

    max_fee_wei: int
    tip_wei: int

    def is_below_price_of(self, other: Fees) -> bool:
        """Whether it offers less than the price that `other` is twice of."""
        return 2 * self.max_fee_wei < other.max_fee_wei

    def above(self, other: Fees, cap_wei: int) -> Fees | None:
        """The dearer of both, an eighth over this one at least; None where that is too dear.

        Nodes take a transaction for another's nonce that offers a tenth more of both; 12.5 % is
        also what a base fee rises by from one full block to the next.
        """
        least_wei, tip_wei = self.max_fee_wei * 9 // 8 + 1, self.tip_wei * 9 // 8 + 1
        max_fee_wei = min(max(least_wei, other.max_fee_wei), cap_wei)
        if max_fee_wei < max(least_wei, tip_wei):
            return None
        return Fees(max_fee_wei, max(tip_wei, min(other.tip_wei, max_fee_wei)))


@dataclass(slots=True)
class Sent:
    """A payment under its nonce; any of `transactions`, and only one of them, may land."""

    payment: EvmPayment
    nonce: int
    fees: Fees
    touched_at_s: float
    transactions: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class _Unknown:
    """A nonce at the head of the line that no payment of this process has."""

    nonce: int
    fees: Fees
    touched_at_s: float


class Line:
    """One account's; `turn` is held by whoever sends, `waiting` is by the payment's key."""

    def __init__(
        self,
        rpc: Rpc,
        account: LocalAccount,
        *,
        fee_limit_wei: int = FEE_LIMIT_WEI,
        push_after_s: float = PUSH_AFTER_S,
    ) -> None:
        self.turn = asyncio.Lock()
        self.waiting: dict[str, Sent] = {}
        self._rpc = rpc
        self._account = account
        self._fee_limit_wei = fee_limit_wei
        self._nonce: int | None = None
        self._fees: Fees | None = None
        self._fees_asked_at_s = 0.0
        self._push_after_s = push_after_s
        self._pushed_at_s = float("-inf")
        self._unknown: _Unknown | None = None

    @property
    def address(self) -> str:
        """Who pays the gas."""
        return str(self._account.address)

    def doubt(self) -> None:
        """Count anew: what was sent may have fallen out of the node's pool."""
        self._nonce = None

    async def fees(self) -> Fees | Refused:
        """What to offer now; refused where a settlement would be too dear. Raises FAILURES."""
        now_s = _now_s()
        if self._fees is None or now_s - self._fees_asked_at_s > FEES_FRESH_S:
            price, tip = await asyncio.gather(
                self._rpc("eth_gasPrice", []), self._rpc("eth_maxPriorityFeePerGas", [])
            )
            max_fee_wei = 2 * quantity(price)
            self._fees = Fees(max_fee_wei, min(quantity(tip), max_fee_wei))
            self._fees_asked_at_s = now_s
        cost_wei = self._fees.max_fee_wei * GAS
        if cost_wei > self._fee_limit_wei:
            reason = f"gas would cost {cost_wei} wei; {self._fee_limit_wei} at most"
            return Refused(code=Code.NETWORK_FEES_TOO_HIGH, reason=reason)
        return self._fees

    async def send(self, payment: EvmPayment, fees: Fees) -> Refused | None:
        """Send it behind all others; a refusal where it went nowhere. `turn` is the caller's."""
        if len(self.waiting) >= LINE_LIMIT and await self._is_full():
            return Refused(code=Code.CHAIN_UNAVAILABLE, reason=f"{LINE_LIMIT} wait for a block")
        refused = await self._send(payment, fees)
        if refused is None or not refused.reason.startswith(STALE):
            return refused
        # Our count or our price was behind the chain's: both are asked for now, once.
        try:
            now = await self.fees()
        except FAILURES:
            return refused
        return now if isinstance(now, Refused) else await self._send(payment, now)

    async def push(self, sent: Sent) -> None:
        """See that the line moves up to this one: raise the fees of those that hold it up.

        `turn` is the caller's. Raises FAILURES; what is too dear is left, for fees fall again.
        """
        now_s = _now_s()
        if now_s - self._pushed_at_s < self._push_after_s / 4:
            return  # Others that wait in the line have just seen to it.
        self._pushed_at_s = now_s
        count = await self._forget_landed()
        if sent.nonce < count:
            return  # It has landed, or another with its nonce: receipts tell.
        self._fees = None
        fees = await self.fees()
        if isinstance(fees, Refused):
            fees = Fees(self._fee_limit_wei // GAS, 1)
        line = sorted(self.waiting.values(), key=lambda each: each.nonce)
        if not line or line[0].nonce > count:
            await self._fill(sent.payment, count, fees)
        # What offers less than the price cannot move, whoever stands before it.
        due = [each for each in line if each.nonce == count or each.fees.is_below_price_of(fees)]
        for each in due[:PUSHED_AT_ONCE]:
            if now_s - each.touched_at_s >= self._push_after_s:
                await self._dearer(each, fees)

    async def _send(self, payment: EvmPayment, fees: Fees) -> Refused | None:
        nonce, self._nonce = self._nonce, None
        try:
            if nonce is None:
                count = await self._rpc("eth_getTransactionCount", [self.address, "pending"])
                nonce = quantity(count)
        except FAILURES as error:
            return Refused(code=Code.CHAIN_UNAVAILABLE, reason=str(error))
        # Whose nonce the chain gives away it knows no more.
        self._forget(lambda each: each.nonce == nonce)
        raw, transaction = await asyncio.to_thread(_carrying, payment, self._account, nonce, fees)
        self.waiting[payment.key] = Sent(payment, nonce, fees, _now_s(), [transaction])
        try:
            await self._rpc("eth_sendRawTransaction", [raw])
        except (RpcRefused, RpcUnavailable) as error:
            log.warning("a broadcast failed", extra={"tx": transaction, "cause": str(error)})
            refused = _not_sent(error)
            if refused is not None:
                del self.waiting[payment.key]
                self._fees = None
            return refused
        # Only now it is known to count: after any error the next one asks the chain.
        self._nonce = nonce + 1
        return None

    async def _dearer(self, sent: Sent, fees: Fees) -> None:
        """Offer more for the same payment under the same nonce."""
        raised = sent.fees.above(fees, self._fee_limit_wei // GAS)
        sent.touched_at_s = _now_s()
        if raised is None:
            log.warning(
                "a payment waits for gas to become cheaper",
                extra={"nonce": sent.nonce, "max_fee_wei": sent.fees.max_fee_wei},
            )
            return
        raw, transaction = await asyncio.to_thread(
            _carrying, sent.payment, self._account, sent.nonce, raised
        )
        sent.transactions.append(transaction)
        log.info("the fee of a payment was raised", extra={"tx": transaction, **raised._asdict()})
        try:
            await self._rpc("eth_sendRawTransaction", [raw])
        except RpcUnavailable as error:
            if not error.left_us:
                sent.transactions.remove(transaction)
            raise
        except RpcRefused as error:
            log.info("it was not taken", extra={"tx": transaction, "cause": str(error)})
            if _not_sent(error) is not None:
                sent.transactions.remove(transaction)
                # What waits offers what it did, unless the node says that it offers more.
                if REPLACEMENT not in error.message.lower():
                    return
        sent.fees = raised

    async def _fill(self, payment: EvmPayment, nonce: int, fees: Fees) -> None:
        """Take a nonce that something unknown holds, of a process before this one, by a no-op.

        Seen twice, so that what is mined by itself is left alone. The payment that it carried
        expires unspent, or is carried again by whoever has it.
        """
        now_s, seen = _now_s(), self._unknown
        if seen is None or seen.nonce != nonce:
            self._unknown = _Unknown(nonce, fees, now_s)
            return
        if now_s - seen.touched_at_s < self._push_after_s:
            return
        seen.touched_at_s = now_s
        for _ in range(FILL_TRIES):
            raw, transaction = await asyncio.to_thread(
                _empty, payment.network, self._account, nonce, seen.fees
            )
            log.warning("an unknown transaction is replaced", extra={"tx": transaction})
            try:
                await self._rpc("eth_sendRawTransaction", [raw])
            except RpcRefused as error:
                if REPLACEMENT not in error.message.lower():
                    raise
            else:
                return
            twice = Fees(2 * seen.fees.max_fee_wei, 2 * seen.fees.tip_wei)
            if twice.max_fee_wei * GAS > self._fee_limit_wei:
                return
            seen.fees = twice

    async def _is_full(self) -> bool:
        try:
            await self._forget_landed()
        except FAILURES as error:
            log.info("nobody knows who still waits", extra={"cause": str(error)})
        return len(self.waiting) >= LINE_LIMIT

    async def _forget_landed(self) -> int:
        """Forget whose nonces are used, and tell the next one that is not."""
        count = quantity(await self._rpc("eth_getTransactionCount", [self.address, "latest"]))
        self._forget(lambda each: each.nonce < count)
        return count

    def _forget(self, is_over: Callable[[Sent], bool]) -> None:
        for key in [key for key, each in self.waiting.items() if is_over(each)]:
            del self.waiting[key]


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


def _carrying(
    payment: EvmPayment, account: LocalAccount, nonce: int, fees: Fees
) -> tuple[str, str]:
    from parhelion.payments.facilitator import evm

    call = {"to": evm.checksummed(payment.asset), "data": evm.call_data(payment), "gas": GAS}
    return _signed(payment.network, account, nonce, fees, call)


def _empty(network: str, account: LocalAccount, nonce: int, fees: Fees) -> tuple[str, str]:
    call = {"to": account.address, "data": b"", "gas": EMPTY_GAS}
    return _signed(network, account, nonce, fees, call)


def _signed(
    network: str, account: LocalAccount, nonce: int, fees: Fees, call: dict[str, Any]
) -> tuple[str, str]:
    """The raw transaction and its hash."""
    whole: dict[str, Any] = {
        "type": 2,
        "chainId": int(network.removeprefix(EVM)),
        "nonce": nonce,
        "value": 0,
        "maxFeePerGas": fees.max_fee_wei,
        "maxPriorityFeePerGas": fees.tip_wei,
        **call,
    }
    signed = account.sign_transaction(whole)
    return "0x" + bytes(signed.raw_transaction).hex(), "0x" + bytes(signed.hash).hex()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
