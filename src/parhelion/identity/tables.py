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

_BANS_AND_DRAINS = """
-- A CHECK cannot be changed: the table is made anew, and says ban as the command does.
CREATE TABLE node_access_with_bans(
    peer TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('admitted', 'allowed', 'banned', 'succeeded')),
    reason TEXT NOT NULL,
    next TEXT,
    at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO node_access_with_bans
SELECT peer, iif(state = 'revoked', 'banned', state), reason, next, at_ms FROM node_access;
DROP TABLE node_access;
ALTER TABLE node_access_with_bans RENAME TO node_access;

-- Nodes that the pool's owner has drained: they wait outside, whatever their access is.
CREATE TABLE node_drains(
    peer TEXT PRIMARY KEY, reason TEXT NOT NULL, at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""

_NAMES = """
-- What its operator had called the node when that was decided; '' where nobody chose a name.
ALTER TABLE node_access ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE node_drains ADD COLUMN name TEXT NOT NULL DEFAULT '';
"""

_WALLETS = """
-- A wallet (CAIP-10) is a credential of exactly one account; an account may have several.
CREATE TABLE wallets(
    wallet TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES owners(account),
    linked_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX wallets_of_account ON wallets(account, linked_at_ms);
"""

MIGRATIONS: tuple[Migration, ...] = (
    Migration(number=20, room="identity", sql=_TABLES),
    Migration(number=21, room="identity", sql=_BANS_AND_DRAINS),
    Migration(number=22, room="identity", sql=_NAMES),
    Migration(number=23, room="identity", sql=_WALLETS),
)
