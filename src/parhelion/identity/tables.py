"""The tables of identity; secrets are in them as hashes only."""

from __future__ import annotations

from parhelion.store import Migration

_TABLES = """
-- Who can own credentials. What an account has is the ledger's; this is whom it answers to.
CREATE TABLE owners(
    account TEXT PRIMARY KEY, kind TEXT NOT NULL, created_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- `reserved_micro` is held for requests that run. The CHECK is the spending limit: a hold that
-- would pass it is refused with its whole unit, however many race.
CREATE TABLE keys(
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    account TEXT NOT NULL REFERENCES owners(account),
    name TEXT NOT NULL,
    asset TEXT NOT NULL,
    prefix TEXT NOT NULL,
    limit_micro INTEGER,
    reserved_micro INTEGER NOT NULL DEFAULT 0,
    spent_micro INTEGER NOT NULL DEFAULT 0,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER,
    revoked_at_ms INTEGER,
    CHECK (reserved_micro >= 0 AND spent_micro >= 0),
    CHECK (limit_micro IS NULL OR spent_micro + reserved_micro <= limit_micro)
) STRICT;
CREATE INDEX keys_of_account ON keys(account, created_at_ms);

CREATE TABLE invites(
    hash BLOB PRIMARY KEY,
    uses_left INTEGER NOT NULL CHECK (uses_left >= 0),
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What was decided about a peer; `next` is the peer that followed a succeeded one.
CREATE TABLE node_access(
    peer TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('admitted', 'allowed', 'revoked', 'succeeded')),
    reason TEXT NOT NULL,
    next TEXT,
    at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""

MIGRATIONS: tuple[Migration, ...] = (Migration(number=20, room="identity", sql=_TABLES),)
