"""Accounts without a wallet: strangers open them, and come back by a recovery code or a passkey.

Each step is one unit: an account, its credential, the proof's single use and the session are there
together or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from parhelion.identity import passkeys
from parhelion.identity.newcomers import Newcomers
from parhelion.identity.passkeys import Kept, Made, Passkeys, Shown
from parhelion.identity.recovery import RecoveryCodes
from parhelion.identity.secrets import Entropy
from parhelion.identity.sessions import Session, Sessions
from parhelion.identity.sign_in import Place
from parhelion.identity.sign_ins import SESSION_TTL_S
from parhelion.store import Refused, Statement, Store
from parhelion.words import Clock


class Entered(NamedTuple):
    """A session just opened; its token is never to be seen again."""

    token: str
    session: Session


class Ways(NamedTuple):
    """How the owner of an account comes back to it, beside by its wallets."""

    passkeys: int
    has_recovery_code: bool


class Members:
    """Opens accounts and sessions of `asset` for who brings no wallet."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        sessions: Sessions,
        newcomers: Newcomers,
        secret: bytes,
        asset: str,
        entropy: Entropy = os.urandom,
    ) -> None:
        self.asset = asset
        self._store = store
        self._sessions = sessions
        self._newcomers = newcomers
        self._codes = RecoveryCodes(store, clock, entropy)
        self._passkeys = Passkeys(store, clock, secret, entropy)

    async def open_with_code(self, address: str) -> tuple[str, Entered]:
        """A new account's recovery code, shown this once, and its first session.

        Problem RATE_LIMITED; `address` is where the stranger is, "" where that is not known.
        """
        self._newcomers.admit(address)
        account = self._newcomers.name()
        code, keep = self._codes.issue(account)
        return code, await self._enter(account, (*self._newcomers.opening(account), keep))

    async def enter_with_code(self, code: str, address: str) -> Entered:
        """A session for a recovery code; Problem SIGN_IN_INVALID or RATE_LIMITED.

        Whoever signs in with an offered code has it: this confirms it, as `confirm_code` does.
        """
        opened = await self._codes.account_of(code, address)
        token, session, rows = self._issue(opened.account)
        if opened.rows:
            rows = (*rows, self._sessions.ending_others(session))
        await self._commit((*opened.rows, *rows))
        return Entered(token, session)

    async def offer_code(self, by: Session) -> str:
        """Another recovery code of a session's account, good beside the one before it.

        Until it is confirmed: then its owner is known to have it.
        """
        code, offer = self._codes.offer(by.account)
        await self._store.commit([offer])
        return code

    async def confirm_code(self, by: Session, code: str) -> int:
        """The code that was offered is kept: the one before it is void. How many were signed out.

        Every other sign-in ends: who asks for a new code may have been found out.
        """
        return len(await self._codes.confirm(by.account, code, self._sessions.ending_others(by)))

    async def end_others(self, kept: Session) -> int:
        """End every other sign-in of this session's account; how many there were."""
        (ended,) = await self._store.commit([self._sessions.ending_others(kept)])
        return len(ended)

    async def passkey_creation(self, place: Place, account: str | None) -> dict[str, Any]:
        """What a browser is asked for a new passkey: of this account, or of a new one."""
        return await self._passkeys.creation(place, account)

    def passkey_request(self, place: Place) -> dict[str, Any]:
        """What a browser is asked to sign in with a passkey."""
        return self._passkeys.request(place)

    async def open_with_passkey(self, made: Made, place: Place, address: str) -> Entered:
        """The first session of a new account, which this passkey opens."""
        proven = await self._passkeys.register(made, place, None)
        # Only now: what proves nothing takes nobody's place.
        self._newcomers.admit(address)
        opening = self._newcomers.opening(proven.account)
        return await self._enter(proven.account, (*proven.used, *opening, *proven.rows))

    async def add_passkey(self, made: Made, place: Place, account: str) -> None:
        """Let one more passkey open an account."""
        proven = await self._passkeys.register(made, place, account)
        await self._commit((*proven.used, *proven.rows))

    async def passkeys(self, account: str) -> tuple[Kept, ...]:
        """The passkeys of an account, the oldest first."""
        return await self._passkeys.of_account(account)

    async def remove_passkey(self, id: str, account: str) -> None:
        """Let a passkey, by its id, open this account no more.

        Problem NOT_FOUND, or CONFLICT where it is the last way in; a wallet and a recovery code are
        ways in as well.
        """
        await self._passkeys.remove(id, account)

    async def enter_with_passkey(self, shown: Shown, place: Place) -> Entered:
        """A session for a passkey's answer; Problem SIGN_IN_INVALID says what is wrong with it."""
        proven = await self._passkeys.prove(shown, place)
        return await self._enter(proven.account, (*proven.used, *proven.rows))

    async def ways(self, account: str) -> Ways:
        """How the owner of an account comes back to it."""
        return Ways(await self._passkeys.how_many(account), await self._codes.has(account))

    async def _enter(self, account: str, first: Sequence[Statement]) -> Entered:
        token, session, rows = self._issue(account)
        await self._commit((*first, *rows))
        return Entered(token, session)

    def _issue(self, account: str) -> tuple[str, Session, tuple[Statement, ...]]:
        return self._sessions.issue(account, self.asset, None, SESSION_TTL_S)

    async def _commit(self, unit: Sequence[Statement]) -> None:
        try:
            await self._store.commit(unit)
        except Refused as refused:
            # No name here for the problem: it leads to this frame, and the two would be a ring.
            passkeys.refuse(refused)
            raise
