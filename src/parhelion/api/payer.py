"""Whose account a request reads: its key's, else its session's, else the signing wallet's."""

from __future__ import annotations

from litestar.types import Scope

from parhelion.api.exchange import credentials_of
from parhelion.api.rooms import Rooms
from parhelion.api.session import session_token
from parhelion.api.wire import scheme_of, visit_of
from parhelion.identity import Caller, Session, site_of
from parhelion.payments.proving import Prover
from parhelion.payments.rules import Payer
from parhelion.words import Problem, ProblemCode


async def payer_of(scope: Scope, rooms: Rooms) -> Payer:
    """Who asks for something of an account, by any credential of ours but a paid answer's session.

    Whoever brought a payment need not be its wallet's owner: such a session reads nothing of the
    account (decision 024), and a key with a limit only what is its own (`Payer.reads_key`).
    """
    payer = await proven_of(scope, rooms)
    if payer.answer is not None:
        raise only_an_answer(payer.answer)
    return payer


async def whole_of(scope: Scope, rooms: Rooms) -> Payer:
    """Who asks, by a credential that may spend all of its account; Problem FORBIDDEN otherwise.

    For what reads of the other credentials: a key with a limit or an end is not good for more than
    it is.
    """
    payer = await payer_of(scope, rooms)
    whole = True
    if payer.key is not None:
        key = rooms.keys.authenticate(visit_of(scope).bearer or "")
        whole = key.limit_micro is None and key.expires_at_ms is None
    if not whole:
        raise Problem(
            ProblemCode.FORBIDDEN,
            "This credential is not good for all of its account.",
            hint="use a key without limit and expiry, or sign in",
        )
    return payer


async def owner_of(scope: Scope, rooms: Rooms) -> Session:
    """The session of an account's owner; Problem FORBIDDEN for any other credential.

    For what outlasts a key, wallets and further keys too: whoever found one must not be able to
    lock its owner out, nor to stay when it is revoked.
    """
    payer = await payer_of(scope, rooms)
    if payer.session is None:
        raise Problem(
            ProblemCode.FORBIDDEN,
            "This needs a session of the account, and no key is one.",
            hint="sign in with a wallet, a passkey or a recovery code, and send no key",
        )
    return payer.session


async def caller_of(scope: Scope, rooms: Rooms) -> Caller:
    """Who asks for what anybody may have a share of; never a Problem of credentials.

    A bad credential is as good as none: it is not what is asked by, only what tells people apart
    whom a proxy hides. A signature is not looked at, because that would use it up.
    """
    visit = visit_of(scope)
    try:
        account = await _account_of(scope, rooms)
    except Problem as problem:
        if problem.code not in _BAD:
            raise
        account = ""
    return Caller(site_of(visit.known_address), account)


_BAD = {ProblemCode.INVALID_REQUEST, ProblemCode.INVALID_SESSION, ProblemCode.INVALID_API_KEY}
"""Two different sessions, one that has ended, a key that is none."""


async def _account_of(scope: Scope, rooms: Rooms) -> str:
    visit = visit_of(scope)
    token = session_token(visit.fields, visit.bearer, scheme_of(scope))
    if token is not None:
        session = await rooms.sessions.find(token)
        # Who brought a payment for an answer need not be its wallet's owner.
        return session.account if session.tier is None else ""
    return "" if visit.bearer is None else rooms.keys.authenticate(visit.bearer).account


def only_an_answer(session: Session) -> Problem:
    """What a session that was bought with one answer hears of anything else."""
    return Problem(
        ProblemCode.FORBIDDEN,
        f"This session is for one {session.tier} answer, and reads its receipt only.",
        hint="sign in with the wallet that paid: POST /v1/sign-in/challenge",
    )


async def proven_of(scope: Scope, rooms: Rooms) -> Payer:
    """Who asks, by any credential of ours; two of different accounts are refused.

    Problem MISSING_CREDENTIALS without any, or what is wrong with the one that came.
    """
    asset = "" if rooms.shop is None else rooms.shop.checkout.asset
    prover = Prover(rooms.keys, rooms.sessions, rooms.sign_ins, asset)
    said = credentials_of(scope)
    # SDKs always send some key: beside a session one without the form of ours is none.
    is_needed = said.session is None and said.sign_in is None
    proven = await prover.prove(said, is_needed=is_needed)
    if proven is None:
        raise Problem(
            ProblemCode.MISSING_CREDENTIALS,
            "You did not send an API key or a session.",
            hint="send the header Authorization: Bearer with a key (sk-prl-…) or a session "
            "(ses-prl-…)",
        )
    return proven
