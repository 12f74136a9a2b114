"""The states of a withdrawal; pure.

    (held) requested --signed--> signed --broadcast--> sent
              ^  |                  |                   |
              |  | impossible,      +-----landed--------+--> CONFIRMED (posted, final)
              |  | gave up          |                   |
              |  v                  +--failed on chain--+--> RETURNED (voided, final)
              | RETURNED            |                   |
              +-----expired---------+-------------------+

While something signed may land, nothing is given back and nothing else is signed: both come after
the chain's own word that it can land no more. The one exception is `renewed`, where the chain
itself takes only one of the two (EIP-3009: both spend one nonce).
"""

from __future__ import annotations

from enum import StrEnum

from parhelion.words import Problem, ProblemCode


class WithdrawalState(StrEnum):
    """Where a withdrawal stands."""

    REQUESTED = "requested"
    """The amount is set aside, and nothing that could move it is out."""
    SIGNED = "signed"
    """A transaction is signed and stored; perhaps it was sent."""
    SENT = "sent"
    """A node of the chain took it."""
    CONFIRMED = "confirmed"
    """We read on the chain that it moved the money; the hold is posted in the same unit. Final."""
    RETURNED = "returned"
    """Nothing left, and nothing can: the amount is available again. Final."""


class WithdrawalEvent(StrEnum):
    """What can happen to a withdrawal."""

    SIGNED = "signed"
    """We signed a transaction, and what could have landed before is known not to have."""
    RENEWED = "renewed"
    """We signed once more what excludes the earlier one on the chain itself."""
    BROADCAST = "broadcast"
    """A node took it, or may have."""
    LANDED = "landed"
    """We read on the chain that it moved the money."""
    FAILED_ON_CHAIN = "failed_on_chain"
    """We read on the chain that it ran and failed, for good."""
    EXPIRED = "expired"
    """We read on the chain that it is not there, and it can land no more."""
    IMPOSSIBLE = "impossible"
    """It cannot be sent, as we found before anything was signed."""
    GAVE_UP = "gave_up"
    """It was tried for as long and as often as we try."""


S, E = WithdrawalState, WithdrawalEvent

FINAL = (S.CONFIRMED, S.RETURNED)
OPEN = (S.REQUESTED, S.SIGNED, S.SENT)

_NEXT: dict[tuple[WithdrawalState, WithdrawalEvent], WithdrawalState] = {
    (S.REQUESTED, E.SIGNED): S.SIGNED,
    (S.REQUESTED, E.IMPOSSIBLE): S.RETURNED,
    (S.REQUESTED, E.GAVE_UP): S.RETURNED,
    # Found before a new one is signed: an earlier one landed, whatever we had read of it.
    (S.REQUESTED, E.LANDED): S.CONFIRMED,
    (S.SIGNED, E.BROADCAST): S.SENT,
    (S.SIGNED, E.RENEWED): S.SIGNED,
    (S.SIGNED, E.LANDED): S.CONFIRMED,
    (S.SIGNED, E.FAILED_ON_CHAIN): S.RETURNED,
    (S.SIGNED, E.EXPIRED): S.REQUESTED,
    (S.SENT, E.BROADCAST): S.SENT,
    (S.SENT, E.RENEWED): S.SIGNED,
    (S.SENT, E.LANDED): S.CONFIRMED,
    (S.SENT, E.FAILED_ON_CHAIN): S.RETURNED,
    (S.SENT, E.EXPIRED): S.REQUESTED,
}


def next_state(state: WithdrawalState, event: WithdrawalEvent) -> WithdrawalState:
    """Where `event` takes a withdrawal; Problem CONFLICT for what cannot happen to it there."""
    after = _NEXT.get((state, event))
    if after is None:
        raise Problem(ProblemCode.CONFLICT, f"a withdrawal that is {state} cannot be {event}")
    return after
