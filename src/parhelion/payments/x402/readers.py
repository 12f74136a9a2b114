"""Readers of the two families of chains: what the chain says of a payment, as a sight of it.

The rules of what is sure are the facilitator room's (`solana_truth`, `evm_truth`); nothing is sent.
"""

from __future__ import annotations

from typing import assert_never

from parhelion.chain.evm import Rpc
from parhelion.chain.solana import RpcCall
from parhelion.payments.facilitator import evm_truth, solana_truth
from parhelion.payments.facilitator.outcomes import (
    Ambiguous,
    Code,
    EvmPayment,
    Outcome,
    Refused,
    Settled,
    SolanaPayment,
)
from parhelion.payments.facilitator.outcomes import Payment as Signed
from parhelion.payments.x402.outside import Expired, FailedOnChain, Landed, Sight, Unknown


class SolanaReader:
    """Looks a transaction up, by its id or in the history of the account that it was paid from.

    Its id is our own signature as fee payer where we carry it. Where somebody else does, his word
    for it is not asked: what the payer signed is found in the history, or is not there.
    """

    def __init__(self, rpc: RpcCall) -> None:
        self._rpc = rpc

    async def find(self, payment: Signed, transaction: str | None) -> Sight:
        """What Solana has of this payment."""
        assert isinstance(payment, SolanaPayment)
        return sight_of(payment, await solana_truth.reconcile(self._rpc, payment))

    async def balance(self, payment: Signed) -> int:
        """What the account that it is paid from holds; a Problem where the chain does not tell."""
        assert isinstance(payment, SolanaPayment)
        return await solana_truth.balance(self._rpc, payment)


class EvmReader:
    """Asks the token whether the authorization was spent, and its logs by which transaction."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    async def find(self, payment: Signed, transaction: str | None) -> Sight:
        """What the chain has of this payment; who carried it, and where to, does not matter."""
        assert isinstance(payment, EvmPayment)
        if transaction is not None:
            told = await evm_truth.look(self._rpc, payment, transaction)
            # Another transaction that failed says nothing of this authorization.
            if isinstance(told, Settled):
                return sight_of(payment, told)
        return sight_of(payment, await evm_truth.reconcile(self._rpc, payment))

    async def balance(self, payment: Signed) -> int:
        """What the payer holds of the token; a Problem where the chain does not tell."""
        assert isinstance(payment, EvmPayment)
        return await evm_truth.balance(self._rpc, payment)


def sight_of(payment: Signed, outcome: Outcome) -> Sight:
    """What an outcome that was read from the chain means for a claim. Pure."""
    match outcome:
        case Settled():
            if outcome.landed_micro is None:
                return Unknown()
            if outcome.landed_micro <= 0:
                reason = "it landed, and the payee got nothing by it"
                return FailedOnChain(transaction=outcome.transaction, reason=reason)
            return Landed(
                transaction=outcome.transaction,
                amount_micro=outcome.landed_micro,
                payer=payment.payer,
            )
        case Refused():
            if outcome.is_ours:
                return Unknown()
            if outcome.code is Code.EXPIRED:
                return Expired()
            return FailedOnChain(
                transaction=outcome.transaction, reason=outcome.reason, fee=outcome.fee
            )
        case Ambiguous():
            return Unknown()
        case _:
            assert_never(outcome)
