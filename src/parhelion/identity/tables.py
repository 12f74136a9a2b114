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

_SESSIONS = """
-- A session spends one asset of one account until it expires; its token is here as a hash only.
-- `wallet` (CAIP-10) opened it, by a payment or a signature. With a `tier` it is worth that one
-- answer, whose money the ledger's hold `hold` has set aside; the request `spent_by` had it.
CREATE TABLE sessions(
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    account TEXT NOT NULL REFERENCES owners(account),
    asset TEXT NOT NULL,
    wallet TEXT NOT NULL,
    tier TEXT,
    hold TEXT UNIQUE,
    spent_by TEXT,
    opened_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    CONSTRAINT an_answer_is_paid CHECK ((tier IS NULL) = (hold IS NULL)),
    CONSTRAINT only_answers_are_spent CHECK (spent_by IS NULL OR tier IS NOT NULL)
) STRICT;
CREATE INDEX sessions_by_expiry ON sessions(expires_at_ms);
CREATE INDEX sessions_of_account ON sessions(account, opened_at_ms);

CREATE TRIGGER session_is_spent_once BEFORE UPDATE OF spent_by ON sessions
    WHEN OLD.spent_by IS NOT NULL AND NEW.spent_by <> OLD.spent_by
BEGIN SELECT RAISE(ABORT, 'the answer of a session is spent once'); END;

-- Nonces of ours that a wallet has signed, until they would be refused for their age anyway.
CREATE TABLE sign_in_nonces(
    nonce TEXT PRIMARY KEY, expires_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sign_in_nonces_by_expiry ON sign_in_nonces(expires_at_ms);
"""

_TOPUP_KEYS = """
-- The wallet (CAIP-10) whose top-up made the key; NULL for a key that the operator made.
ALTER TABLE keys ADD COLUMN wallet TEXT;
CREATE INDEX keys_live ON keys(account, wallet) WHERE revoked_at_ms IS NULL;
-- Top-up keys that may be ended: expired, or the emptiest, of an account and of all.
CREATE INDEX keys_topup_end ON keys(expires_at_ms)
    WHERE wallet IS NOT NULL AND revoked_at_ms IS NULL;
CREATE INDEX keys_topup_of_account ON keys(account, limit_micro - spent_micro)
    WHERE wallet IS NOT NULL AND revoked_at_ms IS NULL;
CREATE INDEX keys_topup_left ON keys(limit_micro - spent_micro)
    WHERE wallet IS NOT NULL AND revoked_at_ms IS NULL;
"""

_ACCOUNTS_WITHOUT_WALLETS = """
-- A passkey or a recovery code opens a session as well, so `wallet` may be NULL. A NOT NULL cannot
-- be dropped: the table is made anew.
CREATE TABLE sessions_of_any(
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    account TEXT NOT NULL REFERENCES owners(account),
    asset TEXT NOT NULL,
    wallet TEXT,
    tier TEXT,
    hold TEXT UNIQUE,
    spent_by TEXT,
    opened_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    CONSTRAINT an_answer_is_paid CHECK ((tier IS NULL) = (hold IS NULL)),
    CONSTRAINT an_answer_is_a_wallets CHECK (tier IS NULL OR wallet IS NOT NULL),
    CONSTRAINT only_answers_are_spent CHECK (spent_by IS NULL OR tier IS NOT NULL)
) STRICT;
INSERT INTO sessions_of_any
SELECT id, hash, account, asset, wallet, tier, hold, spent_by, opened_at_ms, expires_at_ms
FROM sessions;
DROP TABLE sessions;
ALTER TABLE sessions_of_any RENAME TO sessions;
CREATE INDEX sessions_by_expiry ON sessions(expires_at_ms);
CREATE INDEX sessions_of_account ON sessions(account, opened_at_ms);
CREATE TRIGGER session_is_spent_once BEFORE UPDATE OF spent_by ON sessions
    WHEN OLD.spent_by IS NOT NULL AND NEW.spent_by <> OLD.spent_by
BEGIN SELECT RAISE(ABORT, 'the answer of a session is spent once'); END;

-- One code an account: a new one takes the place of the old.
CREATE TABLE recovery_codes(
    account TEXT PRIMARY KEY REFERENCES owners(account),
    hash BLOB NOT NULL UNIQUE,
    made_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A passkey belongs to the host (`rp_id`) that it was made at, and to one account. Its counter
-- only goes up, unless it has none and says 0 for ever.
CREATE TABLE passkeys(
    credential BLOB PRIMARY KEY,
    account TEXT NOT NULL REFERENCES owners(account),
    rp_id TEXT NOT NULL,
    public_key BLOB NOT NULL,
    sign_count INTEGER NOT NULL CHECK (sign_count >= 0),
    made_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX passkeys_of_account ON passkeys(account, made_at_ms);

-- Keys that an account made for itself (1), counted apart from those that the operator made.
ALTER TABLE keys ADD COLUMN own INTEGER NOT NULL DEFAULT 0;
CREATE INDEX keys_own ON keys(account, created_at_ms) WHERE own = 1;
CREATE INDEX keys_own_end ON keys(spent_micro, created_at_ms)
    WHERE own = 1 AND revoked_at_ms IS NULL;
"""

_OFFERED_CODES = """
-- A code that was told and is not confirmed: it opens the account beside the one in recovery_codes,
-- whose place it takes when its owner says that it is kept, or signs in with it. One an account.
CREATE TABLE recovery_codes_offered(
    account TEXT PRIMARY KEY REFERENCES owners(account),
    hash BLOB NOT NULL UNIQUE,
    made_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""

_TERMS = """
-- What an answer was sold with (words.Tier as JSON): the pool's owner may change or end its tier
-- before it is asked for. NULL for sign-ins, and for what was sold before this column.
ALTER TABLE sessions ADD COLUMN sold TEXT CHECK (sold IS NULL OR tier IS NOT NULL);
"""

MIGRATIONS: tuple[Migration, ...] = (
    Migration(number=20, room="identity", sql=_TABLES),
    Migration(number=21, room="identity", sql=_BANS_AND_DRAINS),
    Migration(number=22, room="identity", sql=_NAMES),
    Migration(number=23, room="identity", sql=_WALLETS),
    Migration(number=24, room="identity", sql=_SESSIONS),
    Migration(number=25, room="identity", sql=_TOPUP_KEYS),
    Migration(number=26, room="identity", sql=_ACCOUNTS_WITHOUT_WALLETS),
    Migration(number=57, room="identity", sql=_TERMS),
    Migration(number=58, room="identity", sql=_OFFERED_CODES),
)
