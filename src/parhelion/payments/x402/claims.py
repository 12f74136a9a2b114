"""The states of a claim on a payment; pure.

    (no row) --claim--> claimed --settled--> SETTLED (final)
                 ^       |   |                  ^
                 |       |   +--ambiguous--+    | landed
                 |       | refused, unsent |    |
                 |       v                 v    |
                 +---- failed <--expired-- pending
                         |   failed on chain
                         +--landed--> SETTLED

A claim is released (`failed`: the same payment may be claimed again) only by an event that says
definitely that nothing was paid. Once it may have been sent, only the chain's word counts. What
lands after all is settled whatever we believed before: the money is here, so it is credited.
"""

from __future__ import annotations

from enum import StrEnum

from parhelion.words import Problem, ProblemCode

EXPIRY_MARGIN_S = 30
"""Between our clock and a chain's, and the last block that an authorization could be in."""

BLOCKHASH_LIFE_S = 90
"""150 slots of 400 ms are 60 s; slots run late under load. A node that lags calls a blockhash
expired that it has not seen yet, so its word alone frees nothing before this."""


class ClaimState(StrEnum):
    """Where a claim stands."""

    CLAIMED = "claimed"
    """Written, and perhaps on its way to be settled."""
    PENDING = "pending"
    """May have been sent; the chain will tell."""
    SETTLED = "settled"
    """Landed, and credited in the same unit. Final."""
    FAILED = "failed"
    """Definitely not paid: the same payment may be claimed again."""


class ClaimEvent(StrEnum):
    """What can happen to a claim."""

    CLAIM = "claim"
    """The same payment is presented again."""
    REFUSED = "refused"
    """The facilitator says that this is not paid, and never sent it."""
    UNSENT = "unsent"
    """We never asked: no slot was free, or the facilitator could not be reached."""
    AMBIGUOUS = "ambiguous"
    """Perhaps sent: no answer in time, or one that cannot be believed yet."""
    RESTARTED = "restarted"
    """The process that had claimed it is gone."""
    LANDED = "landed"
    """We read on the chain that it moved the money to us."""
    FAILED_ON_CHAIN = "failed_on_chain"
    """We read on the chain that it ran and failed."""
    EXPIRED = "expired"
    """We read on the chain that it is not there, and it can land no more."""
    UNKNOWN = "unknown"
    """The chain says nothing of it yet."""


S, E = ClaimState, ClaimEvent

_NEXT: dict[tuple[ClaimState, ClaimEvent], ClaimState] = {
    (S.CLAIMED, E.REFUSED): S.FAILED,
    (S.CLAIMED, E.UNSENT): S.FAILED,
    (S.CLAIMED, E.AMBIGUOUS): S.PENDING,
    (S.CLAIMED, E.RESTARTED): S.PENDING,
    (S.CLAIMED, E.LANDED): S.SETTLED,
    (S.CLAIMED, E.FAILED_ON_CHAIN): S.FAILED,
    # Only what was sent can be read as gone: a claim that is just being settled waits.
    (S.CLAIMED, E.EXPIRED): S.PENDING,
    (S.CLAIMED, E.UNKNOWN): S.PENDING,
    (S.PENDING, E.LANDED): S.SETTLED,
    (S.PENDING, E.FAILED_ON_CHAIN): S.FAILED,
    (S.PENDING, E.EXPIRED): S.FAILED,
    (S.PENDING, E.AMBIGUOUS): S.PENDING,
    (S.PENDING, E.RESTARTED): S.PENDING,
    (S.PENDING, E.UNKNOWN): S.PENDING,
    # Refused after it may have been sent proves nothing: "already processed" is a refusal too.
    (S.PENDING, E.REFUSED): S.PENDING,
    (S.FAILED, E.CLAIM): S.CLAIMED,
    (S.FAILED, E.LANDED): S.SETTLED,
}

_NOTHING_CHANGES = {
    S.FAILED: {E.REFUSED, E.UNSENT, E.FAILED_ON_CHAIN, E.EXPIRED, E.UNKNOWN, E.RESTARTED},
    S.SETTLED: {E.LANDED, E.RESTARTED, E.UNKNOWN, E.AMBIGUOUS},
}


def next_state(state: ClaimState, event: ClaimEvent) -> ClaimState:
    """Where `event` takes a claim; Problem CONFLICT for what cannot happen to it there."""
    after = _NEXT.get((state, event))
    if after is not None:
        return after
    if event in _NOTHING_CHANGES.get(state, set()):
        return state
    raise Problem(ProblemCode.CONFLICT, f"a claim that is {state} cannot be {event}")


def states_before(event: ClaimEvent, after: ClaimState) -> tuple[ClaimState, ...]:
    """The states that this event takes to `after`: what a statement must find in the row."""
    return tuple(state for (state, what), to in _NEXT.items() if (what, to) == (event, after))


def may_still_land(
    *, signed_before_ms: int, valid_before_s: int | None, now_ms: int, is_expired_there: bool
) -> bool:
    """Whether a payment that the chain does not have could be there later.

    `signed_before_ms`: when we had it in hand, so its blockhash is older. `valid_before_s`: its
    own end, on EVM chains. `is_expired_there`: what the chain's node says. Both must agree.
    """
    if not is_expired_there:
        return True
    if valid_before_s is not None:
        return now_ms <= (valid_before_s + EXPIRY_MARGIN_S) * 1000
    return now_ms < signed_before_ms + BLOCKHASH_LIFE_S * 1000
