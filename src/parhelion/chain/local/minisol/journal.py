"""The file: every transaction that landed and every account, in one SQLite database.

A row and the accounts that it changed are one durable unit, so a start reads accounts and replays
nothing. One thread writes, one group at a time; reading is the event loop's, from the page cache.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from solders.account import Account
from solders.pubkey import Pubkey

from parhelion.chain.local.minisol.bank import Changes
from parhelion.chain.local.minisol.records import Landed
from parhelion.chain.local.minisol.tokens import holding_in
from parhelion.words import Problem, ProblemCode

FORMAT = 1
"""Of the tables below; a file of another format is refused."""

SCHEMA = """
CREATE TABLE facts(name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE transactions(
  number INTEGER PRIMARY KEY,
  signature BLOB NOT NULL UNIQUE,
  message_hash BLOB NOT NULL UNIQUE,
  slot INTEGER NOT NULL,
  block_time_s INTEGER NOT NULL,
  wire BLOB NOT NULL,
  error TEXT,
  meta BLOB NOT NULL,
  memo TEXT
) STRICT;
CREATE INDEX transactions_by_slot ON transactions(slot);
CREATE TABLE mentions(
  address BLOB NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (address, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE accounts(
  address BLOB PRIMARY KEY,
  lamports TEXT NOT NULL,
  owner BLOB NOT NULL,
  executable INTEGER NOT NULL,
  rent_epoch TEXT NOT NULL,
  data BLOB NOT NULL,
  token_owner BLOB
) STRICT;
CREATE INDEX accounts_by_token_owner ON accounts(token_owner) WHERE token_owner IS NOT NULL;
"""
# Lamports and rent epochs are 64 bits without a sign, one bit more than SQLite's integers.

ADD = """INSERT INTO transactions(
  signature, message_hash, slot, block_time_s, wire, error, meta, memo)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
MENTION = "INSERT INTO mentions(address, number) VALUES (?, ?)"
PUT = """INSERT OR REPLACE INTO accounts(
  address, lamports, owner, executable, rent_epoch, data, token_owner)
VALUES (?, ?, ?, ?, ?, ?, ?)"""
DROP = "DELETE FROM accounts WHERE address = ?"

FIND = "SELECT slot, block_time_s, wire, error, meta FROM transactions WHERE signature = ?"
KNOWN = "SELECT signature FROM transactions WHERE message_hash = ?"
HISTORY = """SELECT t.signature, t.slot, t.error, t.memo, t.block_time_s
FROM mentions m JOIN transactions t ON t.number = m.number
WHERE m.address = ? AND m.number < ? AND m.number > ? AND t.slot <= ?
ORDER BY m.number DESC LIMIT ?"""


class Row(msgspec.Struct, frozen=True):
    """A landed transaction as the file has it."""

    slot: int
    block_time_s: int
    wire: bytes
    error: Any
    meta: bytes


class Journal:
    """One open file."""

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600)  # It holds what everybody here paid: not for other users.
        self._writer = _connect(path)
        fresh = self._writer.execute("PRAGMA user_version").fetchone()[0] == 0
        if fresh:
            self._writer.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
        found = self._writer.execute("PRAGMA user_version").fetchone()[0]
        if found != FORMAT:
            raise Problem(
                ProblemCode.STORE_UNAVAILABLE,
                f"{path.name} has format {found}; this program knows {FORMAT}",
                hint="use the program that wrote it, or give minisol a new folder",
            )
        self._reader = _connect(path)

    # --- writing: one thread at a time ----------------------------------------------------------

    def begin(self, facts: dict[str, bytes], accounts: Changes) -> None:
        """Write the genesis, whole or not at all."""
        execute = self._writer.execute
        execute("BEGIN IMMEDIATE")
        for name, value in facts.items():
            execute("INSERT INTO facts(name, value) VALUES (?, ?)", (name, value))
        self._put(accounts)
        execute("COMMIT")

    def append(self, rows: Sequence[Landed]) -> None:
        """Make rows durable, in their order, all or none."""
        execute = self._writer.execute
        execute("BEGIN IMMEDIATE")
        try:
            changes: Changes = {}
            for row in rows:
                error = None if row.error is None else msgspec.json.encode(row.error).decode()
                head = (row.signature, row.message_hash, row.slot, row.block_time_s)
                number = execute(ADD, (*head, row.wire, error, row.meta, row.memo)).lastrowid
                mentions = [(address, number) for address in row.addresses]
                self._writer.executemany(MENTION, mentions)
                changes.update(row.changes)
            self._put(changes)
            execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Move the log into the file and close."""
        self._reader.close()
        self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._writer.close()

    def _put(self, changes: Changes) -> None:
        for key, account in changes.items():
            if account is None:
                self._writer.execute(DROP, (bytes(key),))
                continue
            holding = holding_in(account)
            self._writer.execute(
                PUT,
                (
                    bytes(key),
                    str(account.lamports),
                    bytes(account.owner),
                    int(account.executable),
                    str(account.rent_epoch),
                    account.data,
                    None if holding is None else bytes(holding.owner),
                ),
            )

    # --- reading: the event loop ----------------------------------------------------------------

    def fact(self, name: str) -> bytes | None:
        """What the genesis wrote under a name."""
        row = self._reader.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def accounts(self) -> Changes:
        """All of them; programs last, for their code may lie in an account of its own."""
        rows = self._reader.execute(
            "SELECT address, lamports, data, owner, executable, rent_epoch FROM accounts"
            " ORDER BY executable"
        )
        return {
            Pubkey.from_bytes(address): Account(
                int(lamports), data, Pubkey.from_bytes(owner), bool(executable), int(rent_epoch)
            )
            for address, lamports, data, owner, executable, rent_epoch in rows
        }

    def last_slot(self) -> int:
        """The newest slot in which anything landed; -1 before that."""
        return self._reader.execute("SELECT coalesce(max(slot), -1) FROM transactions").fetchone()[
            0
        ]

    def count(self) -> int:
        """How many transactions have landed."""
        return self._reader.execute("SELECT coalesce(max(number), 0) FROM transactions").fetchone()[
            0
        ]

    def find(self, signature: bytes) -> Row | None:
        """A transaction by its first signature."""
        row = self._reader.execute(FIND, (signature,)).fetchone()
        if row is None:
            return None
        slot, block_time_s, wire, error, meta = row
        return Row(slot, block_time_s, wire, _error(error), meta)

    def signature_of(self, message_hash: bytes) -> bytes | None:
        """Under which signature a message has landed, if it has."""
        row = self._reader.execute(KNOWN, (message_hash,)).fetchone()
        return None if row is None else row[0]

    def number_of(self, signature: bytes) -> int | None:
        """Where in the order of landing a transaction stands."""
        query = "SELECT number FROM transactions WHERE signature = ?"
        row = self._reader.execute(query, (signature,)).fetchone()
        return None if row is None else row[0]

    def history(
        self, address: bytes, before: int, until: int, slot: int, limit: int
    ) -> list[dict[str, Any]]:
        """Transactions that name an address, newest first, between two numbers, up to a slot."""
        rows = self._reader.execute(HISTORY, (address, before, until, slot, limit))
        return [
            {
                "signature": signature,
                "slot": slot,
                "err": _error(error),
                "memo": memo,
                "blockTime": block_time_s,
            }
            for signature, slot, error, memo, block_time_s in rows
        ]

    def token_accounts(self, owner: bytes, limit: int) -> list[Pubkey]:
        """The token accounts of an owner."""
        query = "SELECT address FROM accounts WHERE token_owner = ? ORDER BY address LIMIT ?"
        return [Pubkey.from_bytes(row[0]) for row in self._reader.execute(query, (owner, limit))]


def _connect(path: Path) -> sqlite3.Connection:
    # Autocommit: transactions are said. One thread at a time uses a connection, not always one.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA busy_timeout = 5000")
    return connection


def _error(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)
