"""Every statement of the ledger, each block with the sentence that it stands for.

TigerBeetle's model in SQLite: accounts; balances (credits posted, debits posted, debits pending);
immutable transfers; holds as rows with a state. The balances are moved by triggers only, inside
the one step that adds a transfer or changes a hold, so that no statement can do one without the
other, and so that a unit is few statements (each one hands the GIL over twice).
"""

from __future__ import annotations

from functools import lru_cache

from parhelion.store import Migration

MIGRATIONS = (
    Migration(
        10,
        "ledger",
        """
-- An account is an opaque id. Only `issuance`, where grants come from, may go below zero.
CREATE TABLE accounts(
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    unbounded INTEGER NOT NULL DEFAULT 0 CHECK (unbounded IN (0, 1)),
    opened_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO accounts(id, kind, unbounded, opened_at_ms) VALUES
    ('treasury', 'system', 0, 0),
    ('infrastructure', 'system', 0, 0),
    ('guest', 'system', 0, 0),
    ('issuance', 'system', 1, 0);

-- What an account has of an asset. Nobody checks and then debits: the CHECK refuses.
CREATE TABLE balances(
    account TEXT NOT NULL REFERENCES accounts(id),
    asset TEXT NOT NULL,
    unbounded INTEGER NOT NULL,
    credits_posted INTEGER NOT NULL DEFAULT 0 CHECK (credits_posted >= 0),
    debits_posted INTEGER NOT NULL DEFAULT 0 CHECK (debits_posted >= 0),
    debits_pending INTEGER NOT NULL DEFAULT 0 CHECK (debits_pending >= 0),
    PRIMARY KEY (account, asset),
    CONSTRAINT enough CHECK (unbounded OR credits_posted - debits_posted - debits_pending >= 0)
) STRICT, WITHOUT ROWID;

-- A hold sets credits aside for one request; `rate` and the counts are what recovery bills by.
-- `earlier` lists [operator, accepted ids up to the end of its attempt] of attempts that ended.
CREATE TABLE holds(
    id TEXT PRIMARY KEY,
    request TEXT NOT NULL,
    account TEXT NOT NULL REFERENCES accounts(id),
    key TEXT,
    asset TEXT NOT NULL,
    amount_micro INTEGER NOT NULL CHECK (amount_micro >= 0),
    state TEXT NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'posted', 'voided', 'expired')),
    rate TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    accepted_ids INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0,
    operator TEXT,
    earlier TEXT NOT NULL DEFAULT '[]',
    cost_micro INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    opened_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    closed_at_ms INTEGER,
    CONSTRAINT within_the_hold CHECK (cost_micro BETWEEN 0 AND amount_micro),
    CONSTRAINT closed_when_final CHECK ((state = 'held') = (closed_at_ms IS NULL)),
    CONSTRAINT only_posted_costs CHECK (state = 'posted' OR cost_micro = 0)
) STRICT;
CREATE INDEX holds_open ON holds(expires_at_ms) WHERE state = 'held';
CREATE INDEX holds_opened ON holds(account, opened_at_ms);
CREATE INDEX holds_closed ON holds(account, closed_at_ms) WHERE closed_at_ms IS NOT NULL;

-- A transfer is a fact: one debit, one credit, never changed, so the sum over all is zero.
CREATE TABLE transfers(
    id TEXT PRIMARY KEY,
    debit TEXT NOT NULL REFERENCES accounts(id),
    credit TEXT NOT NULL REFERENCES accounts(id),
    asset TEXT NOT NULL,
    amount_micro INTEGER NOT NULL CHECK (amount_micro > 0),
    kind TEXT NOT NULL,
    role TEXT,
    hold TEXT REFERENCES holds(id),
    at_ms INTEGER NOT NULL,
    memo TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX transfers_credit ON transfers(credit, at_ms);
CREATE INDEX transfers_debit ON transfers(debit, at_ms) WHERE hold IS NULL;
CREATE INDEX transfers_hold ON transfers(hold) WHERE hold IS NOT NULL;

-- Opening a hold sets the credits aside; without a row of that asset there are none.
CREATE TRIGGER hold_opens AFTER INSERT ON holds WHEN NEW.amount_micro > 0
BEGIN
    UPDATE balances SET debits_pending = debits_pending + NEW.amount_micro
        WHERE account = NEW.account AND asset = NEW.asset;
    SELECT RAISE(ABORT, 'enough') WHERE changes() = 0;
END;

-- Leaving `held`, whichever way, gives all of it back; a charge follows as transfers.
CREATE TRIGGER hold_closes AFTER UPDATE OF state ON holds
    WHEN OLD.state = 'held' AND NEW.state <> 'held' AND OLD.amount_micro > 0
BEGIN
    UPDATE balances SET debits_pending = debits_pending - OLD.amount_micro
        WHERE account = OLD.account AND asset = OLD.asset;
END;

-- A final hold is history: it is never changed, and no hold's terms ever are.
CREATE TRIGGER hold_is_final BEFORE UPDATE ON holds WHEN OLD.state <> 'held'
BEGIN SELECT RAISE(ABORT, 'a final hold is never changed'); END;
CREATE TRIGGER hold_keeps_its_terms
    BEFORE UPDATE OF id, request, account, key, asset, amount_micro, rate, prompt_tokens,
        opened_at_ms ON holds
BEGIN SELECT RAISE(ABORT, 'the terms of a hold are never changed'); END;
CREATE TRIGGER hold_stays BEFORE DELETE ON holds
BEGIN SELECT RAISE(ABORT, 'a hold is never removed'); END;

-- A transfer is its two movements. The balances' rows are made by the first one that needs them.
CREATE TRIGGER transfer_moves AFTER INSERT ON transfers
BEGIN
    UPDATE balances SET debits_posted = debits_posted + NEW.amount_micro
        WHERE account = NEW.debit AND asset = NEW.asset;
    INSERT INTO balances(account, asset, unbounded, debits_posted)
        SELECT id, NEW.asset, unbounded, NEW.amount_micro FROM accounts
        WHERE changes() = 0 AND id = NEW.debit;
    UPDATE balances SET credits_posted = credits_posted + NEW.amount_micro
        WHERE account = NEW.credit AND asset = NEW.asset;
    INSERT INTO balances(account, asset, unbounded, credits_posted)
        SELECT id, NEW.asset, unbounded, NEW.amount_micro FROM accounts
        WHERE changes() = 0 AND id = NEW.credit;
END;

-- An operator's account is opened by its first share: earning needs no sign-up.
CREATE TRIGGER share_opens_account BEFORE INSERT ON transfers WHEN NEW.role = 'operator'
BEGIN
    INSERT INTO accounts(id, kind, opened_at_ms) SELECT NEW.credit, 'node', NEW.at_ms
        WHERE NOT EXISTS (SELECT 1 FROM accounts WHERE id = NEW.credit);
END;

CREATE TRIGGER transfer_is_final BEFORE UPDATE ON transfers
BEGIN SELECT RAISE(ABORT, 'a transfer is never changed'); END;
CREATE TRIGGER transfer_stays BEFORE DELETE ON transfers
BEGIN SELECT RAISE(ABORT, 'a transfer is never removed'); END;
""",
    ),
    Migration(
        11,
        "ledger",
        """
-- What was granted or deposited, apart from the shares that an operator earns by the thousand.
CREATE INDEX transfers_received ON transfers(credit, asset, at_ms) WHERE hold IS NULL;
""",
    ),
    Migration(
        12,
        "ledger",
        """
-- The deposits that were made for a key: a key with a limit sees these of its account's, no more.
CREATE TABLE key_deposits(
    key TEXT NOT NULL,
    transfer TEXT NOT NULL REFERENCES transfers(id),
    PRIMARY KEY (key, transfer)
) STRICT, WITHOUT ROWID;

-- A key's own history is found without a walk over its whole account's.
CREATE INDEX holds_of_key ON holds(key, opened_at_ms) WHERE key IS NOT NULL;
CREATE INDEX holds_of_key_closed ON holds(key, closed_at_ms)
    WHERE key IS NOT NULL AND closed_at_ms IS NOT NULL;
""",
    ),
)

# --- changes ----------------------------------------------------------------------------------

# An account is opened once; again changes nothing.
OPEN_ACCOUNT = """
INSERT INTO accounts(id, kind, opened_at_ms) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING
"""

# An account that mirrors a place outside the books: what came from there stands below zero.
OPEN_MIRROR = """
INSERT INTO accounts(id, kind, unbounded, opened_at_ms) VALUES (?, 'chain', 1, ?)
ON CONFLICT (id) DO NOTHING
"""

# A hold is taken: its id follows from the request's, so that a second try finds the first.
HOLD = """
INSERT INTO holds(id, request, account, key, asset, amount_micro, rate, prompt_tokens,
                  opened_at_ms, expires_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

# The journal goes forward only: ids of an older attempt and lower counts change nothing. When an
# attempt ends, who worked on it and how far it came is kept.
JOURNAL = """
UPDATE holds SET
    earlier = CASE WHEN attempt < ?2 AND operator IS NOT NULL
                   THEN json_insert(earlier, '$[#]', json_array(operator, accepted_ids))
                   ELSE earlier END,
    attempt = ?2, accepted_ids = ?3, completion_tokens = ?4, operator = ?5
WHERE id = ?1 AND state = 'held'
  AND (attempt < ?2 OR (attempt = ?2 AND accepted_ids <= ?3 AND completion_tokens <= ?4))
"""

# A hold is posted at its cost, once; more than what was held is refused by its CHECK.
POST = """
UPDATE holds SET state = 'posted', cost_micro = ?2, completion_tokens = ?3, reason = ?4,
                 closed_at_ms = ?5
WHERE id = ?1 AND state = 'held'
"""

# A hold is given back in full.
VOID = """
UPDATE holds SET state = 'voided', reason = ?2, closed_at_ms = ?3 WHERE id = ?1 AND state = 'held'
"""

# A hold that has run out is given back in full; one that has not is left alone.
EXPIRE = """
UPDATE holds SET state = 'expired', reason = 'expired', closed_at_ms = ?2
WHERE id = ?1 AND state = 'held' AND expires_at_ms <= ?2
"""

# Credits come into being (or are granted) by a transfer out of `issuance`.
TRANSFER = """
INSERT INTO transfers(id, debit, credit, asset, amount_micro, kind, role, hold, at_ms, memo)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


@lru_cache(maxsize=64)
def shares_of(legs: int) -> str:
    """The legs of one charge, as one statement: all of them or none."""
    # One row a leg; the payer, asset and request are the hold's own, whatever the caller holds.
    rows = ", ".join(["(?, ?, ?, ?)"] * legs)
    return f"""
INSERT INTO transfers(id, debit, credit, asset, amount_micro, kind, role, hold, at_ms)
SELECT leg.column1, holds.account, leg.column2, holds.asset, leg.column3, 'share', leg.column4,
       holds.id, holds.closed_at_ms
FROM (VALUES {rows}) AS leg, holds WHERE holds.id = ?
"""


# A deposit was made for this key; again changes nothing.
KEY_DEPOSIT = """
INSERT INTO key_deposits(key, transfer) VALUES (?, ?) ON CONFLICT (key, transfer) DO NOTHING
"""

# A whole hold leaves the books for a place outside; as in `shares_of`, payer, asset and amount are
# the hold's own.
WITHDRAW = """
INSERT INTO transfers(id, debit, credit, asset, amount_micro, kind, hold, at_ms, memo)
SELECT ?1, holds.account, ?2, holds.asset, holds.cost_micro, 'withdrawal', holds.id,
       holds.closed_at_ms, ?3
FROM holds WHERE holds.id = ?4
"""


# --- questions --------------------------------------------------------------------------------

_HOLD_COLUMNS = """
id, account, key, asset, amount_micro, state, accepted_ids, attempt, expires_at_ms, request, rate,
prompt_tokens, completion_tokens, operator, earlier, cost_micro, reason, opened_at_ms, closed_at_ms
"""

# One hold by its id.
GET_HOLD = f"SELECT {_HOLD_COLUMNS} FROM holds WHERE id = ?"

# Holds of requests that nothing has closed, oldest first: what a crash may have left. Other kinds
# of holds (`rules.REQUEST`) live longer than a process, and belong to whoever took them.
OPEN_HOLDS = f"""
SELECT {_HOLD_COLUMNS} FROM holds
WHERE state = 'held' AND substr(request, 1, length(?1)) = ?1 ORDER BY opened_at_ms, id
"""

# Holds of other kinds whose time has passed: they are given back.
RUN_OUT = """
SELECT id FROM holds
WHERE state = 'held' AND expires_at_ms <= ?2 AND substr(request, 1, length(?1)) <> ?1
ORDER BY expires_at_ms LIMIT ?3
"""

# One transfer by its id.
GET_TRANSFER = """
SELECT id, at_ms, debit, credit, asset, amount_micro, kind, role, memo FROM transfers WHERE id = ?
"""

# The legs of one request.
TRANSFERS_OF_HOLD = """
SELECT id, at_ms, debit, credit, asset, amount_micro, kind, role, memo
FROM transfers WHERE hold = ? ORDER BY rowid
"""

# Where an account's credits of an asset had come from up to a moment, newest first.
SOURCES = """
SELECT id, at_ms, debit, credit, asset, amount_micro, kind, role, memo
FROM transfers WHERE hold IS NULL AND credit = ? AND asset = ? AND at_ms <= ?
  AND kind IN ('grant', 'deposit')
ORDER BY at_ms DESC, rowid DESC LIMIT ?
"""

# What an account has, by asset.
BALANCES = """
SELECT account, asset, credits_posted - debits_posted - debits_pending, debits_pending
FROM balances WHERE account = ?1 ORDER BY asset
"""
BALANCE = """
SELECT account, asset, credits_posted - debits_posted - debits_pending, debits_pending
FROM balances WHERE account = ?1 AND asset = ?2
"""

# What everybody has, by asset. Whoever is neither the pool itself, a place outside nor a node is a
# user, whatever kind of account identity opens next.
TOTALS = """
SELECT b.asset,
       sum(CASE WHEN a.kind NOT IN ('system', 'chain', 'node')
           THEN b.credits_posted - b.debits_posted ELSE 0 END),
       sum(CASE WHEN a.kind NOT IN ('system', 'chain', 'node') THEN b.debits_pending ELSE 0 END),
       sum(CASE WHEN a.kind = 'node' THEN b.credits_posted - b.debits_posted ELSE 0 END)
FROM balances AS b JOIN accounts AS a ON a.id = b.account GROUP BY b.asset ORDER BY b.asset
"""


# An account's history, newest first. `place` orders the entries of one moment: a hold before its
# charge, the charge before the return. Each branch is cut to the page before they are merged, and
# says what its entries did to what is available and to what is held. `outside` is the account that
# mirrors where a deposit came from, or where a withdrawal went.
def _history(owner: str, received: str) -> str:
    return f"""
WITH
opened AS (
    SELECT id, opened_at_ms AS at_ms, 'hold' AS kind, 2 AS place, asset,
           -amount_micro AS amount_micro, -amount_micro AS available, amount_micro AS held,
           request, '' AS memo, NULL AS outside
    FROM holds WHERE {owner} = ?1 AND opened_at_ms <= ?2
      AND (opened_at_ms, 2, id) < (?2, ?3, ?4)
    ORDER BY opened_at_ms DESC, id DESC LIMIT ?5
),
charged AS (
    SELECT id, closed_at_ms AS at_ms,
           CASE WHEN request LIKE 'wd!_%' ESCAPE '!' THEN 'withdrawal' ELSE 'charge' END AS kind,
           3 AS place, asset,
           -cost_micro AS amount_micro, 0 AS available, -cost_micro AS held,
           request, reason AS memo,
           CASE WHEN request LIKE 'wd!_%' ESCAPE '!'
                THEN (SELECT credit FROM transfers AS w WHERE w.id = holds.id || '.0') END
               AS outside
    FROM holds WHERE {owner} = ?1 AND state = 'posted' AND closed_at_ms <= ?2
      AND (closed_at_ms, 3, id) < (?2, ?3, ?4)
    ORDER BY closed_at_ms DESC, id DESC LIMIT ?5
),
returned AS (
    SELECT id, closed_at_ms AS at_ms,
           CASE state WHEN 'posted' THEN 'return' WHEN 'voided' THEN 'void' ELSE 'expire' END
               AS kind,
           4 AS place, asset, amount_micro - cost_micro AS amount_micro,
           amount_micro - cost_micro AS available, cost_micro - amount_micro AS held,
           request, reason AS memo, NULL AS outside
    FROM holds WHERE {owner} = ?1 AND closed_at_ms <= ?2
      AND (state <> 'posted' OR amount_micro > cost_micro)
      AND (closed_at_ms, 4, id) < (?2, ?3, ?4)
    ORDER BY closed_at_ms DESC, id DESC LIMIT ?5
),
received AS (
    SELECT t.id, t.at_ms, t.kind, 1 AS place, t.asset, t.amount_micro,
           t.amount_micro AS available, 0 AS held, h.request, t.memo,
           CASE t.kind WHEN 'deposit' THEN t.debit END AS outside
    FROM transfers AS t LEFT JOIN holds AS h ON h.id = t.hold
    WHERE {received} AND t.at_ms <= ?2 AND (t.at_ms, 1, t.id) < (?2, ?3, ?4)
    ORDER BY t.at_ms DESC, t.id DESC LIMIT ?5
),
sent AS (
    SELECT id, at_ms, kind, 1 AS place, asset, -amount_micro AS amount_micro,
           -amount_micro AS available, 0 AS held, NULL AS request, memo, NULL AS outside
    FROM transfers WHERE debit = ?1 AND hold IS NULL AND at_ms <= ?2
      AND (at_ms, 1, id) < (?2, ?3, ?4)
    ORDER BY at_ms DESC, id DESC LIMIT ?5
)
SELECT id, at_ms, kind, place, asset, amount_micro, available, held, request, memo, outside
FROM opened
UNION ALL SELECT * FROM charged
UNION ALL SELECT * FROM returned
UNION ALL SELECT * FROM received
UNION ALL SELECT * FROM sent
ORDER BY at_ms DESC, place DESC, id DESC LIMIT ?5
"""


HISTORY = _history("account", "t.credit = ?1")

# The same of one key: its holds and its own deposits. No transfer is sent by a key.
KEY_HISTORY = _history("key", "t.id IN (SELECT transfer FROM key_deposits WHERE key = ?1)")

# Every way the books can be wrong, in one statement, so that it sees one moment.
AUDIT = """
WITH
debits AS (SELECT debit AS account, asset, sum(amount_micro) AS total
           FROM transfers GROUP BY debit, asset),
credits AS (SELECT credit AS account, asset, sum(amount_micro) AS total
            FROM transfers GROUP BY credit, asset),
pending AS (SELECT account, asset, sum(amount_micro) AS total
            FROM holds WHERE state = 'held' AND amount_micro > 0 GROUP BY account, asset),
named AS (SELECT account, asset FROM balances UNION SELECT account, asset FROM debits
          UNION SELECT account, asset FROM credits UNION SELECT account, asset FROM pending),
books AS (
    SELECT named.account, named.asset,
           coalesce(b.credits_posted, 0) AS credits, coalesce(c.total, 0) AS credits_due,
           coalesce(b.debits_posted, 0) AS debits, coalesce(d.total, 0) AS debits_due,
           coalesce(b.debits_pending, 0) AS held, coalesce(p.total, 0) AS held_due
    FROM named
    LEFT JOIN balances AS b ON b.account = named.account AND b.asset = named.asset
    LEFT JOIN credits AS c ON c.account = named.account AND c.asset = named.asset
    LEFT JOIN debits AS d ON d.account = named.account AND d.asset = named.asset
    LEFT JOIN pending AS p ON p.account = named.account AND p.asset = named.asset
),
shared AS (SELECT hold, sum(amount_micro) AS total FROM transfers
           WHERE hold IS NOT NULL GROUP BY hold)
SELECT account || ' ' || asset || ': credits are ' || credits || ', transfers say ' || credits_due
FROM books WHERE credits <> credits_due
UNION ALL
SELECT account || ' ' || asset || ': debits are ' || debits || ', transfers say ' || debits_due
FROM books WHERE debits <> debits_due
UNION ALL
SELECT account || ' ' || asset || ': held is ' || held || ', open holds say ' || held_due
FROM books WHERE held <> held_due
UNION ALL
SELECT account || ' ' || asset || ' is below zero' FROM balances
WHERE NOT unbounded AND credits_posted - debits_posted - debits_pending < 0
UNION ALL
SELECT asset || ': all balances add up to ' || sum(credits_posted - debits_posted) || ', not 0'
FROM balances GROUP BY asset HAVING sum(credits_posted - debits_posted) <> 0
UNION ALL
SELECT holds.id || ': ' || state || ' at a cost of ' || cost_micro || ', its transfers come to '
       || coalesce(shared.total, 0)
FROM holds LEFT JOIN shared ON shared.hold = holds.id
WHERE cost_micro <> coalesce(shared.total, 0)
"""
