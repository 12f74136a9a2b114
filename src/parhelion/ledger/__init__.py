"""Accounts, holds and transfers: double entry in integers, pure rules, named SQL."""

from __future__ import annotations

from parhelion.ledger.ledger import Ledger
from parhelion.ledger.records import Balance, Entry, Explained, Mark, OpenHold, Transfer
from parhelion.ledger.rules import (
    GUEST,
    INFRASTRUCTURE,
    ISSUANCE,
    LARGEST_AMOUNT_MICRO,
    MIRROR,
    TREASURY,
    Bill,
    HoldEvent,
    HoldState,
    Leg,
    Shares,
    Worked,
    amount_text,
    class_of,
    most_tokens,
    next_state,
    price,
    split,
)
from parhelion.ledger.sql import MIGRATIONS

__all__ = [
    "GUEST",
    "INFRASTRUCTURE",
    "ISSUANCE",
    "LARGEST_AMOUNT_MICRO",
    "MIGRATIONS",
    "MIRROR",
    "TREASURY",
    "Balance",
    "Bill",
    "Entry",
    "Explained",
    "HoldEvent",
    "HoldState",
    "Ledger",
    "Leg",
    "Mark",
    "OpenHold",
    "Shares",
    "Transfer",
    "Worked",
    "amount_text",
    "class_of",
    "most_tokens",
    "next_state",
    "price",
    "split",
]
