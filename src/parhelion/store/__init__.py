"""The one database file and its one writer: group commit, migrations, readers, backup."""

from __future__ import annotations

from parhelion.store.lock import FileLock
from parhelion.store.sql import MIGRATIONS
from parhelion.store.statements import Migration, Refused, Row, SqlValue, Statement
from parhelion.store.store import Store

__all__ = [
    "MIGRATIONS",
    "FileLock",
    "Migration",
    "Refused",
    "Row",
    "SqlValue",
    "Statement",
    "Store",
]
