"""The tables of x402 claims: known to every start, also where no payment network is configured."""

from __future__ import annotations

from parhelion.store import Migration

_TABLES = """
-- One payment that was presented to us. `payment` is its key (payload.payment_key), `signed` all
-- that is needed to find it on its chain. `account` is credited; NULL: the wallet that paid.
-- `body_hash` is of the request that it came with: whoever brings it again with the same body is
-- served, for what lies on a chain is public. `granted` is the request that it bought,
-- `landed_micro` what we read that it brought.
CREATE TABLE x402_claims(
    network TEXT NOT NULL,
    payment TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('claimed', 'pending', 'settled', 'failed')),
    attempt INTEGER NOT NULL DEFAULT 1,
    request TEXT NOT NULL,
    body_hash TEXT NOT NULL,
    payer TEXT NOT NULL,
    asset TEXT NOT NULL,
    amount_micro INTEGER NOT NULL CHECK (amount_micro > 0),
    signed TEXT NOT NULL,
    account TEXT REFERENCES accounts(id),
    identifier TEXT,
    transaction_id TEXT,
    landed_micro INTEGER CHECK (landed_micro > 0),
    granted TEXT,
    reason TEXT NOT NULL DEFAULT '',
    claimed_at_ms INTEGER NOT NULL,
    ended_at_ms INTEGER,
    look_at_ms INTEGER,
    looks INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (network, payment),
    CONSTRAINT one_transaction UNIQUE (network, transaction_id),
    CONSTRAINT settled_is_whole CHECK (CASE state
        WHEN 'settled' THEN landed_micro IS NOT NULL AND transaction_id IS NOT NULL
                            AND account IS NOT NULL
        ELSE landed_micro IS NULL END),
    CONSTRAINT granted_for_all CHECK (granted IS NULL OR landed_micro IS amount_micro)
) STRICT;
CREATE INDEX x402_claims_due ON x402_claims(look_at_ms) WHERE look_at_ms IS NOT NULL;
CREATE INDEX x402_claims_of_account ON x402_claims(account, claimed_at_ms)
    WHERE account IS NOT NULL;

-- What is settled is a fact, and what was granted is granted once.
CREATE TRIGGER x402_settled_is_final BEFORE UPDATE ON x402_claims
    WHEN OLD.state = 'settled' AND (NEW.state <> 'settled' OR OLD.granted IS NOT NULL
        OR NEW.transaction_id <> OLD.transaction_id OR NEW.landed_micro <> OLD.landed_micro
        OR NEW.account <> OLD.account)
BEGIN SELECT RAISE(ABORT, 'a settled claim is never changed'); END;
CREATE TRIGGER x402_claim_keeps_its_terms
    BEFORE UPDATE OF network, payment, asset, amount_micro ON x402_claims
    WHEN OLD.network <> NEW.network OR OLD.payment <> NEW.payment
        OR (OLD.state <> 'failed' AND (OLD.asset <> NEW.asset
            OR OLD.amount_micro <> NEW.amount_micro))
BEGIN SELECT RAISE(ABORT, 'the terms of a claim are never changed'); END;
CREATE TRIGGER x402_claim_stays BEFORE DELETE ON x402_claims
BEGIN SELECT RAISE(ABORT, 'a claim is never removed'); END;

-- payment-identifier: the client's own name for a payment, as an Idempotency-Key is for a request.
CREATE TABLE x402_identifiers(
    payer TEXT NOT NULL,
    identifier TEXT NOT NULL,
    body_hash TEXT NOT NULL,
    network TEXT NOT NULL,
    payment TEXT NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    PRIMARY KEY (payer, identifier)
) STRICT, WITHOUT ROWID;
CREATE INDEX x402_identifiers_by_expiry ON x402_identifiers(expires_at_ms);
"""

# A payment that failed and can land no more is nobody's: whoever signs them for nothing must not
# fill the table. What landed, or may land, is never removed.
_DEAD = """
DROP TRIGGER x402_claim_stays;
CREATE TRIGGER x402_claim_stays BEFORE DELETE ON x402_claims
    WHEN OLD.state <> 'failed' OR OLD.look_at_ms IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a claim that may have landed is never removed'); END;
CREATE INDEX x402_claims_dead ON x402_claims(ended_at_ms)
    WHERE state = 'failed' AND look_at_ms IS NULL;
"""

# What a wallet has on its way at once, which its balance must cover: asked with every claim.
_IN_FLIGHT = """
CREATE INDEX x402_claims_in_flight ON x402_claims(network, payer)
    WHERE state IN ('claimed', 'pending');
"""

# What was signed is needed until nobody asks for it again; what it says stays, without its bytes.
_WHOLE = """
ALTER TABLE x402_claims ADD COLUMN is_whole INTEGER NOT NULL DEFAULT 1 CHECK (is_whole IN (0, 1));
CREATE INDEX x402_claims_whole ON x402_claims(ended_at_ms) WHERE state = 'settled' AND is_whole = 1;
DROP TRIGGER x402_settled_is_final;
CREATE TRIGGER x402_settled_is_final BEFORE UPDATE ON x402_claims
    WHEN OLD.state = 'settled' AND (NEW.state <> 'settled'
        OR (OLD.granted IS NOT NULL AND NOT (OLD.is_whole = 1 AND NEW.is_whole = 0))
        OR NEW.granted IS NOT OLD.granted AND OLD.granted IS NOT NULL
        OR NEW.transaction_id <> OLD.transaction_id OR NEW.landed_micro <> OLD.landed_micro
        OR NEW.account <> OLD.account OR NEW.payer <> OLD.payer OR NEW.request <> OLD.request
        OR NEW.body_hash <> OLD.body_hash OR NEW.is_whole > OLD.is_whole)
BEGIN SELECT RAISE(ABORT, 'a settled claim is never changed'); END;
"""

MIGRATIONS: tuple[Migration, ...] = (
    Migration(number=51, room="payments", sql=_TABLES),
    Migration(number=53, room="payments", sql=_DEAD),
    Migration(number=54, room="payments", sql=_IN_FLIGHT),
    Migration(number=56, room="payments", sql=_WHOLE),
)
