"""All SQL of the chain's file; each statement with a sentence."""

from __future__ import annotations

SCHEMA_VERSION = 1

PRAGMAS = ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON")
"""A commit is on the disk when it returns: only then is a transaction's hash answered."""

# Trie nodes and code by their hash, never deleted: every state there ever was can be asked.
# `raw` is the transaction as signed. Logs are rows so that a filter is an index, not a scan.
TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS nodes (
  hash BLOB PRIMARY KEY, value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocks (
  number INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, header BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS transactions (
  block INTEGER NOT NULL REFERENCES blocks (number), position INTEGER NOT NULL,
  hash BLOB NOT NULL UNIQUE, raw BLOB NOT NULL,
  status INTEGER NOT NULL CHECK (status IN (0, 1)),
  gas_used INTEGER NOT NULL, cumulative_gas INTEGER NOT NULL, gas_price INTEGER NOT NULL,
  created BLOB, logs INTEGER NOT NULL, first_log INTEGER NOT NULL, bloom BLOB NOT NULL,
  PRIMARY KEY (block, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS logs (
  block INTEGER NOT NULL, position INTEGER NOT NULL, tx_position INTEGER NOT NULL,
  address BLOB NOT NULL, topic0 BLOB, topic1 BLOB, topic2 BLOB, topic3 BLOB, data BLOB NOT NULL,
  PRIMARY KEY (block, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS logs_of_address ON logs (address, block);
CREATE TABLE IF NOT EXISTS pending (
  position INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, raw BLOB NOT NULL
) STRICT;
"""

# What the file says of itself.
FACT = "SELECT value FROM facts WHERE name = ?"
KEEP_FACT = "INSERT INTO facts (name, value) VALUES (?, ?)"

# State.
NODE = "SELECT value FROM nodes WHERE hash = ?"
KEEP_NODE = "INSERT OR IGNORE INTO nodes (hash, value) VALUES (?, ?)"

# Blocks.
HEAD = "SELECT header FROM blocks ORDER BY number DESC LIMIT 1"
BLOCK_BY_NUMBER = "SELECT header FROM blocks WHERE number = ?"
BLOCK_BY_HASH = "SELECT header FROM blocks WHERE hash = ?"
HASHES_BEFORE = "SELECT hash FROM blocks WHERE number < ? ORDER BY number DESC LIMIT 256"
KEEP_BLOCK = "INSERT INTO blocks (number, hash, header) VALUES (?, ?, ?)"

# Transactions with their receipts.
TRANSACTION_COLUMNS = (
    "block, position, hash, raw, status, gas_used, cumulative_gas, gas_price, created, logs,"
    " first_log, bloom"
)
TRANSACTION = f"SELECT {TRANSACTION_COLUMNS} FROM transactions WHERE hash = ?"
TRANSACTIONS_OF = (
    f"SELECT {TRANSACTION_COLUMNS} FROM transactions WHERE block = ? ORDER BY position"
)
KEEP_TRANSACTION = (
    f"INSERT INTO transactions ({TRANSACTION_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)"
)

# Logs; the filter's conditions are appended to LOGS.
LOG_COLUMNS = (
    "logs.block, logs.position, tx_position, address, topic0, topic1, topic2, topic3, data"
)
LOGS_OF = (
    f"SELECT {LOG_COLUMNS} FROM logs WHERE block = ? AND tx_position = ? ORDER BY logs.position"
)
LOGS = (
    f"SELECT {LOG_COLUMNS}, transactions.hash, blocks.hash FROM logs"
    " JOIN transactions ON transactions.block = logs.block"
    " AND transactions.position = logs.tx_position"
    " JOIN blocks ON blocks.number = logs.block"
    " WHERE logs.block BETWEEN ? AND ?"
)
LOGS_ORDER = " ORDER BY logs.block, logs.position LIMIT ?"
KEEP_LOG = (
    "INSERT INTO logs (block, position, tx_position, address, topic0, topic1, topic2, topic3,"
    " data) VALUES (?,?,?,?,?,?,?,?,?)"
)

# What waits for a block, when blocks are not made at once.
PENDING = "SELECT raw FROM pending ORDER BY position"
KEEP_PENDING = "INSERT INTO pending (hash, raw) VALUES (?, ?)"
DROP_PENDING = "DELETE FROM pending WHERE hash = ?"
