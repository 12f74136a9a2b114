"""The tables of withdrawals: known to every start, also where no payment network is configured."""

from __future__ import annotations

from parhelion.store import Migration

_TABLES = """
-- Credits on their way back to the wallet that paid; `key` is the API key that asked. The hold of
-- the same unit sets the amount aside; it is posted in the unit that says confirmed, and given back
-- in the one that says returned.
-- Whoever carries EVM authorizations may put two into one transaction, so that is not unique.
CREATE TABLE x402_withdrawals(
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES accounts(id),
    key TEXT,
    idempotency_key TEXT NOT NULL,
    body_hash TEXT NOT NULL,
    network TEXT NOT NULL,
    wallet TEXT NOT NULL,
    asset TEXT NOT NULL,
    amount_micro INTEGER NOT NULL CHECK (amount_micro > 0),
    state TEXT NOT NULL DEFAULT 'requested'
        CHECK (state IN ('requested', 'signed', 'sent', 'confirmed', 'returned')),
    attempt INTEGER NOT NULL DEFAULT 0,
    transaction_id TEXT,
    reason TEXT NOT NULL DEFAULT '',
    requested_at_ms INTEGER NOT NULL,
    ended_at_ms INTEGER,
    CONSTRAINT asked_once UNIQUE (account, idempotency_key),
    CONSTRAINT ended_when_final
        CHECK ((state IN ('confirmed', 'returned')) = (ended_at_ms IS NOT NULL)),
    CONSTRAINT confirmed_by_a_transaction CHECK (state <> 'confirmed' OR transaction_id IS NOT NULL)
) STRICT;
CREATE INDEX x402_withdrawals_open ON x402_withdrawals(network, requested_at_ms)
    WHERE state IN ('requested', 'signed', 'sent');
CREATE INDEX x402_withdrawals_to ON x402_withdrawals(account, network, wallet);

-- What we signed, written before it goes anywhere: whatever could land is found here.
CREATE TABLE x402_payouts(
    withdrawal TEXT NOT NULL REFERENCES x402_withdrawals(id),
    attempt INTEGER NOT NULL,
    signed TEXT NOT NULL,
    opens_account INTEGER NOT NULL CHECK (opens_account IN (0, 1)),
    signed_at_ms INTEGER NOT NULL,
    PRIMARY KEY (withdrawal, attempt)
) STRICT, WITHOUT ROWID;
CREATE INDEX x402_payouts_that_open ON x402_payouts(signed_at_ms) WHERE opens_account = 1;

CREATE TRIGGER x402_withdrawal_is_final BEFORE UPDATE ON x402_withdrawals
    WHEN OLD.state IN ('confirmed', 'returned')
BEGIN SELECT RAISE(ABORT, 'a withdrawal that ended is never changed'); END;
CREATE TRIGGER x402_withdrawal_keeps_its_terms
    BEFORE UPDATE OF id, account, key, idempotency_key, body_hash, network, wallet, asset,
        amount_micro, requested_at_ms ON x402_withdrawals
BEGIN SELECT RAISE(ABORT, 'the terms of a withdrawal are never changed'); END;
CREATE TRIGGER x402_withdrawal_stays BEFORE DELETE ON x402_withdrawals
BEGIN SELECT RAISE(ABORT, 'a withdrawal is never removed'); END;
CREATE TRIGGER x402_payout_is_final BEFORE UPDATE ON x402_payouts
BEGIN SELECT RAISE(ABORT, 'what was signed is never changed'); END;
CREATE TRIGGER x402_payout_stays BEFORE DELETE ON x402_payouts
BEGIN SELECT RAISE(ABORT, 'what was signed is never removed'); END;
"""

# How many of a day went to a wallet, whichever accounts it paid to.
_BY_WALLET = """
CREATE INDEX x402_withdrawals_by_wallet ON x402_withdrawals(network, wallet, requested_at_ms);
"""

MIGRATIONS: tuple[Migration, ...] = (
    Migration(number=52, room="payments", sql=_TABLES),
    Migration(number=55, room="payments", sql=_BY_WALLET),
)
