"""Accounts: opaque ids that credentials answer for and the ledger keeps money under."""

from __future__ import annotations

import os
import re

from parhelion.identity.secrets import Entropy
from parhelion.ledger import Ledger
from parhelion.store import Statement, Store
from parhelion.words import ID_ENTROPY_BYTES, Clock, Problem, ProblemCode, mint

_KIND = re.compile(r"[a-z][a-z-]{0,31}")


class Accounts:
    """Makes accounts; whose an account is says nothing about what it may do."""

    def __init__(
        self, store: Store, ledger: Ledger, clock: Clock, entropy: Entropy = os.urandom
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._entropy = entropy

    async def create(self, kind: str) -> str:
        """A new account (`acct_...`) of a kind such as `user`, known to ledger and identity."""
        if not _KIND.fullmatch(kind):
            raise Problem(ProblemCode.INVALID_REQUEST, "an account's kind is a lower-case word")
        now_ms = self._clock.now_ms()
        account = mint("acct", now_ms, self._entropy(ID_ENTROPY_BYTES))
        # The ledger first: a crash in between leaves an empty account that nobody can reach.
        await self._ledger.open_account(account, kind)
        await self._store.commit(
            [
                Statement(
                    "owner.insert",
                    "INSERT INTO owners(account, kind, created_at_ms) VALUES (?, ?, ?)",
                    (account, kind, now_ms),
                    rows=1,
                )
            ]
        )
        return account
