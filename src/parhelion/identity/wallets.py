"""Wallets as credentials: a CAIP-10 account of a chain answers for exactly one account of ours.

A wallet's account is opened by the first payment that came from it, which proves that somebody
holds its key; nothing here lets anybody *use* the account without signing again.
"""

from __future__ import annotations

import os
import re

from parhelion.identity import base58
from parhelion.identity.secrets import Entropy
from parhelion.ledger import Ledger
from parhelion.store import Refused, Statement, Store
from parhelion.words import ID_ENTROPY_BYTES, Clock, Problem, ProblemCode, mint

SOLANA_ADDRESS_BYTES = 32
WALLET_KIND = "wallet"

_EVM = re.compile(r"(eip155:[0-9]{1,32}):(0x[0-9a-fA-F]{40})")
_SOLANA = re.compile(r"(solana:[1-9A-HJ-NP-Za-km-z]{32}):([1-9A-HJ-NP-Za-km-z]{32,44})")

_FIND = "SELECT account FROM wallets WHERE wallet = ?"
_OF_ACCOUNT = "SELECT wallet FROM wallets WHERE account = ? ORDER BY linked_at_ms, wallet"
_OWN = "INSERT INTO owners(account, kind, created_at_ms) VALUES (?, ?, ?)"
_LINK = "INSERT INTO wallets(wallet, account, linked_at_ms) VALUES (?, ?, ?)"
_LINK_MORE = """
INSERT INTO wallets(wallet, account, linked_at_ms)
SELECT ?1, ?2, ?3 WHERE (SELECT count(*) FROM wallets WHERE account = ?2) < ?4
"""

WALLETS_PER_ACCOUNT_LIMIT = 64
"""Nobody has more by hand; who proves two sides over and over cannot fill the file."""


class Wallets:
    """Which account each wallet answers for."""

    def __init__(
        self, store: Store, ledger: Ledger, clock: Clock, entropy: Entropy = os.urandom
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._entropy = entropy

    async def find(self, wallet: str) -> str | None:
        """The account of a wallet (CAIP-10), None while it has none."""
        rows = await self._store.read(_FIND, (caip10(wallet),))
        return str(rows[0][0]) if rows else None

    async def of_account(self, account: str) -> tuple[str, ...]:
        """The wallets of an account, the first linked first."""
        return tuple(str(row[0]) for row in await self._store.read(_OF_ACCOUNT, (account,)))

    async def account_of(self, wallet: str) -> str:
        """The account of a wallet that has proven itself; opened where there is none yet."""
        named = caip10(wallet)
        account = await self.find(named)
        if account is not None:
            return account
        now_ms = self._clock.now_ms()
        account = mint("acct", now_ms, self._entropy(ID_ENTROPY_BYTES))
        unit = [
            self._ledger.opening(account, WALLET_KIND),
            Statement("owner.insert", _OWN, (account, WALLET_KIND, now_ms), rows=1),
            Statement("wallet.link", _LINK, (named, account, now_ms), rows=1),
        ]
        try:
            await self._store.commit(unit)
        except Refused as refused:
            # Two payments of a new wallet at once: whoever was first has opened its account.
            found = await self.find(named)
            if refused.name != "wallet.link" or found is None:
                raise
            return found
        return account

    async def link(self, wallet: str, account: str) -> None:
        """Make a wallet answer for this account too; both have proven themselves to the caller.

        Idempotent. Problem CONFLICT when it answers for another account: its money would be lost
        to it, and an account's past cannot be joined to another's.
        """
        named = caip10(wallet)
        row = (named, account, self._clock.now_ms(), WALLETS_PER_ACCOUNT_LIMIT)
        try:
            await self._store.commit([Statement("wallet.link", _LINK_MORE, row, rows=1)])
        except Refused as refused:
            found = await self.find(named)
            if found == account:
                return
            if refused.kind == "rows":
                message = f"an account has at most {WALLETS_PER_ACCOUNT_LIMIT} wallets"
                hint = "use one of those that it has"
            else:
                message = "this wallet has an account of its own already"
                hint = "use it as it is, or link a wallet that never paid or signed in here"
            raise Problem(ProblemCode.CONFLICT, message, hint=hint) from refused


def caip10(wallet: str) -> str:
    """The one written form of a wallet; Problem INVALID_REQUEST for what is none.

    EVM addresses in lower case: their capitals are only a checksum. Solana's are the key itself.
    """
    evm = _EVM.fullmatch(wallet)
    if evm is not None:
        return f"{evm[1]}:{evm[2].lower()}"
    solana = _SOLANA.fullmatch(wallet)
    if solana is None or not is_solana_address(solana[2]):
        raise Problem(
            ProblemCode.INVALID_REQUEST,
            f"not a wallet: {wallet[:128]!r}",
            hint="write it like eip155:8453:0x… or solana:<genesis>:<address> (CAIP-10)",
        )
    return wallet


def is_solana_address(text: str) -> bool:
    """Whether this is the canonical base58 of 32 bytes."""
    try:
        raw = base58.decode(text)
    except ValueError:
        return False
    return len(raw) == SOLANA_ADDRESS_BYTES and base58.encode(raw) == text
