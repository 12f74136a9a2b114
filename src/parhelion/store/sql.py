"""Every statement the store itself runs, each with its reason, and its first migration."""

from __future__ import annotations

from parhelion.store.statements import Migration

FACTS_TABLES = """
-- Which migrations this file has seen; `digest` tells an edited migration from the one that ran.
CREATE TABLE IF NOT EXISTS migrations(
    number INTEGER PRIMARY KEY, room TEXT NOT NULL, digest TEXT NOT NULL, at_ms INTEGER NOT NULL
) STRICT;
"""
"""Stands before all migrations, because it is where they are written down."""

MIGRATIONS = (
    Migration(
        1,
        "store",
        """
-- What the file is once and for all: the class of money it holds.
CREATE TABLE facts(name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

-- One row a group commit (see chain.py). AUTOINCREMENT: SQLite keeps the last number elsewhere,
-- so that rows cut off the end are missed.
CREATE TABLE commits(
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    content BLOB NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE TRIGGER commits_stay BEFORE UPDATE ON commits
BEGIN SELECT RAISE(ABORT, 'a commit is never changed'); END;
CREATE TRIGGER commits_remain BEFORE DELETE ON commits
BEGIN SELECT RAISE(ABORT, 'a commit is never removed'); END;
""",
    ),
)

PRAGMAS = (
    # Readers go on while the writer writes; the mode is kept in the file.
    "PRAGMA journal_mode = WAL",
    # An acknowledged unit survives a power cut: fsync of the log at every commit.
    "PRAGMA synchronous = FULL",
    # macOS's fsync leaves the data in the disk's own cache; elsewhere these change nothing.
    "PRAGMA fullfsync = ON",
    "PRAGMA checkpoint_fullfsync = ON",
    "PRAGMA foreign_keys = ON",
    # 16 MB of log before pages move into the file: fewer fsyncs at a bounded recovery time.
    "PRAGMA wal_autocheckpoint = 4096",
    "PRAGMA journal_size_limit = 67108864",
    # Savepoints keep undo copies of pages: in memory they cost half of what a temporary file does.
    "PRAGMA temp_store = MEMORY",
    # 16 MB of pages, so that the hot end of every index stays in memory; twice as much made nothing
    # faster, and the coordinator has 120 MB for all.
    "PRAGMA cache_size = -16384",
)

READER_PRAGMAS = ("PRAGMA query_only = ON", "PRAGMA cache_size = -4096")

BEGIN = "BEGIN IMMEDIATE"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"
# A unit is a savepoint inside the group's transaction.
UNIT = "SAVEPOINT unit"
KEEP_UNIT = "RELEASE unit"
DROP_UNIT = "ROLLBACK TO unit"

HEAD = "SELECT number, at_ms, content, hash FROM commits ORDER BY number DESC LIMIT 1"
ADD_COMMIT = "INSERT INTO commits(number, at_ms, content, hash) VALUES (?, ?, ?, ?)"
COMMITS_AFTER = """
SELECT number, at_ms, content, hash FROM commits WHERE number > ? ORDER BY number LIMIT ?
"""
CUT_OFF = """
SELECT seq FROM sqlite_sequence
WHERE name = 'commits' AND seq > (SELECT coalesce(max(number), 0) FROM commits)
"""
"""The last number SQLite gave, where it is more than the last row's: rows were cut off the end."""

ASSET_CLASS = "SELECT value FROM facts WHERE name = 'asset_class'"
SET_ASSET_CLASS = "INSERT INTO facts(name, value) VALUES ('asset_class', ?)"
APPLIED = "SELECT number, room, digest FROM migrations ORDER BY number"
ADD_MIGRATION = "INSERT INTO migrations(number, room, digest, at_ms) VALUES (?, ?, ?, ?)"
BACKUP = "VACUUM INTO ?"
TRUNCATE_LOG = "PRAGMA wal_checkpoint(TRUNCATE)"
