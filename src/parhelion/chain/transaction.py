"""A transaction as an explorer shows it, of either family of chains; read, never believed."""

from __future__ import annotations

from enum import StrEnum

from parhelion.words import Record

CHANGES_LIMIT = 100
"""A payment moves two balances; an EVM transaction may log thousands of transfers."""

ERROR_LIMIT_CHARS = 500
"""A chain's words for a failure; the rest of them says nothing more."""


class Misshapen(Exception):
    """The node's answer is not in its chain's shape, or about something else."""


class Standing(StrEnum):
    """How far a transaction is."""

    PENDING = "pending"
    """Known, but not sure yet."""
    FAILED = "failed"
    """On the chain, and it failed: nothing moved but its fee."""
    LANDED = "landed"
    """On the chain, without an error."""


class Change(Record, frozen=True, kw_only=True):
    """What one party gained of one token, in base units; below 0 what it gave.

    `account` is the token account on Solana, where a party may have several.
    """

    owner: str | None
    asset: str
    amount: int
    account: str | None = None


class Transaction(Record, frozen=True, kw_only=True):
    """`block` is Solana's slot; `fee` is in the chain's smallest unit (lamports, wei).

    `omitted` changes beyond the limit are not listed.
    """

    id: str
    standing: Standing
    block: int | None = None
    at_s: int | None = None
    error: str | None = None
    fee: int | None = None
    fee_payer: str | None = None
    changes: tuple[Change, ...] = ()
    omitted: int = 0
