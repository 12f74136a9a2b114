"""Whose account a request may spend from, as its credentials prove it (DESIGN 2, "Credentials")."""

from __future__ import annotations

from typing import Protocol

from parhelion.identity import Keys, Session, Sessions, is_ours, is_session
from parhelion.payments.rules import Payer
from parhelion.words import Credentials, Problem, ProblemCode


class SignIns(Protocol):
    """Wallets that prove themselves in the header of a request."""

    async def header(self, value: bytes, url: str) -> tuple[str, str] | None:
        """The account and the wallet (CAIP-10) that a SIGN-IN-WITH-X header proves.

        None where the wallet has no account: it never paid, so it has nothing to spend.
        """
        ...


class Prover:
    """Looks keys, sessions and signatures up; `wallet_asset` is what a wallet spends here."""

    def __init__(
        self,
        keys: Keys,
        sessions: Sessions | None = None,
        sign_ins: SignIns | None = None,
        wallet_asset: str = "",
    ) -> None:
        self._keys = keys
        self._sessions = sessions
        self._sign_ins = sign_ins
        self._wallet_asset = wallet_asset

    async def prove(self, credentials: Credentials, *, is_needed: bool) -> Payer | None:
        """Who pays: by the key, else by the session, else by the signature; None without any.

        A bad one of ours is refused here and never falls through to the next kind, or to the
        guest. A bearer without the form of ours is none where none `is_needed` (decision 007):
        SDKs always send some key. Two that name different accounts are refused.
        """
        proven = self._by_key(credentials.bearer, is_needed)
        # A session's token in place of a key is read into `session` where headers are read.
        if credentials.session is not None:
            proven = _one_of(proven, await self._by_session(credentials.session))
        if credentials.sign_in is not None and self._sign_ins is not None:
            known = await self._sign_ins.header(credentials.sign_in, credentials.url)
            if known is not None:
                proven = _one_of(proven, Payer(known[0], None, self._wallet_asset))
        return proven

    async def answer_of(self, credentials: Credentials) -> Session | None:
        """The session whose answer a request spends; None where something else pays for it.

        As `prove` has it: a payment and a key come before a session. Problem for a bad session.
        """
        bearer = credentials.bearer
        has_key = bearer is not None and is_ours(bearer) and not is_session(bearer)
        if credentials.session is None or credentials.payment is not None or has_key:
            return None
        return (await self._by_session(credentials.session)).answer

    def _by_key(self, bearer: str | None, is_needed: bool) -> Payer | None:
        if bearer is None or is_session(bearer) or (not is_needed and not is_ours(bearer)):
            return None
        key = self._keys.authenticate(bearer)
        return Payer(key.account, key.id, key.asset, is_limited=key.limit_micro is not None)

    async def _by_session(self, token: str) -> Payer:
        if self._sessions is None:
            raise Problem(ProblemCode.INVALID_SESSION, "no session was ever opened here")
        session: Session = await self._sessions.find(token)
        return Payer(session.account, None, session.asset, session)


def _one_of(first: Payer | None, second: Payer) -> Payer:
    if first is None:
        return second
    if first.account != second.account:
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            "two credentials of this request name different accounts",
            hint="send one of them",
        )
    return first
